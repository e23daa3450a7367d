"""Ridge regression from moments: the penalty is chosen on tokens that the solution has not seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.compensation.moments import Moments
from pruning.inference.widening import widen_tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # of the mean diagonal of the Gram matrix


@dataclass(frozen=True)
class RidgeFit:
    """What explains the residuals best: R ≈ X·matrix + offset.

    Attributes:
        matrix: (k, d), float64.
        offset: (d,); None where none was asked for.
        penalty: relative to the mean diagonal of the Gram matrix.
        unexplained: of the held-out residuals' squares, the share that is left; below 1, or nothing is returned.
    """

    matrix: Tensor
    offset: Tensor | None
    penalty: float
    unexplained: float


def fit_ridge(
    fitted: Moments, held: Moments, offset: bool, penalties: tuple[float, ...] = PENALTIES
) -> RidgeFit | None:
    """The ridge solution (XᵀX + λ·mean diagonal·I)⁻¹XᵀR of all tokens, with the λ that is best on held-out ones.

    Args:
        fitted: of the tokens that λ's solutions are computed from.
        held: of others, on which they are compared.
        offset: whether a constant may be added, which is not penalised.
        penalties: the λ to compare.

    Returns:
        None where no λ leaves less of the held-out residuals than no solution at all.
    """
    both = fitted + held
    means = fitted.means if offset else None
    train, test = (fitted, held) if means is None else (fitted.centre(means), held.centre(means))
    errors = {penalty: test.compute_error(_solve(train, penalty)) for penalty in penalties}
    best = min(errors, key=errors.__getitem__)
    before = float(held.energy.sum())
    if not errors[best] < before:
        return None
    whole = both.centre(both.means) if offset else both
    matrix = _solve(whole, best)
    constant = both.means[1] - both.means[0] @ matrix if offset else None
    return RidgeFit(matrix, constant, best, errors[best] / before)


def _solve(moments: Moments, penalty: float) -> Tensor:
    """(k, d), in float64; where features never occur the smallest penalty keeps the system solvable."""
    diagonal = moments.gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    damped = moments.gram.clone()
    damped.diagonal().add_(penalty * diagonal)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):  # a penalty below the rounding of the sums
        return torch.zeros_like(moments.cross)
    return torch.cholesky_solve(moments.cross, factor)


def solve_damped(features: Tensor, residuals: Tensor, penalty: float) -> Tensor:
    """The ridge solution (k, d), in float32, of features (tokens, k) and residuals (tokens, d).

    Products are as precise as the features. Where tokens are fewer than features, the system is one of tokens:
    (XᵀX + p·I)⁻¹Xᵀ = Xᵀ(XXᵀ + p·I)⁻¹.

    Args:
        penalty: relative to the mean diagonal of XᵀX; of 1, the condition of the system is at most k + 1.
    """
    tokens, width = features.shape
    rows = features if tokens < width else features.T
    gram = widen_tensor(rows @ rows.T)
    damping = penalty * gram.diagonal().sum() / width
    gram.diagonal().add_(damping.clamp(min=torch.finfo(gram.dtype).tiny))
    factor = torch.linalg.cholesky(gram)
    if tokens < width:
        weights = torch.cholesky_solve(widen_tensor(residuals), factor)
        return widen_tensor(features.T @ weights.to(features.dtype))
    return torch.cholesky_solve(widen_tensor(features.T @ residuals.to(features.dtype)), factor)
