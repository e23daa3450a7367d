"""The test split is judged once for each architecture of a model, whatever device or budget it was found for."""

from pathlib import Path
from types import SimpleNamespace

from test_evaluation_cache import build_cached_evaluator, candidates, parts  # noqa: F401  (a fixture)

from nas.pipeline.held_out import judge_held_out
from nas.quality.evaluations import FileEvaluations
from nas.quality.quality import Quality
from nas.search.outcome import Candidate, SearchOutcome
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent


def outcome_of(judge, architectures: list[Architecture]) -> SearchOutcome:
    found = [Candidate(a, judge(a), 1.0, "evolution", number) for number, a in enumerate(architectures)]
    baselines = {"cosine-joint": found[-1]}
    return SearchOutcome(found[0], tuple(found[1:3]), tuple(found), baselines, len(found), 1.0)


def test_a_second_search_judges_only_what_is_new_on_the_test_split(parts, tmp_path: Path) -> None:  # noqa: F811
    judge = build_cached_evaluator(parts, tmp_path / "e.jsonl")
    parent, one, two, three, *_, last = candidates(parts[1].depth)
    asked: list[list[Architecture]] = []
    plainly = judge.evaluate_all_in_full

    def noted(architectures, split: str, items: int):
        asked.append(list(architectures))
        return plainly(asked[-1], split, items)

    judge.evaluate_all_in_full = noted
    kept = tmp_path / "t.jsonl"
    first = judge_held_out(outcome_of(judge, [parent, one, two, last]), judge, FileEvaluations(kept, "test"))
    assert {each for some in asked for each in some} == {parent, one, two, last}
    asked.clear()
    second = judge_held_out(outcome_of(judge, [parent, one, three, last]), judge, FileEvaluations(kept, "test"))
    assert [each for some in asked for each in some] == [three]
    for held_out, architectures in ((first, [parent, one, two, last]), (second, [parent, one, three, last])):
        assert set(held_out) == {architecture.digest for architecture in architectures}
        for architecture in architectures:
            found = held_out[architecture.digest]
            truth = plainly([architecture], "test", found.items)[architecture]
            assert found == truth
            assert found.per_item == truth.per_item
            assert found.split == "test"


class Losses:
    """Stands for a cached evaluator whose architectures lose what they are said to on every one of the items."""

    def __init__(self, losses: dict[Architecture, list[float]]) -> None:
        self.losses, self.asked = losses, []
        self.evaluator = SimpleNamespace(dataset=SimpleNamespace(get_split=lambda name: range(32)))

    def evaluate_all_in_full(self, architectures, split: str, items: int) -> dict[Architecture, Quality]:
        self.asked += [(architecture, items) for architecture in architectures]
        return {each: self._quality(self.losses[each][:items]) for each in architectures}

    def __call__(self, architecture: Architecture) -> Quality:
        return self._quality(self.losses[architecture])

    def _quality(self, losses: list[float]) -> Quality:
        mean = sum(losses) / len(losses)
        return Quality("kl", mean, False, "test", mean, {}, len(losses), tuple(losses))


def test_a_baseline_that_is_clearly_worse_on_a_quarter_of_the_items_stays_there(tmp_path: Path) -> None:
    parent, winner, runner_up, worse, close = (
        drop_from_parent(6, (Unit(layer, Kind.MLP) for layer in range(dropped))) for dropped in range(5)
    )
    wave = [0.01 * (number % 5) for number in range(32)]
    losses = Losses(
        {
            parent: [0.0] * 32,
            winner: [0.5 + each for each in wave],
            runner_up: [0.6 + each for each in wave],
            worse: [2.0 - each for each in wave],
            close: [0.5 + each for each in reversed(wave)],
        }
    )
    found = [Candidate(each, losses(each), 1.0, "evolution", 0) for each in (parent, winner, runner_up, worse, close)]
    baselines = {"cosine-joint": found[3], "cosine-mlp": found[4], "cosine-block": found[1]}
    outcome = SearchOutcome(found[0], tuple(found[1:3]), tuple(found), baselines, 5, 1.0)
    held_out = judge_held_out(outcome, losses, FileEvaluations(tmp_path / "t.jsonl", "test"))
    items = {each: held_out[each.digest].items for each in losses.losses}
    assert items == {parent: 32, winner: 32, runner_up: 32, worse: 8, close: 32}
    assert held_out[worse.digest].per_item == tuple(losses.losses[worse][:8])
    assert held_out[close.digest] == losses(close)
    assert (winner, 8) not in losses.asked  # it is a baseline, too
