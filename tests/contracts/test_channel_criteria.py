"""Every criterion keeps the contract, and gives what a naive computation of its published definition gives."""

import numpy as np
import pytest
import torch
from channel_criterion import CriterionContract, draw

from pruning.analysis.criteria import CRITERIA, ActivationNorm, BrainSurgeon, Fluctuation

DAMPING = 0.01


class TestBrainSurgeon(CriterionContract):
    criterion = BrainSurgeon()


class TestActivationNorm(CriterionContract):
    criterion = ActivationNorm()


class TestFluctuation(CriterionContract):
    criterion = Fluctuation()


def test_every_criterion_is_tested() -> None:
    tested = (TestBrainSurgeon, TestActivationNorm, TestFluctuation)
    assert {each.criterion.name for each in tested} == CRITERIA.keys()


def sort_groups(scores: list[float], size: int) -> list[int]:
    sums = [sum(scores[begin : begin + size]) for begin in range(0, len(scores), size)]
    return sorted(range(len(sums)), key=lambda group: -sums[group])


@pytest.mark.parametrize("size", [1, 4])
def test_activation_norms_are_summed_channel_by_channel(size: int) -> None:
    x, weight = draw(seed=1)
    scores = [
        sum(abs(float(row[channel])) for row in weight) * sum(float(v) ** 2 for v in x[:, channel]) ** 0.5
        for channel in range(12)
    ]
    assert ActivationNorm().rank(x, weight, size).tolist() == sort_groups(scores, size)


@pytest.mark.parametrize("size", [1, 4])
def test_fluctuations_are_summed_channel_by_channel(size: int) -> None:
    x, weight = draw(seed=2)
    scores = []
    for channel in range(12):
        values = [float(v) for v in x[:, channel]]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        scores.append(variance * sum(float(row[channel]) ** 2 for row in weight))
    assert Fluctuation().rank(x, weight, size).tolist() == sort_groups(scores, size)


def compute_least_loss(x: np.ndarray, weight: np.ndarray, channels: list[int]) -> float:
    """What is left of X·Wᵀ by least squares from some channels, each tied to its weight by the damping."""
    strength = DAMPING * np.square(x).sum() / x.shape[1]
    stacked = np.vstack([x, np.sqrt(strength) * np.eye(x.shape[1])])
    wanted = stacked @ weight.T
    if not channels:
        return float(np.square(wanted).sum())
    solution = np.linalg.lstsq(stacked[:, channels], wanted, rcond=None)[0]
    return float(np.square(wanted - stacked[:, channels] @ solution).sum())


@pytest.mark.parametrize("size", [1, 3])
def test_groups_go_one_after_another_with_the_least_loss_after_a_least_squares_fit(size: int) -> None:
    x, weight = draw(seed=3)
    left, gone = list(range(12 // size)), list[int]()
    naive = x.double().numpy(), weight.double().numpy()
    while left:
        losses = {}
        for group in left:
            channels = [size * other + at for other in left if other != group for at in range(size)]
            losses[group] = compute_least_loss(*naive, channels)
        gone.append(min(losses, key=losses.__getitem__))
        left.remove(gone[-1])
    found = BrainSurgeon(rounds=12, damping=DAMPING).rank(x, weight, size).tolist()
    assert found == gone[::-1]


def test_of_two_equal_inputs_one_stays() -> None:
    """Each alone can be spared, since the other can do its work; both together cannot."""
    x, weight = draw(seed=4)
    x[:, 1] = x[:, 0]
    weight[:, :2] *= 10
    places = BrainSurgeon().rank(x, weight, 1).tolist()
    one, other = sorted((places.index(0), places.index(1)))
    assert one < 4
    assert other >= 10
    assert max(ActivationNorm().rank(x, weight, 1).tolist().index(channel) for channel in (0, 1)) < 4


def test_few_tokens_and_many_inputs_are_ordered_too() -> None:
    generator = torch.Generator().manual_seed(5)
    x, weight = torch.randn(10, 40, generator=generator), torch.randn(3, 40, generator=generator)
    assert sorted(BrainSurgeon().rank(x, weight, 1).tolist()) == list(range(40))
