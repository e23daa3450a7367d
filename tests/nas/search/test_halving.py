"""Growing item budgets: who is clearly worse stops early, and what is estimated is near the truth."""

import math
import random
from dataclasses import replace

import pytest
from test_methods import problem

from nas.pipeline.evaluator import list_rungs
from nas.quality.quality import Quality
from nas.search import Candidate, Problem
from nas.search.halving import IncumbentThreshold, find_statistically_tied, judge
from nas.search.outcome import evaluate_in_full
from search_spaces import Architecture, Kind, Unit

ITEMS, RUNGS = 60, (10, 30, 60)
FIDELITY = RUNGS[1]
PARENT = Architecture.parent(3)
INCUMBENT = PARENT.drop(Unit(1, Kind.ATTENTION))
OTHER = PARENT.drop(Unit(2, Kind.MLP))


class Recorded:
    """Per-item losses, hard and easy items in common; counts the items that were asked for."""

    def __init__(self, worse_by: float, noise: float = 0.02) -> None:
        rng = random.Random(0)
        hardness = [rng.uniform(0.5, 3.0) for _ in range(ITEMS)]
        self.losses = {
            INCUMBENT: hardness,
            OTHER: [h + worse_by + rng.gauss(0, noise) for h in hardness],
        }
        self.asked: list[tuple[Architecture, int]] = []

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        count = items or ITEMS
        self.asked.append((architecture, count))
        losses = self.losses.get(architecture, [0.0] * ITEMS)[:count]
        mean = math.fsum(losses) / count
        return Quality("kl", mean, False, "validation", mean, {}, count, tuple(losses))


def judged(worse_by: float, margin: float = 0.0) -> tuple[Quality, Recorded]:
    recorded = Recorded(worse_by)
    asked = problem(8.0, evaluate=recorded, rungs=RUNGS)
    return judge(asked, OTHER, IncumbentThreshold(INCUMBENT, margin)), recorded


def test_the_clearly_worse_stop_on_the_first_rung_with_a_good_estimate() -> None:
    quality, recorded = judged(worse_by=0.5)
    assert quality.items == RUNGS[0]
    truth = recorded(OTHER, FIDELITY).loss
    plain = recorded(OTHER, RUNGS[0]).loss
    assert abs(quality.loss - truth) < 0.02 < abs(plain - truth)  # the items in common cancel out


@pytest.mark.parametrize("worse_by", [-0.5, 0.0])
def test_the_better_and_the_equal_go_as_far_as_trials_do(worse_by: float) -> None:
    quality, recorded = judged(worse_by)
    assert quality.items == FIDELITY
    assert quality.loss == recorded(OTHER, FIDELITY).loss


def test_what_is_worse_but_within_the_margin_goes_on() -> None:
    assert judged(worse_by=0.5, margin=0.6)[0].items == FIDELITY


def test_the_incumbent_the_parent_and_the_first_do_not_stop_early() -> None:
    recorded = Recorded(1.0)
    asked = problem(8.0, evaluate=recorded, rungs=RUNGS)
    for architecture, threshold in (
        (INCUMBENT, IncumbentThreshold(INCUMBENT, 0.0)),
        (PARENT, IncumbentThreshold(INCUMBENT, 0.0)),
        (OTHER, None),
    ):
        assert judge(asked, architecture, threshold).items == FIDELITY


@pytest.mark.parametrize(
    ("items", "expected"),
    [(1, (1,)), (4, (4,)), (6, (4, 6)), (24, (4, 9, 24)), (96, (12, 36, 96)), (320, (40, 120, 320))],
)
def test_rungs_grow_to_all_items_and_start_with_at_least_four(items: int, expected: tuple[int, ...]) -> None:
    assert list_rungs(items) == expected


class Trials:
    """Forty architectures of nearly the same loss; heavy: three items of a hundred carry it, and each misses some."""

    items = 240
    rungs = (30, 90, 240)

    def __init__(self, seed: int, heavy: bool) -> None:
        rng = random.Random(seed)
        units = [Unit(layer, kind) for layer in range(20) for kind in (Kind.ATTENTION, Kind.MLP)]
        self.architectures = [Architecture.parent(20).drop(unit) for unit in units]
        misses = [rng.uniform(0.015, 0.045) for _ in units]
        hardness = [rng.uniform(0.5, 3.0) for _ in range(self.items)]

        def of(miss: float) -> list[float]:
            if heavy:
                return [0.01 + 6.0 * (rng.random() < miss) for _ in range(self.items)]
            return [hard + 10 * miss + rng.gauss(0, 0.01) for hard in hardness]

        self.losses = {a: of(miss) for a, miss in zip(self.architectures, misses, strict=True)}

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        losses = self.losses[architecture][:items]
        mean = math.fsum(losses) / len(losses)
        return Quality("kl", mean, False, "validation", mean, {}, len(losses), tuple(losses))

    def problem(self) -> Problem:
        return problem(8.0, evaluate=self, rungs=self.rungs)

    def candidates(self) -> list[Candidate]:
        every = [Candidate(a, self(a, self.rungs[1]), 1.0, "", 0) for a in self.architectures]
        return sorted(every, key=lambda c: c.quality.loss)

    def regret(self, chosen: list[Candidate]) -> float:
        """How much worse the best of them is than the best of all, on all items."""
        return min(self(c.architecture).loss for c in chosen) - min(self(a).loss for a in self.architectures)


def test_where_few_items_carry_the_loss_more_are_judged_on_all_and_a_better_one_is_found() -> None:
    few, more = [], []
    for seed in range(20):
        trials = Trials(seed, heavy=True)
        candidates = trials.candidates()
        chosen = find_statistically_tied(trials.problem(), candidates, 4)
        assert chosen[:4] == candidates[:4]
        assert 4 < len(chosen) <= trials.problem().max_tied
        few.append(trials.regret(candidates[:4]))
        more.append(trials.regret(chosen))
    assert sum(more) < 0.5 * sum(few)


def test_no_more_are_judged_on_all_items_than_the_problem_allows() -> None:
    trials = Trials(0, heavy=True)
    chosen = find_statistically_tied(replace(trials.problem(), max_tied=6), trials.candidates(), 4)
    assert chosen[:4] == trials.candidates()[:4]
    assert len(chosen) == 6


def test_those_that_begin_alike_are_judged_on_all_items_one_after_another() -> None:
    trials, asked = Trials(0, heavy=True), list[Architecture]()

    def evaluate(architecture: Architecture, items: int | None = None) -> Quality:
        asked.append(architecture)
        return trials(architecture, items)

    first, *others = trials.candidates()
    known = replace(first, full=True)
    judged = evaluate_in_full(replace(trials.problem(), evaluate=evaluate), [known, *others])
    assert asked == sorted((c.architecture for c in others), key=lambda a: a.words.split())
    assert [c.architecture for c in judged] == [c.architecture for c in (first, *others)]
    assert [c.quality for c in judged] == [first.quality, *(trials(c.architecture) for c in others)]
    assert all(c.full for c in judged)


def test_where_items_tell_candidates_apart_no_others_are_judged() -> None:
    trials = Trials(0, heavy=False)
    assert find_statistically_tied(trials.problem(), trials.candidates(), 4) == trials.candidates()[:4]


def test_who_was_stopped_early_is_not_undecided() -> None:
    trials = Trials(0, heavy=True)
    first, *others = trials.candidates()
    stopped = [Candidate(c.architecture, trials(c.architecture, 30), 1.0, "", 0) for c in others]
    assert find_statistically_tied(trials.problem(), [first, *stopped], 1) == [first]
    assert find_statistically_tied(trials.problem(), [], 4) == []
