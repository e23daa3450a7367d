"""Sums over tokens, from which every closed form here is solved: no token is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.inference.widening import widen_tensor

_ROWS = 4096  # tokens multiplied at a time, in float32 at least; sums are in float64


@dataclass
class Moments:
    """Second moments of features X (tokens, k) and of what they are to explain, R (tokens, d); all float64.

    Attributes:
        gram: XᵀX (k, k).
        cross: XᵀR (k, d).
        energy: the sum of all squares of R, by column (d,).
        sums: the sum of X (k,) and of R (d,).
        count: tokens.

    Example:
        >>> moments = Moments.of(torch.eye(2), torch.ones(2, 3))
        >>> moments.cross.shape, moments.count
        (torch.Size([2, 3]), 2)
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    sums: tuple[Tensor, Tensor]
    count: int

    @classmethod
    def of(cls, features: Tensor, residuals: Tensor) -> "Moments":
        """The moments of features (tokens, k) and residuals (tokens, d)."""
        sizes = (features.shape[1], residuals.shape[1])
        shapes = (sizes[:1] * 2, sizes, sizes[1:], sizes[:1], sizes[1:])
        gram, cross, energy, *sums = (torch.zeros(s, dtype=torch.float64, device=features.device) for s in shapes)
        for begin in range(0, len(features), _ROWS):
            x, r = (widen_tensor(each[begin : begin + _ROWS]) for each in (features, residuals))
            gram += x.T @ x
            cross += x.T @ r
            energy += r.square().sum(0)
            sums[0] += x.sum(0)
            sums[1] += r.sum(0)
        return cls(gram, cross, energy, (sums[0], sums[1]), len(features))

    def __add__(self, other: "Moments") -> "Moments":
        """Those of the tokens of both."""
        sums = self.sums[0] + other.sums[0], self.sums[1] + other.sums[1]
        return Moments(
            self.gram + other.gram, self.cross + other.cross, self.energy + other.energy, sums, self.count + other.count
        )

    def __sub__(self, other: "Moments") -> "Moments":
        """Those of the tokens of this that are not of the other, which are among them."""
        sums = self.sums[0] - other.sums[0], self.sums[1] - other.sums[1]
        return Moments(
            self.gram - other.gram, self.cross - other.cross, self.energy - other.energy, sums, self.count - other.count
        )

    def centre(self, means: tuple[Tensor, Tensor]) -> "Moments":
        """Those of X and R after these means were taken from them, without looking at a token again."""
        (x, r), (sum_x, sum_r), n = means, self.sums, self.count
        gram = self.gram - torch.outer(x, sum_x) - torch.outer(sum_x, x) + n * torch.outer(x, x)
        cross = self.cross - torch.outer(x, sum_r) - torch.outer(sum_x, r) + n * torch.outer(x, r)
        energy = self.energy - 2 * r * sum_r + n * r.square()
        return Moments(gram, cross, energy, (sum_x - n * x, sum_r - n * r), n)

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """The mean of X (k,) and of R (d,)."""
        return self.sums[0] / self.count, self.sums[1] / self.count

    def compute_error(self, solution: Tensor) -> float:
        """The sum of squares of R − X·solution, for a solution (k, d)."""
        explained = 2 * (solution * self.cross).sum() - (solution * (self.gram @ solution)).sum()
        return float(self.energy.sum() - explained)
