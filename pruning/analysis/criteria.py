"""Which inputs of a projection can be spared: closed forms over its inputs X (tokens, k) and weights W (out, k).

All go by what the projection gives, X·Wᵀ. OBS asks what is lost once the inputs that stay have made up for those that
are gone, which compensation then lets them do; the others ask what is lost without that.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pruning.compensation.moments import Moments


class Criterion(Protocol):
    """Orders groups of neighbouring inputs."""

    @property
    def name(self) -> str:
        """As records have it."""

    def rank(self, inputs: Tensor, weight: Tensor, size: int) -> Tensor:
        """Indices (k / size,) of the groups, the one that is needed most first; of equal ones, the first.

        Args:
            inputs: X (tokens, k).
            weight: W (out, k).
            size: inputs of a group.
        """


@runtime_checkable
class Scoring(Protocol):
    """A criterion that says of each input by itself what it counts."""

    def score(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """(k,) float64, of every input; more of what is needed more. The arguments are those of `rank`."""


@dataclass(frozen=True)
class ActivationNorm:
    """Σ_out |W_oc| · ‖X_c‖₂ (Wanda-sp, An et al. 2024, after Wanda, Sun et al. 2024)."""

    name: str = "activation-norm"

    def rank(self, inputs: Tensor, weight: Tensor, size: int) -> Tensor:
        """By the sum over a group."""
        return _rank_sums(self.score(inputs, weight), size)

    def score(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """(k,) float64, of every input."""
        norms: Tensor = torch.linalg.vector_norm(inputs, dim=0, dtype=torch.float64)
        return weight.double().abs().sum(0) * norms


@dataclass(frozen=True)
class Fluctuation:
    """Var(X_c) · ‖W_:c‖² (WIFV of FLAP, An et al. 2024): the mean of an input could be made up for by a bias."""

    name: str = "wifv"

    def rank(self, inputs: Tensor, weight: Tensor, size: int) -> Tensor:
        """By the sum over a group."""
        return _rank_sums(self.score(inputs, weight), size)

    def score(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """(k,) float64, of every input."""
        return inputs.double().var(0, correction=0) * weight.double().square().sum(0)


@dataclass(frozen=True)
class BrainSurgeon:
    """½ tr(W_g ([G⁻¹]_gg)⁻¹ W_gᵀ) with G = XᵀX: what is lost without a group once the others have made up for it.

    OBS (Hassibi and Stork 1993), as ZipLM and OSSCAR have it for structures. Groups go in rounds, those with the least
    loss first; after each the others get the weights that make up for them, so that of two equal inputs one stays.

    Attributes:
        rounds: in which all groups would be gone; the more, the nearer to removing one at a time.
        damping: of the mean diagonal of G, added to it.
    """

    rounds: int = 32
    damping: float = 1e-3
    name: str = "obs"

    def rank(self, inputs: Tensor, weight: Tensor, size: int) -> Tensor:
        """The last to go first."""
        inverse, weight = self._invert(inputs), weight.double()
        left = torch.arange(inputs.shape[1] // size, device=inputs.device)
        together, gone = max(1, len(left) // self.rounds), list[Tensor]()
        while len(left):
            order = _compute_losses(inverse, weight, size).sort(stable=True, descending=True).indices
            going = order[max(0, len(left) - together) :]
            gone.append(left[going.flip(0)])
            stays = torch.ones_like(left, dtype=torch.bool).index_fill(0, going, False)
            inverse, weight = _remove(inverse, weight, stays.repeat_interleave(size))
            left = left[stays]
        return torch.cat(gone).flip(0)

    def _invert(self, inputs: Tensor) -> Tensor:
        gram = Moments.of(inputs, inputs[:, :0]).gram
        mean = gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        gram.diagonal().add_(self.damping * mean)
        return torch.cholesky_inverse(torch.linalg.cholesky(gram))


CRITERIA: dict[str, Criterion] = {each.name: each for each in (BrainSurgeon(), ActivationNorm(), Fluctuation())}


def _rank_sums(scores: Tensor, size: int) -> Tensor:
    return scores.reshape(-1, size).sum(1).sort(stable=True, descending=True).indices


def _compute_losses(inverse: Tensor, weight: Tensor, size: int) -> Tensor:
    """(groups,): what is lost without each group alone."""
    groups = inverse.shape[0] // size
    own = inverse.reshape(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns = weight.reshape(-1, groups, size).permute(1, 2, 0)
    losses: Tensor = (columns * torch.linalg.solve(own, columns)).sum((1, 2))
    return losses / 2


def _remove(inverse: Tensor, weight: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of the Gram matrix of the inputs that stay, and their weights once they make up for the others."""
    between = torch.linalg.solve(inverse[~stays][:, ~stays], inverse[~stays][:, stays])
    return inverse[stays][:, stays] - inverse[stays][:, ~stays] @ between, weight[:, stays] - weight[
        :, ~stays
    ] @ between
