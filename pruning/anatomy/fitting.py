"""Fitting a value to others: by which constants, one for each channel, they sum up to it."""

from collections.abc import Sequence

import torch
from torch import Tensor

LEFT = 1e-4  # of the largest value: what may be left of a sum, and what a summand is at least
SPARE = 2  # rows that there are more than unknowns, so that a fit says something


def fit_sum(wanted: Tensor, values: Sequence[Tensor]) -> list[Tensor | None] | None:
    """The constants (hidden) by which values (tokens, hidden) sum up to what is wanted, by least squares.

    Returns:
        None for each value that does not count, and as a whole where there is no such sum.
    """
    if not values or len(values) + SPARE > len(wanted):
        return None
    rows = torch.stack([value.double().T for value in values], -1)  # (hidden, tokens, values)
    scales = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    goal = wanted.double().T[..., None]
    solved = torch.linalg.lstsq(rows / scales, goal).solution[..., 0]  # (hidden, values)
    left = ((rows / scales) @ solved[..., None] - goal).abs().max()
    if not bool(left <= LEFT * goal.abs().max()):
        return None
    counts = solved.abs().amax(0)
    factors = solved / scales[:, 0]
    return [factors[:, at] if bool(counts[at] > LEFT * counts.max()) else None for at in range(len(values))]
