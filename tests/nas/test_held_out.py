"""The test split is judged once for each architecture of a model, whatever device or budget it was found for."""

from pathlib import Path

from test_scorer import candidates, parts, scorer  # noqa: F401  (a fixture)

from nas.quality.evaluations import FileEvaluations
from nas.search.outcome import Candidate, SearchOutcome
from nas.service import _held_out
from search_spaces import Architecture


def outcome_of(judge, architectures: list[Architecture]) -> SearchOutcome:
    found = [Candidate(a, judge(a), 1.0, "evolution", number) for number, a in enumerate(architectures)]
    baselines = {"cosine-joint": found[-1]}
    return SearchOutcome(found[0], tuple(found[1:3]), tuple(found), baselines, len(found), 1.0)


def test_a_second_search_judges_only_what_is_new_on_the_test_split(parts, tmp_path: Path) -> None:  # noqa: F811
    judge = scorer(parts, tmp_path / "e.jsonl")
    parent, one, two, three, *_, last = candidates(parts[1].depth)
    asked: list[list[Architecture]] = []
    plainly = judge.all_in_full

    def noted(architectures, split: str):
        asked.append(list(architectures))
        return plainly(asked[-1], split)

    judge.all_in_full = noted
    first = _held_out(outcome_of(judge, [parent, one, two, last]), judge, FileEvaluations(tmp_path / "t.jsonl", "test"))
    second = _held_out(
        outcome_of(judge, [parent, one, three, last]), judge, FileEvaluations(tmp_path / "t.jsonl", "test")
    )
    assert asked == [[parent, one, two, last], [three]]
    for held_out, architectures in ((first, [parent, one, two, last]), (second, [parent, one, three, last])):
        truth = plainly(architectures, "test")
        assert held_out == {architecture.digest: truth[architecture] for architecture in architectures}
        assert all(held_out[a.digest].per_item == truth[a].per_item for a in architectures)
        assert {quality.split for quality in held_out.values()} == {"test"}
