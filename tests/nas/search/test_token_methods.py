"""Published token schedules: one contract for all, and each against what its paper draws.

Eight blocks; each takes 3 ms times the share of tokens it works on, the stem 1 ms: the parent takes 25 ms.
"""

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from latency_models.workload import Phase, Workload
from nas.quality.quality import Quality
from nas.request.choices import check_method
from nas.search import Problem, SearchOutcome, run_search
from nas.search.journal import Journal
from nas.search.methods import TOKEN_METHODS
from nas.search.methods.schedules import (
    exchange_parts_for_tokens,
    fit_to_budget,
    list_published_schedules,
    snap_to_target,
)
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from search_spaces import (
    Architecture,
    Kind,
    Positions,
    Reducer,
    Reduction,
    Schedule,
    Scorer,
    Source,
    Space,
    Unit,
)
from search_spaces.architecture import make_stage_choice
from search_spaces.errors import NoFeasibleCandidate, UsageError
from search_spaces.schedule import Stage

DEPTH = 8
PARTS = tuple(Unit(layer, kind).dropped for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP))
REDUCTION = Reduction(Scorer.MEAN)
ALIKE = tuple(0.5 + 0.05 * layer for layer in range(DEPTH))
REDUNDANCY = Redundancy("made", "pre_norm", 1, ALIKE, ALIKE, ALIKE, ((1.0,) * (DEPTH + 1),) * (DEPTH + 1))
SPACE = Space.dropping(DEPTH, PARTS).allow_tokens(REDUCTION, range(1, DEPTH), (0.75, 0.5, 0.25))


def evaluate(architecture: Architecture, items: int | None = None) -> Quality:
    """Early tokens and early parts are worth most; a stage costs by itself."""
    missing = [1 - share for share in architecture.tokens.compute_shares(DEPTH)]
    tokens = sum((DEPTH - block) * gone**2 for block, gone in enumerate(missing)) / 10
    parts = sum(0.3 * (DEPTH - unit.layer) / DEPTH for unit in PARTS if architecture.drops(unit))
    loss = tokens + parts + 0.01 * len(architecture.tokens.stages)
    return Quality("kl", loss, False, "validation", loss, items=items or 4)


def problem(budget_ms: float, phase: Phase = Phase.FORWARD, **more) -> Problem:
    settings = {"space": SPACE, "evaluate": evaluate, "latency": SyntheticLatency(DEPTH, workload=Workload(phase)),
                "budget_ms": budget_ms,
                "percentile": 90, "redundancy": REDUNDANCY, "storage": "sqlite://", "reduction": REDUCTION}  # fmt: skip
    return Problem(**{**settings, **more})


@pytest.mark.parametrize("budget", [22.0, 17.0, 13.0])
@pytest.mark.parametrize("name", TOKEN_METHODS)
def test_the_contract(name: str, budget: float) -> None:
    asked = problem(budget)
    found = TOKEN_METHODS[name].choose_architecture(asked)
    assert found is not None
    assert asked.is_feasible(found)
    assert TOKEN_METHODS[name].choose_architecture(asked) == found
    if name != "dop":
        assert not found.structure.choices
        more = [replace(stage, permille=min(1000, stage.permille + 3)) for stage in found.tokens.stages]
        assert (
            asked.predict_ms(found.replace_tokens(replace(found.tokens, stages=tuple(more)))) > budget - 0.1
        )  # none is wasted


@pytest.mark.parametrize("name", sorted(set(TOKEN_METHODS) - {"dop"}))
def test_what_no_schedule_reaches_is_none(name: str) -> None:
    """One block at least has all tokens."""
    assert TOKEN_METHODS[name].choose_architecture(problem(3.9)) is None


def test_pyramid_drop_has_powers_of_one_ratio_at_the_quarters() -> None:
    """Two blocks each at 1, a, a^2 and a^3: with a half 1 + 6 (1 + 1/2 + 1/4 + 1/8) = 12.25 ms."""
    found = TOKEN_METHODS["pyramiddrop"].choose_architecture(problem(12.25))
    assert str(found.tokens) == "2=0.5,4=0.25,6=0.125"
    assert found.reduction == Reduction(Scorer.MEAN, Reducer.DROP, Positions.KEPT, Source.NEXT)


def test_the_control_is_the_same_schedule_by_chance() -> None:
    found, control = (
        TOKEN_METHODS[name].choose_architecture(problem(12.25)) for name in ("pyramiddrop", "random-tokens")
    )
    assert control.tokens.stages == found.tokens.stages
    assert control.reduction.scorer is Scorer.RANDOM


def test_in_a_decoder_the_last_token_asks_and_positions_are_compacted() -> None:
    asked = problem(12.25, Phase.PREFILL, reduction=Reduction(Scorer.LAST))
    assert TOKEN_METHODS["pyramiddrop"].choose_architecture(asked).reduction.positions is Positions.COMPACTED
    assert TOKEN_METHODS["tome"].choose_architecture(asked) is None  # tokens cannot merge where attention is causal


def test_fastv_keeps_a_share_after_two_blocks() -> None:
    """2 blocks whole, 6 at a half: 1 + 6 + 9."""
    assert str(TOKEN_METHODS["fastv"].choose_architecture(problem(16.0)).tokens) == "2=0.5"


def test_tome_merges_as_many_at_every_block() -> None:
    found = TOKEN_METHODS["tome"].choose_architecture(problem(16.0))
    left = [1000, *(stage.permille for stage in found.tokens.stages)]
    steps = [earlier - later for earlier, later in itertools.pairwise(left)]
    assert max(steps) - min(steps) <= 1  # thousandths
    assert len(steps) == DEPTH - 1
    assert found.reduction.reducer is Reducer.MERGE


def test_equal_steps_is_the_best_of_its_grid() -> None:
    """Late stages lose least here, as long as they meet the budget: others of its kind are no better."""
    asked = problem(18.0)
    found = TOKEN_METHODS["equal-steps"].choose_architecture(asked)
    assert evaluate(found).loss <= min(
        evaluate(a).loss
        for first in range(1, 4)
        for share in range(5, 996, 5)
        for a in [Architecture(DEPTH).drop(make_stage_choice(Stage(first, share)))]
        if asked.is_feasible(a) and first in (1, 2, 3)
    ) + 1e-9  # fmt: skip


def test_dop_counts_arithmetic_and_not_milliseconds() -> None:
    """Where only attention is arithmetic, attentions go first whatever the device says."""

    def attention(architecture: Architecture) -> float:
        shares = architecture.tokens.compute_shares(DEPTH)
        return sum(shares[u.layer] for u in PARTS if u.kind is Kind.ATTENTION and not architecture.drops(u))

    found = TOKEN_METHODS["dop"].choose_architecture(problem(24.0, flops=attention))
    assert {unit.kind for unit in found.structure.choices} <= {Kind.ATTENTION}
    assert problem(24.0).is_feasible(found)


def test_a_token_method_runs_in_place_of_the_search() -> None:
    outcome = run_search(problem(12.25, method="pyramiddrop"))
    assert str(outcome.winner.architecture.tokens) == "2=0.5,4=0.25,6=0.125"
    assert outcome.winner.origin == "pyramiddrop"
    with pytest.raises(NoFeasibleCandidate, match="pyramiddrop cannot get there"):
        run_search(problem(1.5, method="pyramiddrop"))


def test_a_token_method_has_nothing_to_add_back() -> None:
    assert check_method("dop") == "dop"
    with pytest.raises(UsageError, match="pyramiddrop"):
        check_method("pyramiddrop+add-back")


def test_our_search_is_at_least_as_good_as_each() -> None:
    ours = run_search(problem(14.0, trials=40)).winner.quality.loss
    for name, method in TOKEN_METHODS.items():
        assert ours <= 1.05 * evaluate(method.choose_architecture(problem(14.0))).loss, name


def whole_eighths(ratio: float) -> float:
    """A device that works on an eighth of the tokens at a time."""
    return math.ceil(8 * ratio) / 8


def test_our_own_schedules_end_on_the_steps_of_the_device() -> None:
    """Raised to one power, both ratios of 1=0.5,4=0.25 are rounded up: the most of all such powers in the budget."""
    asked = problem(15.0, snap=whole_eighths)
    start = Architecture(DEPTH).replace_tokens(Schedule.parse("1=0.5,4=0.25", REDUCTION))

    def at(power: float) -> Architecture:
        ratios = [whole_eighths(ratio**power) for ratio in (0.5, 0.25)]
        return Architecture(DEPTH).replace_tokens(Schedule.parse(f"1={ratios[0]},4={ratios[1]}", REDUCTION))

    best = max((at(k / 1000) for k in range(1, 1001) if asked.is_feasible(at(k / 1000))), key=asked.predict_ms)
    assert fit_to_budget(asked, start) == best
    proposed = list_published_schedules(asked, Architecture(DEPTH))
    assert {name for name, _ in proposed} == {"pyramiddrop", "fastv", "tome"}
    for _, architecture in proposed:
        assert asked.is_feasible(architecture)
        assert all(stage.permille % 125 == 0 for stage in architecture.tokens.stages)


def test_what_is_too_slow_has_its_tokens_reduced_until_it_fits() -> None:
    """One block whole and seven at a share s: 1 + 3 + 21 s, so 14.5 ms leave a half."""
    asked = problem(14.5)
    start = Architecture(DEPTH).replace_tokens(Schedule.parse("1=0.9", REDUCTION))
    assert str(fit_to_budget(asked, start).tokens) == "1=0.5"
    assert fit_to_budget(asked, Architecture(DEPTH)) is None  # has no stages
    assert fit_to_budget(problem(3.9), start) is None  # no share is small enough


def test_each_exchange_changes_one_part_and_spends_its_time_on_tokens() -> None:
    """1 + 3 + 2 + 18 s without attention 1 and from block 2 on at s; the attention of a block takes a third of it."""
    start = Architecture(DEPTH).drop(Unit(1, Kind.ATTENTION)).replace_tokens(Schedule.parse("2=0.5", REDUCTION))
    asked = problem(15.0)
    assert asked.predict_ms(start) == 15.0
    found = {each.structure.choices ^ start.structure.choices: each for each in exchange_parts_for_tokens(asked, start)}
    assert set(found) == {frozenset({part}) for part in PARTS if part != Unit(1, Kind.MLP).dropped} | {
        frozenset({Unit(1, Kind.ATTENTION).dropped, Unit(1, Kind.BLOCK).dropped})  # both are gone: the block is
    }
    shares = {
        Unit(1, Kind.ATTENTION): 8 / 18,  # back: 1 + 6 + 18 s
        Unit(0, Kind.MLP): 11 / 18,  # gone: 1 + 1 + 2 + 18 s
        Unit(7, Kind.MLP): 9 / 16,  # gone: 1 + 3 + 2 + 16 s
    }
    for part, share in shares.items():
        assert found[frozenset({part.dropped})].tokens.stages[0].ratio == pytest.approx(share, abs=0.002)
    assert all(14.95 < asked.predict_ms(each) <= 15.0 for each in found.values())


def dear_parts_and_one_cheap(architecture: Architecture, items: int | None = None) -> Quality:
    """The last MLP loses next to nothing; tokens lose by how many are gone, any other part by itself."""
    gone = sum(1 - share for share in architecture.tokens.compute_shares(DEPTH))
    parts = sum(0.001 if unit == Unit(7, Kind.MLP).dropped else 2.0 for unit in PARTS if architecture.drops(unit))
    loss = gone**2 / 10 + parts
    return Quality("kl", loss, False, "validation", loss, items=items or 4)


def test_a_search_exchanges_parts_for_tokens_between_the_shares_of_its_space() -> None:
    coarse = Space.dropping(DEPTH, PARTS).allow_tokens(REDUCTION, range(1, DEPTH), (0.5,))
    asked = problem(13.0, space=coarse, evaluate=dear_parts_and_one_cheap)
    outcome = run_search(asked)
    within = [candidate for candidate in outcome.candidates if asked.is_feasible(candidate.architecture)]
    without = min(candidate.quality.loss for candidate in within if candidate.origin != "exchange")
    assert outcome.winner.origin == "exchange"
    assert outcome.winner.quality.loss < without
    assert outcome.winner.architecture.structure.choices == {Unit(7, Kind.MLP).dropped}
    assert run_search(asked).winner == outcome.winner
    assert not any(c.origin == "exchange" for c in run_search(replace(asked, space=alone(coarse))).candidates)


FEW = 20  # trials, so that most of a search is polishing


@pytest.fixture(scope="module")
def undisturbed() -> Callable[[float], SearchOutcome]:
    """Gives the search that nothing stopped, by budget."""
    return cache(lambda budget: run_search(problem(budget, trials=FEW)))


@pytest.mark.parametrize("died_after", [pytest.param(1, marks=pytest.mark.slow), 12, 99])
@pytest.mark.parametrize("budget", [pytest.param(9.0, marks=pytest.mark.slow), 16.0])
def test_a_search_that_died_while_it_polished_ends_as_if_it_had_not(
    budget, died_after, undisturbed, tmp_path, monkeypatch
) -> None:
    """99: it was done, and is asked for again."""
    expected = undisturbed(budget)
    asked = problem(budget, storage=f"sqlite:///{tmp_path}/study.db", trials=FEW)
    add, added = Journal.add, []

    def mortal(journal: Journal, *given, **named) -> None:
        if len(added) == died_after:
            raise KeyboardInterrupt
        added.append(given)
        add(journal, *given, **named)

    monkeypatch.setattr(Journal, "add", mortal)
    with contextlib.suppress(KeyboardInterrupt):
        run_search(asked)
    monkeypatch.setattr(Journal, "add", add)
    assert (len(added) == died_after) == (died_after < 99)
    again = run_search(asked)
    assert (again.winner.architecture, again.trials) == (expected.winner.architecture, expected.trials)


def alone(space: Space) -> Space:
    """Its tokens, without its parts."""
    return replace(space, choices=space.steps)


def test_a_step_that_takes_as_long_as_all_tokens_is_no_stage() -> None:
    """0.9 is rounded up to everything, 0.45 and 0.4 to one half: one stage is left of three."""
    snapped_to = snap_to_target(problem(15.0, snap=whole_eighths), Schedule.parse("1=0.9,3=0.45,5=0.4", REDUCTION))
    assert str(snapped_to) == "3=0.5"
