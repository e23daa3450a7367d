"""The engine on synthetic problems whose true optimum brute force knows."""

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest

from latency_models.model import Prediction
from nas.quality.quality import Quality
from nas.search import Problem, SearchOutcome, run_search
from nas.search.journal import Journal
from nas.search.limit import Limit
from nas.search.problem import Asked
from nas.search.solve import solve
from nas.search.surrogate import Surrogate
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from search_spaces import STRUCTURE, Architecture, Choice, Kind, Space, Unit
from search_spaces.errors import NoFeasibleCandidate
from search_spaces.space import is_empty

DEPTH = 6
UNITS = tuple(Unit(layer, kind).dropped for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP))
SPACE = Space.dropping(DEPTH, UNITS)
EVERY = tuple(Unit(layer, kind) for layer in range(DEPTH) for kind in STRUCTURE)


LATENCY = SyntheticLatency(DEPTH)


class Landscape:
    """Loss with strong pairwise interactions; counts how often it is asked."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.single = {unit: float(value) for unit, value in zip(UNITS, rng.uniform(0.05, 1, len(UNITS)), strict=True)}
        self.pair = {pair: float(rng.uniform(-0.15, 0.5)) for pair in itertools.combinations(UNITS, 2)}
        self.known: dict[tuple[Architecture, int | None], Quality] = {}

    @property
    def calls(self) -> int:
        """How many architectures were computed; asking again is free, as it is of the cached evaluator."""
        return len(self.known)

    def loss(self, architecture: Architecture) -> float:
        gone = [unit for unit in UNITS if architecture.drops(unit)]
        value = sum(self.single[u] for u in gone) + sum(self.pair[p] for p in itertools.combinations(gone, 2))
        return max(value, 0.001 * len(gone))

    def __call__(self, architecture: Architecture, items: int | None) -> Quality:
        if (architecture, items) not in self.known:
            loss = self.loss(architecture)
            self.known[architecture, items] = Quality("kl", loss, False, "validation", loss, items=items or 99)
        return self.known[architecture, items]


def similarities(seed: int) -> Redundancy:
    """Made-up cosines."""
    rng = np.random.default_rng(seed)
    attention, mlp, block = (tuple(rng.uniform(0.5, 1, DEPTH)) for _ in range(3))
    between = tuple(tuple(row) for row in rng.uniform(0.5, 1, (DEPTH + 1, DEPTH + 1)))
    return Redundancy("made", "pre_norm", 1, attention, mlp, block, between)


def problem(tmp_path: Path, landscape, budget: float, **more) -> Problem:
    settings = {
        "space": SPACE, "evaluate": landscape, "latency": LATENCY, "budget_ms": budget, "percentile": 90,
        "redundancy": similarities(0), "trials": 60, "patience": 99, "storage": f"sqlite:///{tmp_path}/study.db",
    }  # fmt: skip
    return Problem(**{**settings, **more})


def every_architecture() -> list[Architecture]:
    subsets = itertools.chain.from_iterable(itertools.combinations(UNITS, n) for n in range(len(UNITS)))
    return [SPACE.decode(set(units)) for units in subsets]


@pytest.fixture(scope="module")
def everything() -> list[Architecture]:
    return every_architecture()


@pytest.mark.parametrize(
    ("seed", "share"),
    [(0, 0.8), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 0.5), (2, 0.5), (3, 0.65)))],
)
def test_finds_the_optimum_in_few_evaluations(seed: int, share: float, everything, tmp_path: Path) -> None:
    landscape, latency = Landscape(seed), LATENCY
    budget = share * latency.predict(SPACE.parent).ms
    best = min(landscape.loss(a) for a in everything if latency.predict(a).ms <= budget)
    outcome = run_search(problem(tmp_path, landscape, budget, trials=60))
    assert outcome.winner.predicted_ms <= budget
    assert outcome.winner.quality.loss <= 1.02 * best
    assert landscape.calls <= 0.05 * 4096
    cosine = outcome.baselines["cosine-joint"]
    assert outcome.winner.quality.loss <= cosine.quality.loss


@pytest.mark.parametrize("seed", range(5))
def test_the_mip_equals_brute_force(seed: int, everything) -> None:
    rng = random.Random(seed)
    loss = {unit: rng.uniform(0, 1) for unit in UNITS}
    saves = {unit: rng.uniform(0.5, 3) for unit in UNITS}
    needed = 0.45 * sum(saves.values())

    def total(architecture: Architecture, of: dict[Choice, float]) -> float:
        return sum(of[unit] for unit in UNITS if architecture.drops(unit))

    enough = [a for a in everything if total(a, saves) >= needed]
    found = solve(SPACE, loss, saves, needed, solutions=5)
    assert total(found[0], loss) == pytest.approx(min(total(a, loss) for a in enough), abs=1e-6)
    assert all(total(a, saves) >= needed - 1e-6 for a in found)
    for one, other in itertools.combinations(found, 2):
        assert sum(one.drops(unit) != other.drops(unit) for unit in UNITS) >= 2


@pytest.mark.parametrize("seed", range(3))
def test_the_mip_with_pair_terms_equals_brute_force(seed: int, everything) -> None:
    landscape = Landscape(seed)
    near = {pair: more for pair, more in landscape.pair.items() if abs(pair[0].layer - pair[1].layer) <= 1}
    rng = random.Random(seed)
    saves = {unit: rng.uniform(0.5, 3) for unit in UNITS}
    needed = 0.5 * sum(saves.values())

    def total(architecture: Architecture) -> float:
        gone = [unit for unit in UNITS if architecture.drops(unit)]
        return sum(landscape.single[u] for u in gone) + sum(m for p, m in near.items() if set(p) <= set(gone))

    enough = [a for a in everything if sum(saves[u] for u in UNITS if a.drops(u)) >= needed]
    found = solve(SPACE, landscape.single, saves, needed, solutions=3, pairs=near)
    assert total(found[0]) == pytest.approx(min(map(total, enough)), abs=1e-6)
    assert [total(a) for a in found] == sorted(total(a) for a in found)


def test_the_mip_never_takes_a_block_and_its_parts() -> None:
    units = tuple(Unit(layer, kind).dropped for layer in range(3) for kind in STRUCTURE)
    space = Space.dropping(3, units, merges_blocks=False)
    loss = {unit: 1.0 if unit.kind is Kind.BLOCK else 0.4 for unit in units}
    saves = {unit: 3.5 if unit.kind is Kind.BLOCK else 1.5 for unit in units}
    first, *others = solve(space, loss, saves, 3.2, solutions=6)
    assert first.words.split().count("removed") == 1  # one block at 1.0 beats three units at 1.2
    for architecture in (first, *others):
        assert sum(saves[unit] for unit in architecture.choices) >= 3.2


def test_the_same_seed_gives_the_same_search_and_another_may_not(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        outcome = run_search(problem(tmp_path / name, Landscape(1), 9.0, trials=16))
        runs.append([c.architecture for c in outcome.candidates])
    assert runs[0] == runs[1]


def test_the_order_of_sets_in_a_process_makes_no_difference(tmp_path: Path) -> None:
    """Hashes of strings differ between this process and another; the search does not."""
    script = (
        "import sys; from pathlib import Path; from test_search import *;"
        "outcome = run_search(problem(Path(sys.argv[1]), Landscape(5), 9.0, trials=16));"
        "print([c.architecture.words for c in outcome.candidates])"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "there")], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent, env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    outcome = run_search(problem(tmp_path / "here", Landscape(5), 9.0, trials=16))
    assert done.stdout.strip() == str([c.architecture.words for c in outcome.candidates])


class Interrupted(Landscape):
    """Stops the program at some call, as Ctrl-C does."""

    def __init__(self, seed: int, at: int) -> None:
        super().__init__(seed)
        self.at = at

    def __call__(self, architecture: Architecture, items: int | None) -> Quality:
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().__call__(architecture, items)


def test_a_resumed_search_repeats_nothing_and_loses_nothing(tmp_path: Path) -> None:
    first = Interrupted(2, at=60)
    with pytest.raises(KeyboardInterrupt):
        run_search(problem(tmp_path, first, 9.0, trials=40))
    before = optuna.load_study(study_name="nas", storage=f"sqlite:///{tmp_path}/study.db").get_trials()
    done = {t.user_attrs["digest"] for t in before if t.state.name in ("COMPLETE", "PRUNED")}
    assert 0 < len(done) < 40
    second = Landscape(2)
    outcome = run_search(problem(tmp_path, second, 9.0, trials=40))
    assert outcome.trials == 40
    digests = [c.architecture.digest for c in outcome.candidates]
    assert done <= set(digests)
    assert len(digests) == len(set(digests))
    states = [
        t.state.name for t in optuna.load_study(study_name="nas", storage=f"sqlite:///{tmp_path}/study.db").trials
    ]
    assert "RUNNING" not in states


TRIALS = 18


def sequence(outcome: SearchOutcome) -> list[tuple[str, str, float]]:
    """Everything that was told, in order."""
    return [(c.architecture.digest, c.origin, c.quality.loss) for c in outcome.candidates]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[tuple[str, str, float]]]:
    """The same search without an interruption, by size of its batches."""
    return {
        batch: sequence(run_search(problem(tmp_path_factory.mktemp("whole"), Landscape(2), 9.0, **asked_for(batch))))
        for batch in (1, 4)
    }


def asked_for(batch: int) -> dict[str, int]:
    return {"trials": TRIALS, "batch": batch}


DEATHS = [(where, call, carried_out, batch)
          for where, calls in {"_begin": (1, 7, 15), "tell": (2, 14)}.items() for call in calls
          for carried_out in (False, True) for batch in (1, 4)]  # fmt: skip
QUICK = (("_begin", 1, False, 4), ("_begin", 7, True, 1), ("_begin", 15, False, 1), ("tell", 2, False, 1),
         ("tell", 14, True, 4))  # fmt: skip


@pytest.mark.parametrize(
    ("where", "call", "carried_out", "batch"),
    [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in DEATHS if each not in QUICK)],
)
def test_a_search_that_dies_goes_on_as_if_it_had_not(
    where: str, call: int, carried_out: bool, batch: int, undisturbed, tmp_path: Path, monkeypatch
) -> None:
    """While proposals are asked for and while outcomes are told, before and after the study has them."""
    calls, real = itertools.count(1), getattr(Journal, where)

    def dying(journal: Journal, *arguments: object) -> object:
        last = next(calls) == call
        if last and not carried_out:
            raise KeyboardInterrupt
        done = real(journal, *arguments)
        if last:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Journal, where, dying)
    with pytest.raises(KeyboardInterrupt):
        run_search(problem(tmp_path, Landscape(2), 9.0, **asked_for(batch)))
    monkeypatch.undo()
    outcome = run_search(problem(tmp_path, Landscape(2), 9.0, **asked_for(batch)))
    assert outcome.trials == TRIALS
    assert sequence(outcome) == undisturbed[batch]


def test_a_batch_is_asked_for_ahead_and_finds_the_optimum(everything, tmp_path: Path) -> None:
    """What is asked for one by one later was announced before, in stretches that machines can share."""
    landscape, announced, stretches = Landscape(1), set(), []

    def ahead(asked: Sequence[Asked]) -> None:
        new = [each for each in asked if each not in landscape.known and each not in announced]
        announced.update(new)
        stretches.append(len(new))

    budget = 0.5 * LATENCY.predict(SPACE.parent).ms
    best = min(landscape.loss(a) for a in everything if LATENCY.predict(a).ms <= budget)
    outcome = run_search(problem(tmp_path, landscape, budget, trials=60, batch=8, prefetch=ahead))
    assert outcome.winner.quality.loss <= 1.02 * best
    assert len(announced & landscape.known.keys()) >= 0.95 * landscape.calls
    assert sum(n for n in stretches if n >= 4) >= 0.7 * landscape.calls


def test_a_time_limit_that_is_over_at_once_still_gives_a_feasible_seed(tmp_path: Path) -> None:
    outcome = run_search(problem(tmp_path, Landscape(0), 9.0, time_limit_s=0.0))
    assert outcome.winner.predicted_ms <= 9.0
    assert outcome.trials < 5


def test_a_time_limit_ends_the_way_down(tmp_path: Path) -> None:
    landscape, library = Landscape(0), len(UNITS)
    run_search(problem(tmp_path, landscape, 5.0, time_limit_s=0.0))
    assert landscape.calls < library + 12


class Curved(SyntheticLatency):
    """Less is saved by every further unit: the additive estimate is wrong, and the proposals must not mind."""

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        ms = 19.0 * (super().predict(architecture).ms / 19.0) ** 0.7 * (1.2 if percentile == 90 else 1.0)
        return Prediction(ms, ms, ms, percentile)


def test_the_optimum_is_found_where_milliseconds_do_not_add_up(everything, tmp_path: Path) -> None:
    landscape, latency = Landscape(1), Curved(DEPTH)
    budget = 0.7 * latency.predict(SPACE.parent, 90).ms
    best = min(landscape.loss(a) for a in everything if latency.predict(a, 90).ms <= budget)
    outcome = run_search(problem(tmp_path, landscape, budget, latency=latency, trials=50))
    assert outcome.winner.predicted_ms <= budget
    assert outcome.winner.quality.loss <= 1.02 * best


@pytest.mark.parametrize("most", [5.0, pytest.param(8.0, marks=pytest.mark.slow)])
def test_a_limit_is_kept_and_the_optimum_within_it_found(most: float, everything, tmp_path: Path) -> None:
    """Attentions save most milliseconds, MLPs most parameters: the two rows pull apart."""
    landscape, latency = Landscape(4), SyntheticLatency(DEPTH, {Kind.ATTENTION: 2.0, Kind.MLP: 1.0})
    saves = {unit: 1.0 if unit.kind is Kind.MLP else 0.5 for unit in UNITS}
    saves |= {Unit(layer, Kind.BLOCK).dropped: 1.5 for layer in range(DEPTH)}
    limit = Limit("parameters", 10.0, most, saves)
    fitting = [a for a in everything if latency.predict(a).ms <= 14.0 and limit.is_met(a)]
    best = min(landscape.loss(a) for a in fitting)
    unlimited = min(landscape.loss(a) for a in everything if latency.predict(a).ms <= 14.0)
    outcome = run_search(problem(tmp_path, landscape, 14.0, latency=latency, limits=(limit,), trials=30))
    assert limit.is_met(outcome.winner.architecture)
    assert outcome.winner.quality.loss <= 1.02 * best
    assert (most == 8.0) or best > unlimited


def test_what_keeps_to_no_limit_is_said(tmp_path: Path) -> None:
    saves = {Unit(layer, kind).dropped: 1.0 for layer in range(DEPTH) for kind in STRUCTURE}
    with pytest.raises(NoFeasibleCandidate, match=r"no candidate meets 15.00 ms \(p90\) with at most 1 parameters"):
        run_search(problem(tmp_path, Landscape(0), 15.0, trials=10, limits=(Limit("parameters", 20.0, 1.0, saves),)))


def test_a_parent_that_fits_is_the_winner(tmp_path: Path) -> None:
    outcome = run_search(problem(tmp_path, Landscape(0), 100.0))
    assert outcome.winner.architecture == SPACE.parent
    assert outcome.winner.quality.loss == 0


def test_nothing_feasible_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(NoFeasibleCandidate, match=r"no candidate meets 0\.50 ms \(p90\); the closest takes"):
        run_search(problem(tmp_path, Landscape(0), 0.5, trials=10))


def test_the_study_says_what_is_above_its_budget_as_optuna_and_its_dashboard_read_it(tmp_path: Path) -> None:
    weights = {unit.dropped: 2.0 if unit.kind is Kind.BLOCK else 1.0 for unit in EVERY}
    parts = Limit("parts", 12, 9, weights)
    run_search(problem(tmp_path, Landscape(4), 9.0, trials=30, limits=(parts,)))
    study = optuna.load_study(study_name="nas", storage=f"sqlite:///{tmp_path}/study.db")
    judged = [trial for trial in study.trials if trial.values is not None]
    assert len(judged) == 30
    for trial in judged:
        architecture = Architecture.from_json(trial.user_attrs["architecture"])
        left = sum(not architecture.drops(unit) for unit in UNITS)
        over = [trial.user_attrs["predicted_ms"] - 9.0, left - 9]
        assert [trial.constraints["latency_ms"], trial.constraints["parts"]] == pytest.approx(over)
        assert trial.system_attrs["constraints"] == pytest.approx(over)
        assert (trial.state.name == "COMPLETE") == (max(over) <= 0)
    assert study.metric_names == ["loss"]
    within = [trial for trial in judged if max(trial.constraints.values()) <= 0]
    best = min(within, key=lambda trial: trial.value).number
    assert min(judged, key=lambda trial: trial.value).number != best  # the parent loses nothing
    assert study.best_trial.number == study._storage.get_best_trial(study._study_id).number == best


def test_the_surrogate_corrects_the_sum_when_pairs_matter() -> None:
    landscape = Landscape(7)
    rng = random.Random(0)
    architectures = [SPACE.sample(rng, 0.4) for _ in range(60)]
    seen = [(a, landscape.loss(a)) for a in architectures if not is_empty(a)]
    surrogate, plain = Surrogate.fit(UNITS, landscape.single, seen), Surrogate(UNITS, landscape.single)
    unseen = [SPACE.sample(rng, 0.4) for _ in range(200)]
    truth = np.array([landscape.loss(a) for a in unseen])
    fitted, summed = (np.corrcoef(np.log(s.predict(unseen)), np.log(truth))[0, 1] for s in (surrogate, plain))
    assert fitted > summed
    assert surrogate.rank(unseen)[0] in sorted(unseen, key=landscape.loss)[:20]


class Easier(Landscape):
    """The first items lose half as much as the rest: losses on few of them are not those on all."""

    def __call__(self, architecture: Architecture, items: int | None) -> Quality:
        count = 99 if items is None else items
        whole = super().__call__(architecture, items)
        per_item = tuple((0.5 if item < 40 else 4 / 3) * whole.loss for item in range(count))
        loss = sum(per_item) / count
        return Quality("kl", loss, False, "validation", loss, items=count, per_item=per_item)


def test_what_was_judged_on_few_items_never_seems_better_than_the_winner(tmp_path: Path) -> None:
    outcome = run_search(problem(tmp_path, Easier(3), 10.0, trials=40, rungs=(12, 36, 99)))
    within = [c for c in outcome.candidates if c.predicted_ms <= 10.0]
    assert len([c for c in within if not c.full]) > 5
    assert min(within, key=lambda c: c.quality.loss) == outcome.winner
