"""Blocks that are dropped."""

from unit_kind import UnitKindContract, block_of


class TestBlock(UnitKindContract):
    name = "block"
    choices = ("block.1",)

    def mask(self, model, family, choice) -> None:
        """No zero takes the norms of post-norm blocks away: what goes in comes out."""
        block_of(model, family, choice).register_forward_hook(lambda module, args, output: args[0])
