"""Tokens that are dropped."""

import torch
from unit_kind import UnitKindContract, block_of


class TestTokens(UnitKindContract):
    name = "tokens"
    choices = ("tokens.2=0.75", "tokens.2=0.5", "tokens.2=0.25")
    families = ("vit",)  # short texts have no tokens that may go
    exports = (("vit", 23),)
    more_exports = (("vit", 18),)
    exported = ("tokens.2=0.5",)

    def mask(self, model, family, choice) -> None:
        """The class token stays, and of the patches those with the largest norms."""
        share = dict(choice.level.axes)["keep"] / 1000

        def slice_patches(module, args):
            states = args[0]
            count = int(share * (states.shape[1] - 1))
            chosen = states[:, 1:].norm(dim=-1).topk(count).indices.sort().values + 1
            rows = torch.cat((torch.zeros_like(chosen[:, :1]), chosen), 1)
            return (states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1])), *args[1:])

        block_of(model, family, choice).register_forward_pre_hook(slice_patches)
