"""Published methods: one contract for all, and each against a case worked by hand.

Three blocks; an attention takes 1 ms, an MLP 2 ms, the stem 1 ms: the parent takes 10 ms.
"""

from pathlib import Path

import pytest

from nas.quality.quality import Quality
from nas.request.choices import check_method
from nas.search import Problem, run_search
from nas.search.methods import METHODS, add_back, drop_as_published
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from search_spaces import Architecture, Kind, Space, Unit
from search_spaces.errors import NoFeasibleCandidate, UsageError

DEPTH = 3
A0, A1, A2 = (Unit(layer, Kind.ATTENTION) for layer in range(DEPTH))
M0, M1, M2 = (Unit(layer, Kind.MLP) for layer in range(DEPTH))
B0, B1, B2 = (Unit(layer, Kind.BLOCK) for layer in range(DEPTH))
SPACE = Space.dropping(DEPTH, (A0, A1, A2, M0, M1, M2))
LOSS = {A0: 0.5, A1: 0.1, A2: 0.2, M0: 0.9, M1: 0.3, M2: 0.25}
TOGETHER = {frozenset({A1, A2}): 1.0, frozenset({M1, M2}): 0.4}  # what pairs add
REDUNDANCY = Redundancy(
    "made", "pre_norm", 1,
    attention=(0.7, 0.95, 0.9), mlp=(0.5, 0.8, 0.85), block=(0.6, 0.9, 0.7),
    between=((1.0, 0.6, 0.5, 0.2), (0.6, 1.0, 0.9, 0.8), (0.5, 0.9, 1.0, 0.7), (0.2, 0.8, 0.7, 1.0)),
)  # fmt: skip


def evaluate(architecture: Architecture, items: int | None = None) -> Quality:
    dropped = {unit for unit in LOSS if architecture.drops(unit)}
    loss = sum(LOSS[unit] for unit in dropped) + sum(more for pair, more in TOGETHER.items() if pair <= dropped)
    return Quality("kl", loss, False, "validation", loss, items=items or 4)


def problem(budget_ms: float, tmp_path: Path | None = None, **more) -> Problem:
    storage = f"sqlite:///{tmp_path}/study.db" if tmp_path else "sqlite://"
    settings = {"space": SPACE, "evaluate": evaluate, "latency": SyntheticLatency(DEPTH), "budget_ms": budget_ms,
                "percentile": 90, "redundancy": REDUNDANCY, "storage": storage}  # fmt: skip
    return Problem(**{**settings, **more})


@pytest.mark.parametrize(
    ("name", "budget", "order"),
    [
        ("cosine-joint", 8.5, (A1, A2)),  # 0.95, 0.90: 2 of 1.5 ms
        ("cosine-joint", 6.5, (A1, A2, M2)),  # 0.85
        ("cosine-attention", 7.5, (A1, A2, A0)),
        ("cosine-mlp", 7.5, (M2, M1)),
        ("cosine-block", 6.0, (B1, B2)),
        ("reverse", 7.5, (M2, A2)),
        ("window", 7.0, (B1,)),  # 1 to 2: 0.9
        ("window", 6.0, (B2, B1)),  # 1 to 3: 0.8 beats 0 to 2: 0.5
        ("sprint", 6.0, (A1, M2, M1)),  # 0.1, 0.125, 0.15 per ms; 0.2 for A2
        ("sleb", 7.0, (B1,)),  # the only one that is neither first nor last
        ("sleb", 6.0, None),
        # A1 0.1; then M2 +0.25, M1 +0.3, A0 +0.5, M0 +0.9, A2 +1.2; then M1 +0.7, A0 +0.5: A0.
        ("finercut", 6.5, (A1, M2, A0)),
        # per ms: A1 0.1; M2 0.125, M1 0.15; then M1 0.35 (pair), A0 0.5.
        ("finercut-per-ms", 6.5, (A1, M2, M1)),
    ],
)
def test_worked_by_hand(name: str, budget: float, order: tuple[Unit, ...] | None) -> None:
    assert METHODS[name].find_removal_order(problem(budget)) == order


def test_add_back_restores_the_last_that_fits() -> None:
    asked = problem(8.0)
    order = (A1, A2, M2)  # 4 ms gone, 2 needed
    assert drop_as_published(asked, order).words == "attn+mlp mlp removed"
    assert add_back(asked, order) == SPACE.decode({A1, A2})  # M2 fits back, then nothing more
    assert add_back(problem(7.0), order) == SPACE.decode({A1, M2})  # A2, 1 ms; M2 would be 2


def test_evopress_finds_the_best_of_its_equal_counts() -> None:
    """One attention and one MLP of each 3: A1 with M2 is the best of nine."""
    order = METHODS["evopress"].find_removal_order(problem(7.0))
    assert order is not None
    assert set(order) == {A1, M2}
    assert order[-1] == M2  # the one that is worth more when it is restored


def test_evopress_needs_two_of_each_for_one_millisecond_more() -> None:
    order = METHODS["evopress"].find_removal_order(problem(6.9))
    assert order is not None
    kinds = sorted(unit.kind for unit in order)
    assert kinds == [Kind.ATTENTION] * 2 + [Kind.MLP] * 2
    assert set(order) == {A0, A1, M1, M2}  # 0.6 + 0.95; any other pair of attentions or MLPs costs more


def test_random_is_another_order_for_another_seed_and_the_same_for_the_same() -> None:
    orders = [METHODS["random"].find_removal_order(problem(5.0, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 2


@pytest.mark.parametrize("budget", [9.0, 7.0, 5.0, 3.0])
@pytest.mark.parametrize("name", METHODS)
def test_the_contract(name: str, budget: float) -> None:
    asked = problem(budget)
    order = METHODS[name].find_removal_order(asked)
    if order is None:
        return
    published, restored = drop_as_published(asked, order), add_back(asked, order)
    assert len(set(order)) == len(order)
    assert SPACE.contains(published)
    assert asked.is_feasible(published)
    assert asked.is_feasible(restored)
    assert asked.predict_ms(restored) >= asked.predict_ms(published)
    assert all(published.drops(unit) for unit in restored.choices if unit.kind is not Kind.BLOCK)
    for unit in order:  # nothing more fits
        more = SPACE.decode({u for u in LOSS if restored.drops(u)} - {unit})
        assert more == restored or not asked.is_feasible(more)
    if name not in ("evopress", "window"):
        assert not asked.is_feasible(drop_as_published(asked, order[:-1]))
    assert METHODS[name].find_removal_order(asked) == order


def test_a_method_runs_in_place_of_the_search(tmp_path: Path) -> None:
    outcome = run_search(problem(6.5, tmp_path, method="finercut"))
    assert outcome.winner.architecture == SPACE.decode({A0, A1, M2})
    assert outcome.winner.origin == "finercut"
    assert outcome.winner.quality.loss == pytest.approx(0.85)
    with pytest.raises(NoFeasibleCandidate, match="sleb cannot get there"):
        run_search(problem(6.0, method="sleb"))
    assert run_search(problem(99.0, method="sleb")).winner.architecture == SPACE.parent


def test_an_unknown_method_is_refused_by_name() -> None:
    assert check_method("evopress+add-back") == "evopress+add-back"
    with pytest.raises(UsageError, match="method 'magic' is none of nas, cosine-joint"):
        check_method("magic")
    with pytest.raises(UsageError):
        check_method("nas+add-back")
