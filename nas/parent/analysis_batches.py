"""The calibration items as a parent's redundancy is measured on them: as many at a time as leaves its streams small."""

from torch import Tensor

from nas.data.dataset import Split
from nas.parent.parent import ParentModel

LARGEST = 4  # items at a time
STREAM_BYTES = 128 << 20  # that the streams of one batch may take, which are compared with each other
_FLOAT = 4  # bytes


def list_analysis_batches(parent: ParentModel, split: Split | None = None) -> list[dict[str, Tensor]]:
    """Keyword inputs of the model; every block's input of a batch is in memory at once.

    Args:
        split: of the parent's data; None for all calibration items.
    """
    split = split or parent.dataset.calibration
    tokens = parent.shape.tokens or next(iter(split.inputs.values())).shape[1]
    item = (parent.anatomy.depth + 1) * tokens * parent.anatomy.hidden_size * _FLOAT
    return list(split.iterate_batches(max(1, min(LARGEST, STREAM_BYTES // item))))
