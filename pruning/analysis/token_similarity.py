"""How alike tokens are, and how few of them hold the attention: sums over a group of tokens of every item.

All functions take states of a whole batch and a mask of the group; an item with too few tokens of the group adds
nothing. Values come as (sum, count), so that means over batches are exact.
"""

import torch
from torch import Tensor

SAMPLE = 96  # tokens of an item that are compared with all others
HELD = 0.9

Sum = tuple[float, int]


def compute_neighbour_cosine(units: Tensor, group: Tensor) -> Sum:
    """Cosine of every token of the group with the next one, where both stand side by side.

    Args:
        units: (batch, tokens, hidden), of length one.
        group: (batch, tokens) of bool.
    """
    both = group[:, 1:] & group[:, :-1]
    cosine = (units[:, 1:] * units[:, :-1]).sum(-1)
    return float(cosine[both].cpu().sum(dtype=torch.float64)), int(both.sum())


def compute_nearest_cosine(units: Tensor, group: Tensor, sample: int = SAMPLE) -> Sum:
    """Cosine of a token of the group with the most similar other one of its item.

    Args:
        units: (batch, tokens, hidden), of length one.
        group: (batch, tokens) of bool.
        sample: of an item with more tokens, only so many, evenly spaced, look for their like (among all).
    """
    total, count = 0.0, 0
    for states, chosen in zip(units, group, strict=True):
        tokens = states[chosen]
        if len(tokens) < 2:
            continue
        looking = torch.linspace(0, len(tokens) - 1, min(len(tokens), sample), device=tokens.device).round().long()
        cosine = tokens[looking] @ tokens.T
        cosine.scatter_(1, looking[:, None], -2.0)  # not itself
        total += float(cosine.amax(1).cpu().sum(dtype=torch.float64))
        count += len(looking)
    return total, count


def compute_mass(weights: Tensor, group: Tensor) -> Sum:
    """The share of the attention that the group receives, summed over items.

    Args:
        weights: (batch, tokens), each row sums to one.
        group: (batch, tokens) of bool.
    """
    present = group.any(1)
    shares = (weights * group).sum(1)
    return float(shares[present].cpu().sum(dtype=torch.float64)), int(present.sum())


def count_holding(weights: Tensor, group: Tensor, share: float = HELD) -> Sum:
    """How many tokens of the group, the most attended ones, hold `share` of the group's attention; 0 of none.

    Args:
        weights: (batch, tokens) of attention.
        group: (batch, tokens) of bool.
        share: of what the group receives.
    """
    present = group.any(1).cpu()
    ordered = (weights.cpu().double() * group.cpu()).sort(1, descending=True).values.cumsum(1)
    total = ordered[:, -1:]
    needed = (ordered >= share * total * (1 - 1e-6)).long().argmax(1) + 1
    return float((needed * (total[:, 0] > 0))[present].sum()), int(present.sum())
