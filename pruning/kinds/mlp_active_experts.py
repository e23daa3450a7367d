"""Fewer experts for each token: the router sends it to the likeliest of as many, all of which stay.

What weighs them is normalised over those that are chosen as the family does it.
"""

from contextlib import suppress

import torch
from torch import nn

from pruning.anatomy.agreement import get_first_output
from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call
from pruning.kinds.mixture import Mixture, find_mixture
from pruning.kinds.surgery import Surgery
from pruning.surgery.replacement import replace_modules
from search_spaces.kinds.mlp_active_experts import KIND
from search_spaces.kinds.mlp_experts import count_experts
from search_spaces.level import Level
from search_spaces.unit import Choice

OFFERED = (750, 500, 250)  # thousandths of the experts of a token that a search may keep
_CHECKED = "only what a block can have is chosen for it"


class _FewerActive(Surgery):
    @torch.no_grad()
    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """Those that leave fewer, where the experts are then called with as many for each token."""
        mixture = find_mixture(call.module, anatomy)
        if mixture is None:
            return ()
        counts = {count_experts(mixture.active, value): value for value in reversed(OFFERED)}
        left = {count: Level.on(KIND.axis, value) for count, value in counts.items() if count < mixture.active}
        return tuple(level for count, level in left.items() if _sends_to(call, anatomy, mixture, level, count))

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The mixture with other numbers in its router; all weights are the parent's."""
        mixture = find_mixture(block, anatomy)
        assert mixture is not None, _CHECKED
        root = copy_module(block.get_submodule(mixture.root), share_tensors=True)
        set_active(root, mixture, dict(level.axes)[KIND.axis])
        return {mixture.root: root}


def set_active(root: nn.Module, mixture: Mixture, value: int) -> None:
    """Let a mixture send each token to `value` thousandths of as many experts, in place."""
    active = count_experts(mixture.active, value)
    for module in (root, root.get_submodule(mixture.router)):
        for name in mixture.list_active_names(module):
            setattr(module, name, active)


def _sends_to(call: Call, anatomy: BlockAnatomy, mixture: Mixture, level: Level, count: int) -> bool:
    """Whether every token is sent to so many experts, and the outcome is another."""
    fewer, seen = copy_module(call.module, share_tensors=True), list[int]()
    replace_modules(fewer, SURGERY.build_modules(call.module, anatomy, level, ()))
    experts = fewer.get_submodule(f"{mixture.root}.{mixture.experts}")
    experts.register_forward_pre_hook(lambda module, args: seen.extend(each.shape[-1] for each in args[1:]))
    with suppress(Exception):  # a family's own code, with a number that it did not foresee
        outcome = get_first_output(fewer(*call.args, **call.kwargs))
        whole = get_first_output(call.module(*call.args, **call.kwargs))
        return set(seen) == {count} and bool(outcome.isfinite().all()) and not torch.equal(outcome, whole)
    return False


SURGERY = _FewerActive()
