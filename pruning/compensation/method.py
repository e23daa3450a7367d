"""The closed forms that adjust one projection, behind one contract."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pruning.compensation.moments import Moments
from pruning.compensation.ridge import PENALTIES, RidgeFit, fit_ridge, solve_damped
from pruning.inference.widening import widen_tensor

LARGEST_GRAM = 1 << 30  # bytes; the Gram matrix of wider inputs is not formed


@dataclass(frozen=True)
class Observed:
    """What was seen at a projection y = X·Wᵀ + b, over all calibration tokens.

    Attributes:
        inputs: X (tokens, k).
        weight: W as (k, d).
        bias: b (d,), None where the projection has none.
        outputs: y (tokens, d).
        residuals: what y lacks (tokens, d).
        held: (tokens,) bool, those on which solutions are compared.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    outputs: Tensor
    residuals: Tensor
    held: Tensor

    def explain(self, features: Tensor, penalties: tuple[float, ...]) -> RidgeFit | None:
        """The ridge solution of the residuals from features (tokens, ·); a constant is found where there is a bias."""
        if self.bias is None:
            return fit_ridge(*self._compute_moments(features, self.residuals), False, penalties)
        means = features.mean(0), self.residuals.mean(0)  # what varies little about a large mean is lost in float32
        fit = fit_ridge(*self._compute_moments(features - means[0], self.residuals - means[1]), True, penalties)
        if fit is None or fit.offset is None:
            return fit
        return replace(fit, offset=fit.offset + means[1] - means[0].double() @ fit.matrix)

    def _compute_moments(self, features: Tensor, residuals: Tensor) -> tuple[Moments, Moments]:
        """Of the tokens to fit, and of those held out."""
        held = Moments.of(features[self.held], residuals[self.held])
        return Moments.of(features, residuals) - held, held


@dataclass(frozen=True)
class Adjustment:
    """What is added to a projection.

    Attributes:
        weight: (k, d), None where nothing is.
        bias: (d,), None where nothing is.
        penalty: the λ that was chosen; 0 where there was none to choose.
        unexplained: the share of the held-out residuals' squares that is left.
    """

    weight: Tensor | None
    bias: Tensor | None
    penalty: float
    unexplained: float


class Method(Protocol):
    """A closed form."""

    @property
    def name(self) -> str:
        """As a user writes it."""

    def adjust(self, observed: Observed) -> Adjustment | None:
        """What to add to a projection; None where held-out tokens say that it is best left as it is."""


@dataclass(frozen=True)
class Bias:
    """The mean of what is lacking becomes part of the bias; projections without one stay as they are."""

    name: str = "bias"

    def adjust(self, observed: Observed) -> Adjustment | None:
        """The mean of the residuals."""
        if observed.bias is None:
            return None
        held = observed.residuals[observed.held].double()
        mean = observed.residuals[~observed.held].mean(0, dtype=torch.float64)
        before, after = float(held.square().sum()), float((held - mean).square().sum())
        whole = observed.residuals.mean(0, dtype=torch.float64)
        return Adjustment(None, whole, 0.0, after / before) if after < before else None


@dataclass(frozen=True)
class Refit:
    """Ridge regression of what is lacking on the projection's inputs (OBS, OSSCAR, GRAIL: with a pull to the old W)."""

    penalties: tuple[float, ...] = PENALTIES
    name: str = "refit"

    def adjust(self, observed: Observed) -> Adjustment | None:
        """The least-squares change of the whole projection."""
        fit = observed.explain(observed.inputs, self.penalties)
        return None if fit is None else _build_adjustment(fit, fit.matrix)


@dataclass(frozen=True)
class Merge:
    """A d×d map of the contribution, folded into the projection (ReplaceMe): for inputs too wide for a Gram matrix."""

    penalties: tuple[float, ...] = PENALTIES
    name: str = "merge"

    def adjust(self, observed: Observed) -> Adjustment | None:
        """W becomes W·(1 + M), where M explains what is lacking from the contribution itself.

        What writes nothing yet, as a linear stand-in, is refitted.
        """
        if not observed.weight.any():
            return Refit(self.penalties).adjust(observed)
        written = observed.outputs if observed.bias is None else observed.outputs - observed.bias
        fit = observed.explain(written, self.penalties)
        return None if fit is None else _build_adjustment(fit, observed.weight.double() @ fit.matrix)


@dataclass(frozen=True)
class RefitOrMerge:
    """The refit; where the Gram matrix of the inputs would be too large, the merge."""

    penalties: tuple[float, ...] = PENALTIES
    largest: int = LARGEST_GRAM
    name: str = "auto"

    def adjust(self, observed: Observed) -> Adjustment | None:
        """By memory."""
        wide = observed.inputs.shape[1] ** 2 * torch.float64.itemsize > self.largest
        method: Method = Merge(self.penalties) if wide else Refit(self.penalties)
        return method.adjust(observed)


@dataclass(frozen=True)
class DampedRefit:
    """The refit (or merge) with one heavy penalty, from all tokens, without float64: for candidates that are many.

    So heavy a penalty needs no held-out tokens to be chosen on, and bounds the condition of the system by the number of
    inputs. What is left of the residuals is told of the tokens that were fitted.
    """

    penalty: float = 1.0
    largest: int = LARGEST_GRAM
    name: str = "damped"

    def adjust(self, observed: Observed) -> Adjustment | None:
        """One product, one Cholesky factor, one solution."""
        merges = min(observed.inputs.shape) ** 2 * torch.float32.itemsize > self.largest and observed.weight.any()
        features, residuals = observed.outputs if merges else observed.inputs, observed.residuals
        if observed.bias is None:
            matrix, offset = solve_damped(features, residuals, self.penalty), None
        else:
            means = features.mean(0), residuals.mean(0)
            matrix = solve_damped(features - means[0], residuals - means[1], self.penalty)
            offset = means[1] - widen_tensor(means[0]) @ matrix
        explained = features @ matrix.to(features.dtype)
        left = residuals - explained - (0.0 if offset is None else offset)
        unexplained = float(left.square().sum() / residuals.square().sum())
        weight = observed.weight @ matrix if merges else matrix
        return Adjustment(weight, offset, self.penalty, unexplained) if unexplained < 1 else None


def _build_adjustment(fit: RidgeFit, weight: Tensor) -> Adjustment:
    return Adjustment(weight, fit.offset, fit.penalty, fit.unexplained)


# Ranks candidates nearly as the refit with all items does, from two thousand tokens (docs/compensation.md).
DRAFT = DampedRefit()
METHODS: dict[str, Method] = {each.name: each for each in (Bias(), Refit(), Merge(), RefitOrMerge())}
