"""Which neurons, heads and experts a search keeps of a part: found out once for a parent, and written down.

The orders are kept with what else is known of the parent's weights, so that every search, resumed or of another budget,
cuts alike. What was cut out of a winner is in its folder.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nas.data.dataset import Split
from nas.parent.parent import ParentModel
from nas.pipeline.compensation import pick_items
from nas.progress import Progress
from nas.search.channels import Channels
from pruning.analysis.channel_orders import DEFAULT_CRITERION, copy_channel_orders, find_cut_modules, order_channels
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.candidate_builder import compute_digest
from pruning.surgery.channel_order import ChannelOrder, get_channel_order, keep_channel_order
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit

CHANNELS = "channels.json"  # in a winner's folder
_REVISION = 1  # of how they are found out
_ITEMS = 32  # of the calibration split, at most
_SCORES = "/scores"  # behind the name of an order in the cache: what its inputs count


def order_parent_channels(
    space: Space, parent: ParentModel, calibration: Split, progress: Progress, criterion: str = DEFAULT_CRITERION
) -> None:
    """Keep on a parent's modules the orders by which candidates of a space are cut, where it has such candidates.

    Args:
        calibration: the items that are looked at, the first time.
        criterion: by which inputs of projections are ordered.
    """
    if not find_cut_modules(parent.model, parent.anatomy, space.choices):
        return
    inputs = pick_items(calibration, _ITEMS)
    path = parent.cache / f"channel-orders-{criterion}{_REVISION}-{compute_digest(inputs)}.safetensors"
    if not _restore(path, parent):
        with progress.open_stage("ordering neurons, heads and experts"):
            order_channels(parent.placed, parent.anatomy, inputs, criterion)
        _keep(path, parent)
    copy_channel_orders(parent.placed, parent.model)


def list_channels(model: Any, anatomy: Anatomy, choices: Iterable[Choice]) -> tuple[Channels, ...]:
    """What counts of the inputs of every projection that any of these choices cuts, where the order says so.

    Args:
        model: the parent, with the orders on its modules.
    """
    found: dict[tuple[Unit, str], Channels] = {}
    for choice in sorted(choices):
        for module, cut in find_cut_modules(model, anatomy, [choice]).values():
            order, (axis, _) = get_channel_order(module), choice.level.axes[0]
            if order is not None and order.scores is not None:
                found[choice.unit, axis] = Channels(choice.unit, axis, tuple(order.scores.tolist()), cut.size)
    return tuple(found.values())


def describe_orders(model: Any, anatomy: Anatomy, architecture: Architecture) -> dict[str, Any] | None:
    """The orders by which an architecture is cut out of a parent, so that it can be again; None where there are none.

    Args:
        model: the parent, with the orders on its modules.
    """
    cut = find_cut_modules(model, anatomy, architecture.choices).items()
    orders = [(place, order) for place, (module, _) in cut if (order := get_channel_order(module)) is not None]
    projections = [
        {"layer": layer, "path": path, "criterion": order.criterion, "order": order.groups.tolist()}
        for (layer, path), order in orders
    ]
    return {"schema_version": 1, "projections": projections} if projections else None


def restore_orders(model: Any, anatomy: Anatomy, file: Path) -> None:
    """Give the modules of a parent the orders by which a winner was cut out of it, from the file in its folder.

    Raises:
        UsageError: the file is damaged, or another parent's.
    """
    known = {place: module for place, (module, _) in find_cut_modules(model, anatomy, anatomy.choices).items()}
    try:
        for each in json.loads(file.read_text())["projections"]:
            order = ChannelOrder(torch.tensor(each["order"]), each["criterion"])
            keep_channel_order(known[each["layer"], each["path"]], order)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not of this parent ({error!r}); take it from the folder of the winner") from None


def _restore(path: Path, parent: ParentModel) -> bool:
    """Whether the orders were known, and are now on the parent's modules."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known = {
                name: ChannelOrder(tensors[name], criterion, tensors.get(f"{name}{_SCORES}"))
                for name, criterion in file.metadata().items()
            }
    except (OSError, SafetensorError):
        return False
    modules = _name_cut_modules(parent)
    if not modules.keys() <= known.keys():
        return False
    for name, module in modules.items():
        keep_channel_order(module, known[name])
    return True


def _keep(path: Path, parent: ParentModel) -> None:
    """Write the orders down, at once: another search may read them."""
    named = ((name, get_channel_order(module)) for name, module in _name_cut_modules(parent).items())
    orders = {name: order for name, order in named if order is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    criteria = {name: order.criterion for name, order in orders.items()}
    tensors = {name: order.groups.contiguous() for name, order in orders.items()}
    tensors |= {f"{name}{_SCORES}": order.scores for name, order in orders.items() if order.scores is not None}
    save_file(tensors, draft, criteria)
    draft.replace(path)


def _name_cut_modules(parent: ParentModel) -> dict[str, nn.Module]:
    cut = find_cut_modules(parent.placed, parent.anatomy, parent.anatomy.choices)
    return {f"{layer}.{path}": module for (layer, path), (module, _) in cut.items()}
