"""Recycling dropped tokens: groups and means as a slow loop over one row, and what must hold for any input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_merge import cosine, random_tokens

from pruning.reduction.recycle import count_contextual, recycle_tokens
from search_spaces.errors import ArchitectureError

torch.set_num_threads(1)


def recycled_by_hand(
    hidden: torch.Tensor, metric: torch.Tensor, kept: list[int], contextual: int
) -> dict[int, list[int]]:
    """Index of every token that is left -> the indices of its group (one row, no padding)."""
    others = [index for index in range(len(hidden)) if index not in kept]
    targets = others[:: max(1, len(others) // contextual)][:contextual]
    groups = {index: [index] for index in kept + targets}
    for index in others:
        if index not in targets:
            groups[max(targets, key=lambda t: cosine(metric[index], metric[t]))].append(index)
    return dict(sorted(groups.items()))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 14), st.data())
def test_as_the_paper_says(length: int, data: st.DataObject) -> None:
    hidden, metric, sizes = random_tokens(2, length, data.draw(st.integers(0, 10**6)))
    number = data.draw(st.integers(1, length - 1))
    contextual = data.draw(st.integers(1, length - number))
    kept = torch.stack([torch.randperm(length)[:number] for _ in range(2)])
    recycled = recycle_tokens(hidden, metric, sizes, kept, contextual)
    for row in range(2):
        groups = recycled_by_hand(hidden[row], metric[row], kept[row].tolist(), contextual)
        assert recycled.kept[row].tolist() == list(groups)
        for index, group in enumerate(groups.values()):
            torch.testing.assert_close(recycled.hidden[row, index], hidden[row, group].mean(0), atol=1e-5, rtol=0)
            assert recycled.sizes[row, index] == len(group)
            assert (recycled.source[row] == index).nonzero().flatten().tolist() == sorted(group)


def test_a_padded_row_is_recycled_as_the_row_alone() -> None:
    hidden, metric, sizes = random_tokens(2, 12, 1)
    sizes[1, 8:] = 0
    kept = torch.tensor([[0, 4, 5], [0, 2, 5]])
    recycled = recycle_tokens(hidden, metric, sizes, kept, 2)
    alone = recycle_tokens(hidden[1:, :8], metric[1:, :8], sizes[1:, :8], kept[1:], 2)
    assert torch.equal(recycled.kept[1], alone.kept[0])
    torch.testing.assert_close(recycled.hidden[1], alone.hidden[0], atol=1e-6, rtol=0)
    assert torch.equal(recycled.sizes[1], alone.sizes[0])


def test_weights_are_the_sizes_of_an_earlier_stage() -> None:
    hidden, metric, sizes = random_tokens(1, 4, 2)
    sizes[0] = torch.tensor([1.0, 3.0, 2.0, 4.0])
    recycled = recycle_tokens(hidden, metric, sizes, torch.tensor([[0]]), 1)
    expected = (3 * hidden[0, 1] + 2 * hidden[0, 2] + 4 * hidden[0, 3]) / 9
    torch.testing.assert_close(recycled.hidden[0, 1], expected, atol=1e-5, rtol=0)
    assert recycled.sizes.tolist() == [[1, 9]]


def test_without_contextual_tokens_the_others_are_dropped() -> None:
    hidden, metric, sizes = random_tokens(1, 5, 3)
    recycled = recycle_tokens(hidden, metric, sizes, torch.tensor([[3, 1]]), 0)
    assert torch.equal(recycled.hidden, hidden[:, [1, 3]])
    assert recycled.kept.tolist() == [[1, 3]]


@pytest.mark.parametrize(("keep", "contextual"), [(64, 10), (128, 20), (192, 30), (4, 1)])
def test_the_published_settings(keep: int, contextual: int) -> None:
    assert count_contextual(keep) == contextual


def test_more_contextual_tokens_than_others_are_refused() -> None:
    hidden, metric, sizes = random_tokens(1, 5, 4)
    with pytest.raises(ArchitectureError, match="3 contextual tokens from 2"):
        recycle_tokens(hidden, metric, sizes, torch.tensor([[0, 1, 2]]), 3)
