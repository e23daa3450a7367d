"""Fewer experts: of a mixture some are cut out, with their rows of the router.

They go in the order that is kept on the module of the experts (`pruning.analysis.channel_orders`); where there is none,
those with the smallest weights go first. A token goes through as many experts as before, and what weighs them is
normalised over those that are left as the family does it.
"""

import torch
from torch import Tensor, nn

from pruning.analysis.expert_saliency import order_experts
from pruning.anatomy.agreement import describe_difference, get_first_output
from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call, run_or_refuse
from pruning.kinds.mixture import Mixture, find_mixture
from pruning.kinds.mlp_active_experts import set_active
from pruning.kinds.surgery import Surgery
from pruning.surgery.channel_order import ChannelOrder, Cut, get_channel_order
from pruning.surgery.replacement import replace_modules
from search_spaces.kinds.mlp_active_experts import KIND as ACTIVE
from search_spaces.kinds.mlp_experts import KIND, count_experts
from search_spaces.level import Level
from search_spaces.unit import Choice

OFFERED = (750, 500, 250)  # thousandths of the experts that a search may keep
_NEVER = -1e4  # a score with which no token is sent to an expert
_CHECKED = "only what a block can have is chosen for it"


class _FewerExperts(Surgery):
    @torch.no_grad()
    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """Those that leave as many experts as a token is sent to, where the block computes then what it does if no
        token is sent to the others."""
        mixture = find_mixture(call.module, anatomy)
        if mixture is None:
            return ()
        counts = {count_experts(mixture.count, value): value for value in reversed(OFFERED)}
        left = [value for count, value in counts.items() if mixture.active <= count < mixture.count]
        levels = (Level.on(KIND.axis, value) for value in left)
        return tuple(level for level in levels if _agrees(call, anatomy, mixture, level))

    @torch.no_grad()
    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The mixture without the experts that are needed least; all that it has besides is the parent's."""
        mixture = find_mixture(block, anatomy)
        assert mixture is not None, _CHECKED
        kept = _find_kept(block, mixture, level)
        root = copy_module(block.get_submodule(mixture.root), share_tensors=True)
        for module in (root, root.get_submodule(mixture.experts), root.get_submodule(mixture.router)):
            _keep_experts(module, mixture, kept)
        active = level.get_value(ACTIVE.axis)
        if active is not None:  # the other kind's own copy has all experts
            set_active(root, mixture, active)
        return {mixture.root: root}

    def find_cut(self, block: nn.Module, anatomy: BlockAnatomy) -> Cut | None:
        """The experts, which are ranked by what they are called with."""
        mixture = find_mixture(block, anatomy)
        return None if mixture is None else Cut(f"{mixture.root}.{mixture.experts}", order=order_experts)

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        """All weights of the experts that are gone."""
        mixture = find_mixture(block, anatomy)
        assert mixture is not None, _CHECKED
        root = block.get_submodule(mixture.root)
        modules = (root.get_submodule(path) for path in (mixture.experts, mixture.router))
        sized = sum(
            tensor.numel()
            for module in modules
            for tensor in _list_sized(module, mixture).values()
            if isinstance(tensor, nn.Parameter)
        )
        return sized // mixture.count * (mixture.count - _count_kept(mixture, level))


def _keep_experts(module: nn.Module, mixture: Mixture, kept: Tensor) -> None:
    """Leave only these experts in a module's own tensors and numbers, in place."""
    for name, tensor in _list_sized(module, mixture).items():
        rows = tensor.detach()[kept]
        if isinstance(tensor, nn.Parameter):
            module._parameters[name] = nn.Parameter(rows, tensor.requires_grad)
        else:
            module._buffers[name] = rows
    for name, value in vars(module).items():
        if type(value) is int and value == mixture.count and "expert" in name:
            setattr(module, name, len(kept))


def _list_sized(module: nn.Module, mixture: Mixture) -> dict[str, Tensor]:
    """A module's own tensors that have a row, or a matrix, for each expert."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: tensor for name, tensor in own if mixture.is_sized(tensor)}


def _find_kept(block: nn.Module, mixture: Mixture, level: Level) -> Tensor:
    """Indices, rising, of the experts that stay."""
    experts = block.get_submodule(f"{mixture.root}.{mixture.experts}")
    order = get_channel_order(experts) or _order_by_weights(experts)
    return order.list_kept(_count_kept(mixture, level))


def _order_by_weights(experts: nn.Module) -> ChannelOrder:
    """The experts with the largest weights first; of equal ones those that come first."""
    squares = [each.detach().float().square().flatten(1).sum(1) for each in experts.parameters(recurse=False)]
    sizes = torch.stack([each for each in squares if each.ndim]).sum(0)
    return ChannelOrder(sizes.sort(descending=True, stable=True).indices.cpu(), "weights")


def _count_kept(mixture: Mixture, level: Level) -> int:
    return count_experts(mixture.count, dict(level.axes)[KIND.axis])


def _agrees(call: Call, anatomy: BlockAnatomy, mixture: Mixture, level: Level) -> bool:
    """Whether a block with fewer experts computes what the whole one does if no token is sent to the others.

    The router is given rows for them with which every token of the example has a score that is never chosen.
    """
    seen: list[Tensor] = []
    masked = copy_module(call.module, share_tensors=True)
    router = masked.get_submodule(f"{mixture.root}.{mixture.router}")
    handle = router.register_forward_pre_hook(lambda module, args: seen.extend(args[:1]))
    run_or_refuse(masked, *call.args, **call.kwargs)
    handle.remove()
    if not seen:
        return False  # its weights are used without calling it
    tokens = seen[0].reshape(-1, seen[0].shape[-1])
    silent = torch.linalg.lstsq(tokens.double(), torch.full((len(tokens), 1), _NEVER, dtype=torch.float64)).solution
    weight = router.get_parameter("weight").detach().clone()
    gone = torch.ones(mixture.count, dtype=torch.bool)
    gone[_find_kept(call.module, mixture, level)] = False
    weight[gone] = silent.T.to(weight.dtype)
    router._parameters["weight"] = nn.Parameter(weight, False)
    expected = get_first_output(run_or_refuse(masked, *call.args, **call.kwargs))
    fewer = copy_module(call.module, share_tensors=True)
    replace_modules(fewer, SURGERY.build_modules(call.module, anatomy, level, ()))
    return describe_difference(lambda: fewer(*call.args, **call.kwargs), expected) is None


SURGERY = _FewerExperts()
