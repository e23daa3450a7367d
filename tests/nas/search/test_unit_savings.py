"""What units buy, against milliseconds set by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from latency_models.model import Prediction
from nas.quality import Quality
from nas.search import Problem
from nas.search.unit_savings import describe_savings, predict_savings, predict_savings_with_loss
from search_spaces import Architecture, Kind, Reduction, Space, Unit
from search_spaces.architecture import make_stage_choice
from search_spaces.schedule import Stage

PARTS = [Unit(layer, kind).dropped for layer in range(2) for kind in (Kind.ATTENTION, Kind.MLP)]
SAVES = dict(zip(PARTS, (1.0, 2.0, 0.0, 2.0), strict=True))


def ms(architecture: Architecture) -> float:
    return 10.0 - sum(saved for unit, saved in SAVES.items() if architecture.drops(unit))


LATENCY = SimpleNamespace(
    predict_unit_ms=SAVES.__getitem__, predict_savings=lambda units, reduction: {unit: SAVES[unit] for unit in units},
    predict=lambda a, p=50: Prediction(ms(a) * (1.5 if p == 90 else 1.0), 0.0, 99.0, p),
)  # fmt: skip


def loss(architecture: Architecture, items: int | None) -> Quality:
    assert items == 4  # the fewest: what scoring the units has left in the cache
    lost = 0.5 * len(architecture.choices)
    return Quality("kl", lost, False, "validation", lost)


PROBLEM = Problem(
    space=Space(2, tuple(SAVES)), evaluate=loss, latency=LATENCY, budget_ms=5.0, percentile=90, redundancy=None,
    storage="", rungs=(4, 8),
)  # fmt: skip


def test_milliseconds_are_of_the_asked_percentile_and_idle_units_are_named() -> None:
    found = {each.choice: each for each in predict_savings(PROBLEM)}
    assert found[Unit(0, Kind.MLP).dropped].saves_ms == pytest.approx(3.0)  # 2 ms at the median
    assert [unit for unit, each in found.items() if not each.effective] == [Unit(1, Kind.ATTENTION).dropped]
    message = describe_savings(tuple(found.values()), 15.0)
    assert "an attention saves 1.500 ms (10.0 %)" in message
    assert "an MLP saves 3.000 ms (20.0 %)" in message
    assert "dropping attention.1 will not make the model faster here" in message


def test_worth_is_milliseconds_per_loss() -> None:
    found = {each.choice: each for each in predict_savings_with_loss(PROBLEM)}
    assert found[Unit(0, Kind.MLP).dropped].ms_per_loss == pytest.approx(6.0)
    assert found[Unit(0, Kind.MLP).dropped].to_json() == {
        "unit": "mlp.0", "saves_ms": 3.0, "loss": 0.5, "ms_per_loss": 6.0, "buys_time": True,
    }  # fmt: skip


def test_stages_are_worth_what_they_save_with_all_that_they_imply() -> None:
    """A quarter saves 3 ms alone, 1 ms beyond a half; nothing is saved from block 1 on."""
    steps = {(0, 250): 1.0, (0, 500): 2.0, (1, 250): 0.0, (1, 500): 0.0}
    adds = {make_stage_choice(Stage(block, permille)): ms for (block, permille), ms in steps.items()}
    latency = SimpleNamespace(
        predict_unit_ms=SAVES.__getitem__, predict=LATENCY.predict,
        predict_savings=lambda units, reduction: {unit: {**SAVES, **adds}[unit] for unit in units},
    )  # fmt: skip
    space = Space.dropping(2, tuple(SAVES)).allow_tokens(Reduction(), (0, 1), (0.25, 0.5))
    asked = replace(PROBLEM, space=space, latency=latency)
    found = {each.choice: each for each in predict_savings(asked)}
    assert found[make_stage_choice(Stage(0, 250))].saves_ms == pytest.approx(4.5)
    assert found[make_stage_choice(Stage(0, 500))].saves_ms == pytest.approx(3.0)
    message = describe_savings(tuple(found.values()), 15.0)
    assert "keeping 50 % of the tokens from block 0 on saves 3.000 ms (20.0 %)" in message
    assert "keeping 25 % of the tokens from block 0 on saves 4.500 ms (30.0 %)" in message
    assert "dropping attention.1, tokens.1 will not make the model faster here" in message
