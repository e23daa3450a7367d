"""The calibration items as a parent's redundancy is measured on them: how many run at a time, and how many together."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from nas.data.dataset import Split
from nas.parent.parent import ParentModel
from pruning.analysis.traversal import ObservedBatch
from pruning.inference.residency import is_streamed

LARGEST = 4  # items at a time
STREAM_BYTES = 128 << 20  # that the streams of one batch may take, which are compared with each other
STATE_BYTES = 512 << 20  # that the states of batches may take which are together between two blocks
DISK_BYTES = 16 << 30  # that their streams may take on disk
_FLOAT = 4  # bytes


def list_analysis_batches(parent: ParentModel, split: Split | None = None) -> list[dict[str, Tensor]]:
    """Keyword inputs of the model; every block's input of a batch is in memory at once.

    Args:
        split: of the parent's data; None for all calibration items.
    """
    split = split or parent.dataset.calibration
    streams = (parent.anatomy.depth + 1) * _count_state_bytes(parent, split.inputs)
    return list(split.iterate_batches(max(1, min(LARGEST, STREAM_BYTES // streams))))


def group_observed_batches(parent: ParentModel, observed: Iterable[ObservedBatch]) -> list[list[ObservedBatch]]:
    """In groups that are taken through each block together: as many as memory and disk are to hold."""
    room = min(STATE_BYTES, DISK_BYTES // (parent.anatomy.depth + 1))
    groups: list[list[ObservedBatch]] = [[]]
    taken = 0
    for batch in observed:
        size = len(next(iter(batch.inputs.values()))) * _count_state_bytes(parent, batch.inputs)
        if groups[-1] and taken + size > room:
            groups.append([])
            taken = 0
        groups[-1].append(batch)
        taken += size
    return groups


def estimate_state_bytes(parent: ParentModel) -> int:
    """The most memory that the states of an analysis take: those of a batch between all blocks, and where the model is
    streamed, those of all batches between two."""
    split = parent.dataset.calibration
    item = _count_state_bytes(parent, split.inputs)
    one = max(STREAM_BYTES, (parent.anatomy.depth + 1) * item)
    return one + min(STATE_BYTES, 2 * len(split) * item) if is_streamed(parent.placed) else one


def _count_state_bytes(parent: ParentModel, inputs: Mapping[str, Tensor]) -> int:
    """Of one item between two blocks."""
    decoded = inputs.get("decoder_input_ids") if parent.anatomy.is_decoder else None
    tokens = parent.shape.tokens or (next(iter(inputs.values())) if decoded is None else decoded).shape[1]
    return int(tokens) * parent.anatomy.hidden_size * _FLOAT
