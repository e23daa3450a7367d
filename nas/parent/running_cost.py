"""What running a parent takes here, found out before anything is run on all items: memory, and seconds for an item."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from nas.data.dataset import Split
from nas.parent.parent import ParentModel
from pruning.inference.residency import is_streamed, read_free_memory
from search_spaces.errors import UsageError

LARGE = 1 << 30  # bytes of weights: of a larger model only one block is timed
_ITEMS = 4  # of one look
_PROGRAM = 1 << 30  # bytes: the program itself, and one batch on its way through a block
_TRIED = 3  # copies of a block in float32 while the model is read: with random weights, and its matrices in formats
_FLOAT = 4  # bytes
_BLOCKS = 3  # that are in memory where blocks are streamed: one runs, one is widened, one comes


@torch.inference_mode()
def measure_item_seconds(parent: ParentModel, split: Split) -> float:
    """Seconds that the parent takes for an item here: the second look, as the first one pays for beginning.

    Of a large model the first block is timed, and the others and the head are taken to cost as much for each weight.
    """
    if count_bytes(parent.placed) <= LARGE:
        batch = next(split.iterate_batches(_ITEMS))
        return min(_time(parent.placed, batch) for _ in range(2)) / len(next(iter(batch.values())))
    batch = next(split.iterate_batches(1))
    blocks: nn.ModuleList = parent.placed.get_submodule(parent.anatomy.stack)
    head = parent.placed.get_output_embeddings() if hasattr(parent.placed, "get_output_embeddings") else None
    used = sum(map(_count_weights, blocks)) + (0 if head is None else _count_weights(head))
    return min(_time_block(parent.placed, blocks[0], batch) for _ in range(2)) * used / _count_weights(blocks[0])


def estimate_peak_bytes(parent: ParentModel, states: int) -> int:
    """The most memory that the parent takes here: when it is read, or when it or its candidates are evaluated.

    Args:
        states: bytes of states that are kept of many items.
    """
    stack = parent.model.get_submodule(parent.anatomy.stack)
    blocks, whole = [count_bytes(block) for block in stack], count_bytes(parent.model)
    held = _BLOCKS * max(blocks) + (whole - sum(blocks)) if is_streamed(parent.model) else whole
    return held + max(states, _TRIED * _FLOAT * max(map(_count_weights, stack))) + _PROGRAM


def check_memory(parent: ParentModel, states: int) -> None:
    """Refuse to begin what does not fit.

    Args:
        states: as `estimate_peak_bytes`.

    Raises:
        UsageError: more is needed than is free; it says what to do.
    """
    needed, free = estimate_peak_bytes(parent, states), read_free_memory()
    if parent.device.type != "cpu" or needed <= free:
        return
    streamed = is_streamed(parent.model)
    repair = "take a smaller --prefix-cache, or a machine with more" if streamed else "take --stream always"
    sizes = f"{needed / 2**30:.1f} GiB of memory here, and {free / 2**30:.1f} GiB are free"
    raise UsageError(f"{parent.id} needs about {sizes}; {repair}")


def count_bytes(model: nn.Module) -> int:
    """Of a model's weights, as they are stored; what several modules share counts once."""
    return sum(tensor.nbytes for tensor in model.parameters())


def _count_weights(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def _time(model: Any, batch: dict[str, Tensor]) -> float:
    began = time.monotonic()
    model(**batch)
    return time.monotonic() - began


class _Ended(Exception):
    """The block that is timed has run."""


def _time_block(model: Any, block: nn.Module, batch: dict[str, Tensor]) -> float:
    """Seconds of a block's call; the rest of the model is not run."""
    times: list[float] = []

    def begin(*_: Any) -> None:
        times.append(time.monotonic())

    def end(*_: Any) -> None:
        times.append(time.monotonic())
        raise _Ended

    handles = [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    try:
        model(**batch)
    except _Ended:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return times[1] - times[0]
