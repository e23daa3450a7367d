"""Token merging (ToMe, Bolya et al. 2023) as a pure function of tensors, with static shapes."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from search_spaces.errors import ArchitectureError

_FIRST, _NEVER = 2.0, -2.0  # beyond any cosine: merged before all others, and never


@dataclass(frozen=True)
class Merged:
    """A shorter sequence: B rows of M tokens, made of N.

    - hidden (B, M, H): the states, in the order of the tokens that stand.
    - metric (B, M, D): what similarity is measured by, merged alike.
    - sizes (B, M) float32: how many original tokens each one stands for; 0 for padding.
    - kept (B, M) int64, rising: the index that each one had among the N.
    - source (B, N) int64: the index among the M of the token that each of the N went into.
    """

    hidden: torch.Tensor
    metric: torch.Tensor
    sizes: torch.Tensor
    kept: torch.Tensor
    source: torch.Tensor


def merge_tokens(
    hidden: torch.Tensor,
    metric: torch.Tensor,
    sizes: torch.Tensor,
    droppable: torch.Tensor | int,
    keep: Any,
    *,
    tokens: Any = None,
) -> Merged:
    """Merge similar tokens until `keep` droppable ones are left (ToMe, "Token Merging: Your ViT But Faster").

    The droppable tokens are split alternately into B (first, third, ...) and A; every token of A finds the most
    similar one of B by cosine of the metric; the best pairs become one, a mean weighted by size. A round merges at
    most half of them, and rounds are repeated with the merged metric. Protected tokens are in no pair. Padding
    (size 0) always goes first and changes nothing that it goes into. Unlike the published code, which puts A before
    B, tokens stay in their order: attention without positions cannot tell, and the split stays alternate in space.

    Args:
        hidden: (B, N, H) states.
        metric: (B, N, D) keys averaged over heads, or anything else to compare tokens by.
        sizes: (B, N) tokens each one stands for: ones at first, zero for padding.
        droppable: (B, N) which tokens may go, as many in every row, or how many leading tokens may not.
        keep: how many of the droppable tokens are left: `Stage.count_kept` of the original number.
        tokens: how many are droppable in a row, needed with a mask only (shapes must not depend on data).

    Raises:
        ArchitectureError: fewer than one token left or more than there are, or a mask without `tokens`.
    """
    length = hidden.shape[1]
    if isinstance(droppable, int):
        tokens, droppable = length - droppable, _mark_all_but_leading(droppable, sizes)
    if tokens is None or not (isinstance(tokens, torch.SymInt) or 1 <= keep <= tokens):
        raise ArchitectureError(
            f"merging {tokens} tokens into {keep}: at least one and at most all are left; give both numbers"
        )
    everything = torch.arange(length, device=hidden.device).expand(hidden.shape[0], length)
    merged = Merged(hidden, metric, sizes.float(), everything, everything)
    for count in plan_rounds(tokens, keep):
        once = _merge_once(merged, droppable, count)
        droppable = droppable.gather(1, once.kept)
        kept, source = merged.kept.gather(1, once.kept), once.source.gather(1, merged.source)
        merged = Merged(once.hidden, once.metric, once.sizes, kept, source)
    return merged


def plan_rounds(tokens: Any, keep: Any) -> list[Any]:
    """How many tokens each round merges, at most half: `tokens` become `keep`.

    How many rounds there are depends on the length. In a trace with any length there is one more than the example
    needs, which is enough for all: to keep the share s takes at least log2(1 / s) rounds, at most one more.
    """
    traced = isinstance(tokens, torch.SymInt)
    number = 1 + len(plan_rounds(_get_example(tokens), _get_example(keep))) if traced else tokens
    left: list[Any] = [tokens]
    while len(left) <= number and (traced or left[-1] > keep):
        # Halves rounded up, from the whole number: a trace of each from the one before would grow with every round.
        # (Runtimes divide towards zero, so only what is positive is divided.)
        parts = 2 ** len(left)
        left.append(torch.sym_max(keep, (tokens + parts - 1) // parts))  # type: ignore[no-untyped-call]
    return [before - after for before, after in itertools.pairwise(left)]


def log_sizes(sizes: torch.Tensor) -> torch.Tensor:
    """What proportional attention adds to the logit of every key: (B, N) log of sizes; padding stays as it is."""
    return sizes.clamp(min=1).log()


def join_tokens(
    values: torch.Tensor, sizes: torch.Tensor, kept: torch.Tensor, removed: torch.Tensor, into: torch.Tensor
) -> torch.Tensor:
    """Means weighted by size of the tokens that stay with those that go into them.

    A product with a matrix of zeros and ones instead of a scattered sum: it is exact, the same in every run, and
    every runtime has it.

    Args:
        values: (B, N, H).
        sizes: (B, N) tokens each one stands for; zero for padding, which has no weight.
        kept: (B, M) indices among the N of those that stay.
        removed: (B, R) indices among the N of those that go.
        into: (B, R) for each of these its index among `kept`.

    Returns:
        (B, M, H) in the dtype of `values`; what was there, where all sizes are zero.
    """
    whole = grow_sizes(sizes, kept, removed, into)
    own = torch.where(whole > 0, sizes.gather(1, kept) / whole.clamp(min=1), torch.ones_like(whole))
    other = sizes.gather(1, removed) / whole.gather(1, into).clamp(min=1)
    arrived = _mark_arrivals(into, kept.shape[1]).to(values.dtype) @ (
        gather_rows(values, removed) * other[..., None].to(values.dtype)
    )
    return gather_rows(values, kept) * own[..., None].to(values.dtype) + arrived


def grow_sizes(sizes: torch.Tensor, kept: torch.Tensor, removed: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    """(B, M) sizes of the tokens that stay with those that went into them; arguments as in `joined`."""
    return sizes.gather(1, kept) + (_mark_arrivals(into, kept.shape[1]) @ sizes.gather(1, removed)[..., None])[..., 0]


def gather_rows(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(B, M, H) the rows of `values` (B, N, H) at `indices` (B, M)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def split(goes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """From which tokens go (B, N), exactly `count` in a row: who stays (B, N - count), rising, and the new indices.

    The new index of a token that goes means nothing; ask for that of the token it goes into.
    """
    length = goes.shape[1]
    number = torch.arange(length, device=goes.device, dtype=torch.float32)
    kept = torch.where(goes, number + length, number).topk(length - count, dim=1, largest=False).indices
    return kept, ((~goes).float().cumsum(1) - 1).clamp(min=0).long()


def mark_chosen(indices: torch.Tensor, length: int) -> torch.Tensor:
    """(B, length) which tokens are among `indices` (B, R)."""
    same = indices[..., None] == torch.arange(length, device=indices.device)
    return same.float().sum(1) > 0  # `any` of no indices at all is true in some runtimes


def _get_example(number: Any) -> int:
    """A number of tokens, in a trace that of the example."""
    return int(number.node.hint) if isinstance(number, torch.SymInt) else int(number)


def _merge_once(tokens: Merged, droppable: torch.Tensor, count: int) -> Merged:
    """One round: `count` tokens of A go into tokens of B. `kept` and `source` are of this round."""
    with torch.no_grad():  # who goes where has no gradient; what they carry has
        best, partner = _pair_tokens(tokens.metric, droppable, tokens.sizes)
        going = best.topk(count, dim=1).indices
        goes = mark_chosen(going, best.shape[1])
        kept, index = split(goes, count)
        into = index.gather(1, partner.gather(1, going))
        source = index.gather(1, torch.where(goes, partner, torch.arange(best.shape[1], device=best.device)))
        sizes = grow_sizes(tokens.sizes, kept, going, into)
    hidden, metric = (join_tokens(values, tokens.sizes, kept, going, into) for values in (tokens.hidden, tokens.metric))
    return Merged(hidden, metric, sizes, kept, source)


def _pair_tokens(
    metric: torch.Tensor, droppable: torch.Tensor, sizes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N) how much a token should go, and (B, N) the index of the token it would go into."""
    real = droppable & (sizes > 0)
    number = real.float().cumsum(1)  # 1 for the first
    in_b = real & (torch.remainder(number, 2) == 1)
    unit = functional.normalize(metric.float(), dim=-1)
    similar = torch.where(in_b[:, None, :], unit @ unit.mT, _NEVER)
    best, partner = similar.max(-1)
    return torch.where(real & ~in_b, best, torch.where(droppable & ~real, _FIRST, _NEVER)), partner


def _mark_arrivals(into: torch.Tensor, kept: int) -> torch.Tensor:
    """(B, M, R) one where a token goes into this one."""
    return (into[:, None, :] == torch.arange(kept, device=into.device)[:, None]).float()


def _mark_all_but_leading(leading: int, sizes: torch.Tensor) -> torch.Tensor:
    return (torch.arange(sizes.shape[1], device=sizes.device) >= leading).expand(sizes.shape)
