"""Dropped tokens gathered into a few (the contextual tokens of VisionZip), with static shapes."""

from typing import Any

import torch
from torch.nn import functional

from pruning.reduction.merge import Merged, gather_rows, grow_sizes, join_tokens, mark_chosen, split
from search_spaces.errors import ArchitectureError

_CONTEXTUAL, _OF = 10, 64  # VisionZip's 54 + 10, 108 + 20 and 162 + 30


def count_contextual(keep: Any) -> Any:
    """How many of `keep` tokens that are left are contextual: 10 of 64, as in all settings of VisionZip, or one."""
    return torch.sym_max(1, keep * _CONTEXTUAL // _OF)  # type: ignore[no-untyped-call]


def recycle_tokens(
    hidden: torch.Tensor, metric: torch.Tensor, sizes: torch.Tensor, kept: torch.Tensor, contextual: Any
) -> Merged:
    """Gather the tokens that are not kept into `contextual` ones (Yang et al. 2024, VisionZip, section 3.3).

    Of the tokens that are not kept, every n-th is a target; each other one goes into the most similar target by
    cosine of the metric; a contextual token is the mean of its group, weighted by size, and stands at its target's
    place. Padding (size 0) is a target only where nothing else is left, and has no weight. (The published code adds
    the target to the mean of the others, which doubles the scale of the state; here it is the mean of all.)

    Args:
        hidden: (B, N, H) states.
        metric: (B, N, D) keys averaged over heads.
        sizes: (B, N) tokens each one stands for: ones at first, zero for padding.
        kept: (B, K) indices of the tokens that stay as they are, protected ones included, in any order.
        contextual: how many tokens the others become; 0 drops them.

    Returns:
        `Merged` of K + contextual tokens, in order of index. With 0 contextual tokens `source` is of no use.

    Raises:
        ArchitectureError: more contextual tokens than there are others.
    """
    length = hidden.shape[1]
    others = length - kept.shape[1]
    if not isinstance(contextual, torch.SymInt) and not 0 <= contextual <= others:
        raise ArchitectureError(
            f"{contextual} contextual tokens from {others} that are not kept; ask for at most as many as those"
        )
    with torch.no_grad():  # who goes where has no gradient; what they carry has
        goes, partner = _group_tokens(metric, sizes.float(), mark_chosen(kept, length), others, contextual)
        count = others - contextual
        stay, index = split(goes, count)
        going = goes.float().topk(count, dim=1).indices
        into = index.gather(1, partner.gather(1, going))
        source = index.gather(1, torch.where(goes, partner, torch.arange(length, device=hidden.device)))
    if isinstance(contextual, int) and contextual == 0:
        return Merged(gather_rows(hidden, stay), gather_rows(metric, stay), sizes.float().gather(1, stay), stay, source)
    wide, narrow = (join_tokens(values, sizes.float(), stay, going, into) for values in (hidden, metric))
    return Merged(wide, narrow, grow_sizes(sizes.float(), stay, going, into), stay, source)


def _group_tokens(
    metric: torch.Tensor, sizes: torch.Tensor, stays: torch.Tensor, others: Any, contextual: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N) which tokens go, and (B, N) the index of the target that each would go into."""
    length = stays.shape[1]
    number = torch.arange(length, device=stays.device, dtype=torch.float32)
    real = ~stays & (sizes > 0)
    ranked = torch.where(real, number, torch.where(stays, number + 2 * length, number + length))
    order = ranked.topk(others, dim=1, largest=False).indices  # the others as they stand, then their padding
    groups = torch.sym_max(1, contextual)  # type: ignore[no-untyped-call]
    last = torch.sym_max(0, others - 1)  # type: ignore[no-untyped-call]
    stride = (real.float().sum(1, keepdim=True) / groups).floor().clamp(min=1)
    steps = (torch.arange(contextual, device=stays.device) * stride).clamp(max=last).long()
    targets = order.gather(1, steps)
    goes = ~stays & ~mark_chosen(targets, length)
    if isinstance(contextual, int) and contextual == 0:
        return goes, torch.zeros_like(goes, dtype=torch.long)
    unit = functional.normalize(metric.float(), dim=-1)
    nearest = (unit @ gather_rows(unit, targets).mT).argmax(-1)
    return goes, targets.gather(1, nearest)
