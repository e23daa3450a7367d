"""What the parts of a block are by what they do: whether tokens are mixed by scores, by a state or by a convolution.

Attention has a score for every pair of tokens (a softmax). Whatever else mixes tokens is told by the operators that it
runs, and by how far a token reaches. What mixes none is an MLP, or a mixture of experts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pruning.anatomy.contribution import BlockAnatomy, Contribution
from pruning.anatomy.probe import BlockTrace, Call, reaches, run_or_refuse
from pruning.anatomy.roles import is_inside_any, is_within
from search_spaces.kinds import Kind

_STACKED = 3  # dimensions of the matrices of several experts in one tensor
_SKIP = "D"  # what a state space adds of its own input, as in "Mamba" (Gu and Dao, 2023)


class Nature(StrEnum):
    """What a part is.

    Example:
        >>> read_anatomy(model).blocks[0].mlp.natures
        ('moe',)
    """

    ATTENTION = "attention"
    LINEAR_ATTENTION = "linear_attention"
    STATE_SPACE = "state_space"
    CONVOLUTION = "convolution"
    RECURRENCE = "recurrence"
    FIXED_MIXING = "fixed_mixing"
    MLP = "mlp"
    MOE = "moe"


@torch.no_grad()
def name_natures(block: BlockAnatomy, tape: BlockTrace, width: int) -> BlockAnatomy:
    """The block's anatomy with what each of its parts is; one that is several things in one has all their names."""
    parts: Mapping[Kind, Contribution] = {
        kind: replace(part, natures=_find_natures(kind, part, tape, width)) for kind, part in block.parts.items()
    }
    return replace(block, parts=parts)


def _find_natures(kind: Kind, part: Contribution, tape: BlockTrace, width: int) -> tuple[str, ...]:
    if part.members == ("",):  # the block is its only part
        whole = (_name_mixer(tape.block, width), Nature.MOE if _holds_experts(tape.block.module) else Nature.MLP)
        return tuple(str(nature) for nature in whole if nature is not None)
    if kind is Kind.MLP:
        members = [tape.block.module.get_submodule(path) for path in part.members]
        return (str(Nature.MOE if any(map(_holds_experts, members)) else Nature.MLP),)
    calls = list(_list_outermost(tape.list_inner_calls(), part.members))
    found = [nature for call in calls if (nature := _name_mixer(call, width)) is not None]
    return tuple(dict.fromkeys(map(str, found))) or (str(Nature.ATTENTION),)


def _list_outermost(calls: Sequence[Call], members: Sequence[str]) -> Iterator[Call]:
    """The calls of a part's members; where these are not called themselves, of what they hold."""
    paths = [call.path for call in calls if is_inside_any(call.path, members)]
    for call in calls:
        if call.path in paths and not any(call.path != other and is_within(call.path, other) for other in paths):
            yield call


def _name_mixer(call: Call, width: int) -> Nature | None:
    """What a module that mixes tokens is; None where it runs nothing that could."""
    operators = _Operators(call.module)
    with operators:
        run_or_refuse(call.module, *call.args, **call.kwargs)
    if operators.scores:
        return Nature.ATTENTION
    if any(name.rpartition(".")[2] == _SKIP for name, _ in call.module.named_parameters()):
        return Nature.STATE_SPACE
    if operators.products:
        return Nature.LINEAR_ATTENTION
    if not reaches(call, width, first=1):
        return None
    if operators.reach and not reaches(call, width, first=operators.reach + 1):
        return Nature.CONVOLUTION
    return Nature.RECURRENCE if any(True for _ in call.module.parameters()) else Nature.FIXED_MIXING


class _Operators(TorchDispatchMode):
    """What runs in it: softmaxes and fused attentions, products of matrices that are no weights, convolutions.

    `reach` is how many tokens further the convolutions see, all one after another.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.scores = self.products = False
        self.reach = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        self.scores |= "softmax" in name or "logsumexp" in name or "scaled_dot_product" in name
        self.reach += args[1].shape[-1] - 1 if name == "convolution" else 0
        if name in ("bmm", "baddbmm"):
            factors = [each for each in args[-2:] if isinstance(each, Tensor)]
            self.products |= not any(each.untyped_storage().data_ptr() in self.weights for each in factors)
        return func(*args, **(kwargs or {}))


def _holds_experts(module: nn.Module) -> bool:
    """Whether weights are stacked of several matrices of one form, or a list holds several modules of one form."""
    return any(_is_stack(each) or _is_bank(each) for each in module.modules())


def _is_stack(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.conv._ConvNd):
        return False
    own = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == _STACKED]
    return any(min(parameter.shape) > 1 for parameter in own)


def _is_bank(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) < 2:  # one is no choice
        return False
    forms = {tuple(parameter.shape for parameter in each.parameters()) for each in module}
    return len(forms) == 1 and any(len(shape) > 1 for shape in next(iter(forms)))
