"""What the modules of a block are, by their weights and by what they compute: matrices, norms, scales."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.anatomy.probe import Call


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal up to the rounding of the model's own precision."""
    if one is None or other is None or one.shape != other.shape:
        return False
    scale = other.float().abs().max()
    return bool((one.float() - other.float()).abs().max() <= 200 * torch.finfo(other.dtype).eps * scale)


def has_matrix(module: nn.Module) -> bool:
    """Whether it holds weights other than vectors."""
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def is_vector(module: nn.Module) -> bool:
    """A norm or a scale: it has parameters and none of them is a matrix."""
    parameters = list(module.parameters())
    return bool(parameters) and not has_matrix(module)


def is_norm(module: nn.Module) -> bool:
    """A vector module that is not linear in its input."""
    if not is_vector(module):
        return False
    parameter = next(module.parameters())
    count = 2 * parameter.shape[-1]
    probe = torch.arange(count, dtype=parameter.dtype, device=parameter.device).sin().view(1, 2, -1)
    try:
        with torch.no_grad():
            return not is_same(module(2 * probe), 2 * module(probe))
    except (TypeError, RuntimeError, ValueError, AttributeError):  # it takes more than what it norms
        return False


def find_outermost(calls: Sequence[Call]) -> Call | None:
    """The one that is least deep in the block."""
    return min(calls, key=lambda call: call.path.count("."), default=None)


def is_within(path: str, root: str) -> bool:
    """Whether a path is that of a module or of what it holds."""
    return path == root or path.startswith(f"{root}.")


def is_inside_any(path: str, roots: Sequence[str]) -> bool:
    """Whether a path lies in one of several modules."""
    return any(is_within(path, root) for root in roots)


def holds_any(path: str, others: Sequence[str]) -> bool:
    """Whether one of several modules lies in that of a path."""
    return any(is_within(other, path) for other in others)


def find_free_members(block: nn.Module, called: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """The outermost modules with matrices that run and that nothing taken lies in or holds.

    Args:
        called: paths of the modules that ran.
        taken: paths of the modules that belong to something already.
    """
    members = [
        path
        for path, module in block.named_modules()
        if path and has_matrix(module) and not is_inside_any(path, taken) and not holds_any(path, taken)
    ]
    running = [path for path in members if any(is_within(each, path) for each in called)]
    return tuple(path for path in running if not any(is_within(path, other) for other in running if other != path))
