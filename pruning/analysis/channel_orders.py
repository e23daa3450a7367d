"""The order in which the inputs of a parent's projections are kept: found out in one pass over calibration items."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.analysis.criteria import CRITERIA, ActivationNorm, BrainSurgeon, Criterion, Scoring
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.alignment import TokenAlignment
from pruning.compensation.method import LARGEST_GRAM
from pruning.compensation.streams import run_trunk
from pruning.inference.device import choose_sum_device
from pruning.kinds import SURGERIES
from pruning.surgery.channel_order import ChannelOrder, Cut, Order, get_channel_order, keep_channel_order
from pruning.surgery.linear import get_weight_matrix
from search_spaces.unit import Choice, list_kinds

DEFAULT_CRITERION = BrainSurgeon.name


@torch.no_grad()
def order_channels(
    model: Any, anatomy: Anatomy, inputs: Mapping[str, Tensor], criterion: str = DEFAULT_CRITERION
) -> None:
    """Order what a level may cut, inputs of projections and experts, and keep the orders on the parent's modules.

    What is pruned from the parent from then on is cut by them. Inputs too wide for a Gram matrix are ordered by their
    activation norms.

    Args:
        model: the parent; its modules get the orders, and nothing else changes.
        inputs: keyword inputs of the model, a few calibration items, which run as one batch.
        criterion: a name in `CRITERIA`.

    Example:
        >>> order_channels(model, read_anatomy(model), {"input_ids": torch.arange(64)[None]})
    """
    tokens, batch = TokenAlignment.of(model, inputs), len(next(iter(inputs.values())))

    def order_at(cut: Cut) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            count = math.prod(args[0].shape[:-1])
            marked = tokens.mark_real_rows(batch, count // batch)
            real = marked if len(marked) == count else torch.ones(count, dtype=torch.bool)
            order = (cut.order or _order_inputs(cut, criterion))(module, args, real)
            if order is not None:
                keep_channel_order(module, order)

        return hook

    handles = [
        module.register_forward_pre_hook(order_at(cut))
        for module, cut in find_cut_modules(model, anatomy, anatomy.choices).values()
    ]
    try:
        run_trunk(model, anatomy, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _order_inputs(cut: Cut, criterion: str) -> Order:
    """Orders the inputs of a projection that a cut is about."""

    def order(module: nn.Module, args: tuple[Any, ...], real: Tensor) -> ChannelOrder:
        rows = args[0].reshape(-1, args[0].shape[-1])[real]
        rows = rows.to(choose_sum_device(rows.device))
        chosen = _choose(CRITERIA[criterion], rows.shape[1])
        weight = get_weight_matrix(module).to(rows.device)
        scores = chosen.score(rows, weight).cpu() if isinstance(chosen, Scoring) else None
        return ChannelOrder(chosen.rank(rows, weight, cut.size).cpu(), chosen.name, scores)

    return order


def copy_channel_orders(model: Any, other: Any) -> None:
    """Give the modules of another copy of a parent the orders of this one's."""
    others = dict(other.named_modules())
    for path, module in model.named_modules():
        if (order := get_channel_order(module)) is not None:
            keep_channel_order(others[path], order)


def compute_orders_digest(model: Any) -> str:
    """Eight hexadecimal digits that name the orders on the modules of a parent; empty where there are none."""
    hashed, found = hashlib.sha256(), False
    for path, module in model.named_modules():
        if (order := get_channel_order(module)) is not None:
            hashed.update(path.encode() + order.groups.numpy().tobytes())
            found = True
    return hashed.hexdigest()[:8] if found else ""


def find_cut_modules(
    model: Any, anatomy: Anatomy, choices: Iterable[Choice]
) -> dict[tuple[int, str], tuple[nn.Module, Cut]]:
    """The projections of a parent whose inputs any of these choices cuts, by layer and path within the block."""
    found: dict[tuple[int, str], tuple[nn.Module, Cut]] = {}
    for layer, name in sorted({(choice.layer, name) for choice in choices for name in list_kinds(choice)}):
        holder, place = anatomy.get_place(model, layer)
        cut = SURGERIES[name].find_cut(holder, place)
        if cut is not None:
            found[layer, cut.path] = (holder.get_submodule(cut.path), cut)
    return found


def _choose(criterion: Criterion, width: int) -> Criterion:
    return ActivationNorm() if width**2 * torch.float64.itemsize > LARGEST_GRAM else criterion
