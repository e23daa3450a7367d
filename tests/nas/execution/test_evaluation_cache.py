"""The hot path against plain evaluations: same numbers, nothing twice, nothing lost."""

import json
from pathlib import Path

import pytest
import torch
from families import build
from test_quality import dataset

from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.worker import Bench, LocalExecutor, Worker
from nas.quality import choose_evaluator
from nas.quality.evaluations import FileEvaluations
from nas.quality.precision import Precision, choose_precision
from pruning.anatomy.anatomy import read_anatomy
from pruning.inference.prefix_cache import GIB
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import CacheMismatch, UsageError


@pytest.fixture(params=["llama", "bert", "vit"])
def parts(request):
    model, data = build(request.param), dataset(request.param)
    return model, read_anatomy(model), data


def build_cached_evaluator(parts, path: Path, content: str = "a", **more) -> CachedEvaluator:
    model, anatomy, data = parts
    evaluator, cuts = choose_evaluator(model, data), more.pop("cuts", ())
    executor = LocalExecutor(Worker(Bench(model, anatomy, evaluator, **more)))
    return CachedEvaluator(
        evaluator, FileEvaluations(path, content), executor, more.get("precision", Precision.FP32), cuts
    )


def candidates(depth: int) -> list[Architecture]:
    parent = Architecture.parent(depth)
    units = [Unit(layer, kind) for layer in range(depth) for kind in (Kind.ATTENTION, Kind.MLP)]
    return [parent, *(parent.drop(unit) for unit in units), parent.drop(units[1], units[-1])]


@pytest.mark.parametrize("capacity", [0, GIB])
def test_scores_equal_plain_evaluations(capacity: int, parts, tmp_path: Path) -> None:
    model, anatomy, data = parts
    tested, plain = (
        build_cached_evaluator(parts, tmp_path / "e.jsonl", capacity=capacity),
        choose_evaluator(model, data),
    )
    for architecture in candidates(anatomy.depth):
        expected = plain.evaluate(prune(model, architecture, anatomy=anatomy), "validation")
        assert tested(architecture) == expected
        assert tested(architecture).per_item == expected.per_item
    assert (tested.executor.worker.stores[Precision.FP32].skipped > 0) == (capacity > 0)


@pytest.mark.parametrize("cuts", [(), (2, 5)])
def test_more_items_are_added_to_those_that_are_known(cuts: tuple[int, ...], parts, tmp_path: Path) -> None:
    model, anatomy, data = parts
    tested, plain = build_cached_evaluator(parts, tmp_path / "e.jsonl", cuts=cuts), choose_evaluator(model, data)
    for architecture in candidates(anatomy.depth):
        for items in (4, 7, 9):
            expected = plain.evaluate(prune(model, architecture, anatomy=anatomy), "validation", items)
            found = tested(architecture, items)
            assert found.items == items
            assert found.loss == pytest.approx(expected.loss, abs=1e-6)
            assert found.per_item == pytest.approx(expected.per_item, abs=1e-6)
            assert found.others == pytest.approx({name: expected.others[name] for name in found.others}, rel=1e-5)
    assert tested.items == 9 * len(candidates(anatomy.depth))
    again = build_cached_evaluator(parts, tmp_path / "e.jsonl", cuts=cuts)
    assert again(candidates(anatomy.depth)[0], 6).items == 6
    assert again.items == 6 - (5 if cuts else 4)


def test_nothing_is_computed_twice_not_even_by_the_next_search(parts, tmp_path: Path) -> None:
    first = build_cached_evaluator(parts, tmp_path / "e.jsonl")
    depth = parts[1].depth
    scores = [first(a, 4) for a in candidates(depth)] + [first(a, 4) for a in candidates(depth)]
    assert first.evaluations == len(candidates(depth))
    assert first.items == 4 * first.evaluations
    second = build_cached_evaluator(parts, tmp_path / "e.jsonl")
    again = [second(a, 4) for a in candidates(depth)]
    assert second.evaluations == 0
    assert again == scores[: len(again)]
    assert [q.per_item for q in again] == [q.per_item for q in scores[: len(again)]]
    other = build_cached_evaluator(parts, tmp_path / "e.jsonl", content="other weights")
    other(candidates(depth)[0], 4)
    assert other.evaluations == 1


def test_a_line_that_was_cut_off_costs_one_evaluation(parts, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    first = build_cached_evaluator(parts, path)
    for architecture in candidates(parts[1].depth)[:4]:
        first(architecture)
    path.write_text(path.read_text()[:-40])
    second = build_cached_evaluator(parts, path)
    for architecture in candidates(parts[1].depth)[:5]:
        second(architecture)
    assert second.evaluations == 2
    third = build_cached_evaluator(parts, path)
    assert len(third.known) == 5
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_verification_finds_a_cache_that_lies(parts, tmp_path: Path) -> None:
    honest = build_cached_evaluator(parts, tmp_path / "a.jsonl", verify=True)
    for architecture in candidates(parts[1].depth):
        honest(architecture)
    lying = build_cached_evaluator(parts, tmp_path / "b.jsonl", verify=True)
    store = lying.executor.worker.stores[Precision.FP32]
    keep = store.keep

    def corrupt(run: int, batch: str, prefix: tuple[str, ...], state: torch.Tensor) -> None:
        keep(run, batch, prefix, state + 0.01 * torch.randn_like(state))

    store.keep = corrupt

    def evaluate_many() -> None:
        for architecture in 2 * candidates(parts[1].depth):
            for items in (2, 4, 6, 9):
                lying(architecture, items)

    with pytest.raises(CacheMismatch, match="resumed and full evaluation differ by"):
        evaluate_many()


def test_bf16_ranks_as_fp32_and_the_choice_is_made_in_fp32(parts, tmp_path: Path) -> None:
    exact, fast = (
        build_cached_evaluator(parts, tmp_path / "a.jsonl"),
        build_cached_evaluator(parts, tmp_path / "b.jsonl", precision=Precision.BF16),
    )
    some = candidates(parts[1].depth)[1:]
    one, other = ([score(a, 4).loss for a in some] for score in (exact, fast))
    assert one != other
    assert torch.corrcoef(torch.tensor([one, other]))[0, 1] > 0.99
    assert [exact(a).loss for a in some[:3]] == pytest.approx([fast(a).loss for a in some[:3]], abs=1e-6)


def test_a_precision_is_one_of_three_words() -> None:
    assert choose_precision("fp32") is Precision.FP32
    assert choose_precision("auto") in set(Precision)
    with pytest.raises(UsageError, match="evaluate-in 'int8' is none of auto, fp32, bf16"):
        choose_precision("int8")
