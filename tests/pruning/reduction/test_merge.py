"""Merging tokens: what the paper says in words, as a slow loop, and what must hold for any input."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.reduction.inspection import _count_words_to_merge
from pruning.reduction.merge import log_sizes, merge_tokens, plan_rounds
from search_spaces.errors import ArchitectureError
from search_spaces.schedule import Stage

torch.set_num_threads(1)


def random_tokens(batch: int, length: int, seed: int, wide: int = 5, narrow: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, wide, generator=generator, dtype=torch.float64)
    return hidden, torch.randn(batch, length, narrow, generator=generator), torch.ones(batch, length)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other) / float(one.norm() * other.norm())


def merged_by_hand(
    hidden: torch.Tensor, metric: torch.Tensor, leading: int, keep: int, sizes: list[float] | None = None
) -> list[dict[str, Any]]:
    """One row, no padding: bipartite soft matching, edge by edge."""
    sizes = sizes or [1.0] * len(hidden)
    tokens = [
        {"state": state, "metric": key, "size": sizes[index], "members": [index], "first": index}
        for index, (state, key) in enumerate(zip(hidden, metric, strict=True))
    ]
    while len(tokens) - leading > keep:
        free = tokens[leading:]
        b, a = free[0::2], free[1::2]
        edges = []
        for token in a:
            likeness, partner = max(((cosine(token["metric"], t["metric"]), t) for t in b), key=lambda edge: edge[0])
            edges.append((likeness, token, partner))
        edges.sort(key=lambda edge: -edge[0])
        into: dict[int, list[Any]] = {}
        for _, token, partner in edges[: len(free) - keep]:
            into.setdefault(id(partner), [partner]).append(token)
            tokens = [t for t in tokens if t is not token]
        for group in into.values():
            whole = sum(t["size"] for t in group)
            state = sum(t["state"] * t["size"] for t in group) / whole
            key = sum(t["metric"] * t["size"] for t in group) / whole
            members = [index for t in group for index in t["members"]]
            group[0].update(state=state, metric=key, size=whole, members=members)
    return tokens


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2), st.integers(2, 13), st.floats(0.01, 1.0), st.integers(0, 10**6))
def test_as_the_paper_says(leading: int, tokens: int, share: float, seed: int) -> None:
    hidden, metric, sizes = random_tokens(2, leading + tokens, seed)
    keep = max(1, int(share * tokens))
    merged = merge_tokens(hidden, metric, sizes, leading, keep)
    for row in range(2):
        expected = merged_by_hand(hidden[row], metric[row], leading, keep)
        assert merged.hidden.shape[1] == leading + keep == len(expected)
        torch.testing.assert_close(merged.hidden[row], torch.stack([t["state"] for t in expected]), atol=1e-5, rtol=0)
        assert merged.sizes[row].tolist() == [t["size"] for t in expected]
        assert merged.kept[row].tolist() == [t["first"] for t in expected]
        for index, token in enumerate(expected):
            assert (merged.source[row] == index).nonzero().flatten().tolist() == sorted(token["members"])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 14), st.integers(0, 5), st.data())
def test_the_whole_and_its_mean_stay_as_they_were(tokens: int, padding: int, data: st.DataObject) -> None:
    hidden, metric, sizes = random_tokens(1, 1 + tokens + padding, data.draw(st.integers(0, 10**6)))
    sizes[0, 1:] = torch.tensor(
        data.draw(st.lists(st.integers(1, 4), min_size=tokens, max_size=tokens)) + [0] * padding
    )
    keep = data.draw(st.integers(1, tokens + padding))
    merged = merge_tokens(hidden, metric, sizes, 1, keep)
    assert merged.sizes.sum() == sizes.sum()
    before = (hidden * sizes[..., None]).sum(1)
    torch.testing.assert_close((merged.hidden * merged.sizes[..., None]).sum(1), before, atol=1e-5, rtol=0)
    assert (merged.kept.diff() > 0).all()
    assert (merged.source.gather(1, merged.kept) == torch.arange(1 + keep)).all()
    assert torch.equal(merged.hidden[:, 0], hidden[:, 0])  # the protected token is in no pair
    assert (merged.source[0] == 0).sum() == 1


def test_keeping_all_is_the_identity() -> None:
    hidden, metric, sizes = random_tokens(2, 7, 0)
    merged = merge_tokens(hidden, metric, sizes, 1, 6)
    assert torch.equal(merged.hidden, hidden)
    assert torch.equal(merged.sizes, sizes)
    assert merged.source.tolist() == merged.kept.tolist() == [list(range(7))] * 2


def test_padding_goes_first_and_a_padded_row_is_merged_as_the_row_alone() -> None:
    hidden, metric, sizes = random_tokens(2, 9, 3)
    sizes[1, 5:] = 0
    merged = merge_tokens(hidden, metric, sizes, 1, 4)
    alone = merge_tokens(hidden[1:, :5], metric[1:, :5], sizes[1:, :5], 1, 4)
    assert torch.equal(merged.hidden[1], alone.hidden[0])
    assert merged.sizes[1].tolist() == [1] * 5
    assert (merged.sizes[0] > 1).any()


def test_a_mask_says_who_may_go() -> None:
    hidden, metric, sizes = random_tokens(2, 8, 4)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, [2, 5]], mask[1, [0, 7]] = False, False
    merged = merge_tokens(hidden, metric, sizes, mask, 2, tokens=6)
    assert merged.hidden.shape[1] == 4
    for row, protected in ((0, [2, 5]), (1, [0, 7])):
        free = [index for index in range(8) if index not in protected]
        expected = merged_by_hand(hidden[row][free], metric[row][free], 0, 2)
        states = {token["first"]: token["state"] for token in expected}
        where = [free[first] for first in states]
        assert merged.kept[row].tolist() == sorted(where + protected)
        for first, state in states.items():
            slot = merged.kept[row].tolist().index(free[first])
            torch.testing.assert_close(merged.hidden[row, slot], state, atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_means() -> None:
    hidden, metric, sizes = random_tokens(1, 6, 5)
    hidden.requires_grad_(), metric.requires_grad_()
    merged = merge_tokens(hidden, metric, sizes, 1, 3)
    merged.hidden[..., 0].sum().backward()
    assert hidden.grad is not None
    expected = 1 / merged.sizes.gather(1, merged.source)  # each token's share of the one it is in
    torch.testing.assert_close(hidden.grad[..., 0], expected.double())
    assert metric.grad is None


def test_half_precision_does_not_overflow() -> None:
    hidden, metric, _ = random_tokens(1, 257, 6)
    big = (1000 + hidden).half()
    merged = merge_tokens(big, metric.half(), torch.ones(1, 257), 1, 2)
    assert merged.hidden.isfinite().all()
    torch.testing.assert_close(merged.hidden.double(), torch.full((1, 3, 5), 1000.0).double(), rtol=3e-3, atol=0)


def test_proportional_attention_counts_every_token() -> None:
    """A key that stands for three has the weight of three equal keys; padding is left to the mask."""
    logits, sizes = torch.tensor([0.3, -1.0, 0.7]), torch.tensor([[3.0, 1.0, 2.0]])
    weights = (logits + log_sizes(sizes)[0]).softmax(0)
    repeated = torch.tensor([0.3, 0.3, 0.3, -1.0, 0.7, 0.7]).softmax(0)
    torch.testing.assert_close(weights, torch.stack([repeated[:3].sum(), repeated[3], repeated[4:].sum()]))
    assert log_sizes(torch.zeros(1, 1)).item() == 0


class _Twice(torch.nn.Module):
    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        merged = merge_tokens(hidden, hidden, torch.ones(hidden.shape[:2]), 1, 4)
        return merged.hidden, merged.source


def test_it_can_be_traced_with_any_batch() -> None:
    traced = torch.export.export(
        _Twice(), (torch.randn(2, 14, 5),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    ).module()
    given = torch.randn(5, 14, 5)
    for one, other in zip(traced(given), _Twice()(given), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("permille", [125, 250, 333, 500, 510, 667, 750, 900])
def test_one_more_round_than_any_example_needs_is_enough_for_all_lengths(permille: int) -> None:
    """What a trace with any length relies on."""
    lengths = [tokens for tokens in range(2, 700) if 1 <= tokens * permille // 1000 < tokens]
    needed = {len(plan_rounds(tokens, tokens * permille // 1000)) for tokens in lengths}
    assert max(needed) <= min(needed) + 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20, 950), min_size=1, max_size=4, unique=True))
def test_a_trace_that_merges_has_rounds_for_all_lengths(permilles: list[int]) -> None:
    """And leaves two tokens or more: one would be taken for a size that is fixed."""
    stages = [Stage(block, permille) for block, permille in enumerate(sorted(permilles, reverse=True), 1)]

    def taken(tokens: int) -> list[int]:
        left = [tokens, *(stage.count_kept(tokens) for stage in stages)]
        return [len(plan_rounds(before, after)) for before, after in itertools.pairwise(left)]

    words = _count_words_to_merge(stages)
    assert stages[-1].count_kept(words) >= 2
    for tokens in (*range(1, 300), *range(4000, 9000, 97)):
        assert all(need <= traced + 1 for need, traced in zip(taken(tokens), taken(words), strict=True))


@pytest.mark.parametrize("keep", [0, 7])
def test_a_number_that_cannot_be_left_is_refused(keep: int) -> None:
    hidden, metric, sizes = random_tokens(1, 7, 0)
    with pytest.raises(ArchitectureError, match=f"6 tokens into {keep}"):
        merge_tokens(hidden, metric, sizes, 1, keep)
