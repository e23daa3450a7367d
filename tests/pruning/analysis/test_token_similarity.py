"""The sums over groups of tokens equal loops over single tokens."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from pruning.analysis.token_similarity import (
    compute_mass,
    compute_nearest_cosine,
    compute_neighbour_cosine,
    count_holding,
)


def states_and_group() -> tuple[torch.Tensor, torch.Tensor]:
    """Three items of nine tokens: a group with a hole, one of a single token, an empty one."""
    torch.manual_seed(0)
    group = torch.zeros(3, 9, dtype=torch.bool)
    group[0, [1, 2, 3, 5, 6, 8]] = True
    group[1, 4] = True
    return torch.randn(3, 9, 5), group


def test_cosines_against_loops() -> None:
    states, group = states_and_group()
    indices = [1, 2, 3, 5, 6, 8]

    def cosine(one: int, other: int) -> float:
        return float(cosine_similarity(states[0, one], states[0, other], dim=0))

    neighbours = [cosine(1, 2), cosine(2, 3), cosine(5, 6)]
    nearest = [max(cosine(one, other) for other in indices if other != one) for one in indices]
    units = normalize(states, dim=-1)
    assert compute_neighbour_cosine(units, group) == (pytest.approx(sum(neighbours), abs=1e-5), 3)
    assert compute_nearest_cosine(units, group) == (pytest.approx(sum(nearest), abs=1e-5), 6)
    # A sample of three: the first, the one in the middle (2.5 is rounded to the even 2) and the last.
    few = nearest[0] + nearest[2] + nearest[5]
    assert compute_nearest_cosine(units, group, sample=3) == (pytest.approx(few, abs=1e-5), 3)


def test_attention_worked_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.2, 0.1, 0.19, 0.01], [0.2, 0.2, 0.2, 0.2, 0.2], [1.0, 0, 0, 0, 0]])
    group = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    assert compute_mass(weights, group) == (pytest.approx(0.5 + 1.0), 2)
    # 0.39 of 0.5 is 78 %, 0.49 is 98 %: three tokens. Of five alike all are needed. The empty group is left out.
    assert count_holding(weights, group) == (3 + 5, 2)
    assert count_holding(weights, group, share=0.78) == (2 + 4, 2)


def test_a_group_that_nothing_is_given_to_needs_no_token() -> None:
    weights = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.25, 0.25]])
    group = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    assert count_holding(weights, group) == (0 + 2, 2)
