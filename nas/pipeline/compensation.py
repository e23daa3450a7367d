"""With which items of the calibration split candidates are adjusted."""

import torch
from torch import Tensor

from nas.data.dataset import Dataset, Split
from nas.parent.parent import ParentModel
from nas.quality.evaluator import Evaluator
from nas.quality.precision import Precision
from nas.request.choices import OFF
from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.part import get_token_mask
from pruning.compensation.candidate_builder import CompensationPlan
from pruning.compensation.sites import Point
from pruning.compensation.streams import record_streams

WINDOWS = 96  # of a language model's text, for candidates that are left; 49,152 tokens where windows have 512
DRAFT_TOKENS = 2048  # for candidates while they are many (docs/compensation.md: Drafts)
STREAM_BYTES = 2 << 30  # that the parent's residual stream over the calibration items may take


def plan_compensation(
    parent: ParentModel, evaluator: Evaluator, method: str, precision: Precision = Precision.FP32
) -> CompensationPlan | None:
    """How candidates of a parent are adjusted; None where they are not.

    Args:
        evaluator: of the candidates; its data are of the form that they are judged on.
        method: a name in `pruning.compensation.METHODS`, or `off`.
        precision: of the products in the passes over calibration items.
    """
    if method == OFF:
        return None
    split = _choose_calibration(parent, evaluator.dataset)
    tokens = _count_tokens(parent, split)
    max_items = max(1, int(len(split) * min(1.0, _compute_max_tokens(parent.anatomy) / tokens)))
    final = pick_items(split, max_items)
    draft = pick_items(split, max(1, min(max_items, round(len(split) * DRAFT_TOKENS / tokens))))
    return CompensationPlan(method, draft, final, precision is Precision.BF16)


def pick_items(split: Split, count: int) -> dict[str, Tensor]:
    """The inputs of `count` items, evenly spaced."""
    chosen = torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()
    rows = {name: len(tensor) // len(split) for name, tensor in split.inputs.items()}
    return {
        name: tensor.reshape(len(split), rows[name], *tensor.shape[1:])[chosen].flatten(0, 1)
        for name, tensor in split.inputs.items()
    }


def _choose_calibration(parent: ParentModel, dataset: Dataset) -> Split:
    """The calibration split that candidates are judged like; of a language model's plain text more of it."""
    plain = dataset is parent.dataset and parent.is_language_model and set(dataset.calibration.inputs) == {"input_ids"}
    return parent.load_more_calibration(WINDOWS) if plain else dataset.calibration


def _count_tokens(parent: ParentModel, split: Split) -> int:
    """Those of all items that are no padding; how many an item has is seen in the parent's own stream."""
    stream = record_streams(parent.placed, parent.anatomy, pick_items(split, 1), {Point(0)}).at[Point(0)]
    mask = get_token_mask(parent.model, split.inputs)
    padded = mask is not None and mask.shape[1] == stream.shape[1]
    return int(mask.sum()) if mask is not None and padded else len(split) * stream.shape[1]


def _compute_max_tokens(anatomy: Anatomy) -> int:
    points = len(anatomy.parts) * anatomy.depth + 1
    return STREAM_BYTES // (points * anatomy.hidden_size * torch.float32.itemsize)
