"""The attention that one query gives to every token, recomputed from a block's input."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pruning.reduction.projections import Projections, Rotary
from pruning.reduction.scores import compute_attention_weights
from search_spaces.errors import UnreadableModel
from search_spaces.schedule import Scorer


def query_attention(
    projections: Projections,
    scorer: Scorer,
    hidden: Tensor,
    valid: Tensor | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    """What each token receives from the last valid token, the first one, or the query of the mean of all.

    As a reduction ranks, but for windows: there a token outside of the asking one's window receives nothing.

    Args:
        projections: of the block's attention.
        scorer: last, class or mean.
        hidden: (B, N, H), states that enter the block.
        valid: (B, N) bool, tokens that are no padding; None where all are.
        args: what the block is given by place; its mask of queries and keys says what a sliding window hides.
        kwargs: what it is given by name, rotary tables among it.

    Returns:
        (B, N) float32; rows sum to one.
    """
    normed = projections.normalise(hidden)
    rotary = _find_rotary(kwargs)
    keys = projections.project_keys(normed, rotary)
    seen = None if valid is None else valid[:, None]
    asks = _find_asking(scorer, hidden, valid)
    if scorer is Scorer.MEAN:
        row = normed.mean(1, keepdim=True) if valid is None else _average_masked(normed, valid)
    else:
        row = _select(normed, asks)
        window = _build_mask((*args, *kwargs.values()), hidden.shape[1])
        seen = seen if window is None else _select_mask_row(window, asks)
    asking = projections.project_queries(row, _select_rotary(rotary, asks))
    return compute_attention_weights(asking, keys, projections.scaling, projections.softcap, seen)[:, 0]


def find_states(values: Iterable[Any], width: int) -> Tensor:
    """The residual stream (B, N, H) among a block's arguments.

    Raises:
        UnreadableModel: there is none.
    """
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3 and value.shape[-1] == width:
            return value
    raise UnreadableModel(f"a block was given no states (batch, tokens, {width}); its tokens cannot be told apart")


def _find_asking(scorer: Scorer, hidden: Tensor, valid: Tensor | None) -> Tensor:
    """(B,) the index of the token that asks; the mean asks from the last one."""
    batch, tokens = hidden.shape[:2]
    if valid is None:
        return torch.full((batch,), 0 if scorer is Scorer.CLASS else tokens - 1, device=hidden.device)
    order = valid.long().cumsum(1) * valid
    return valid.long().argmax(1) if scorer is Scorer.CLASS else order.argmax(1)


def _average_masked(values: Tensor, valid: Tensor) -> Tensor:
    """(B, 1, H), the mean of (B, N, H) over valid tokens."""
    weights = valid.to(values.dtype)[..., None]
    return (values * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


def _select(values: Tensor, indices: Tensor) -> Tensor:
    """(B, 1, W) of (B or 1, N, W)."""
    rows = torch.arange(len(indices), device=values.device)
    return values.expand(len(indices), -1, -1)[rows, indices][:, None]


def _find_rotary(kwargs: dict[str, Any]) -> Rotary | None:
    rotary = kwargs.get("position_embeddings")
    return rotary if isinstance(rotary, tuple) and len(rotary) == 2 else None


def _select_rotary(rotary: Rotary | None, indices: Tensor) -> Rotary | None:
    return None if rotary is None else (_select(rotary[0], indices), _select(rotary[1], indices))


def _build_mask(values: Iterable[Any], tokens: int) -> Tensor | None:
    """(B, 1, 1 or N, N) bool: which keys each query sees, as the block is told; None where it is told nothing."""
    for value in values:
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == tokens:
            return value if value.dtype is torch.bool else value == 0
    return None


def _select_mask_row(mask: Tensor, indices: Tensor) -> Tensor:
    """(B, 1, N), what the asking queries see."""
    mask = mask[:, 0].expand(len(indices), -1, -1)
    rows = torch.arange(len(indices), device=mask.device)
    return mask[rows, indices.clamp(max=mask.shape[1] - 1)][:, None]
