"""A device whose truth is known: what the model recovers of it, and how often its intervals and budgets hold."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency.accuracy import Accuracy, format_markdown
from latency.budget_search import compare_budget_searches
from latency.device import PARENT, ROUNDS, Device, draw_architectures
from latency_models.calibrated import CalibratedModel
from search_spaces.kinds import Kind
from search_spaces.unit import Unit

DEVICES = {  # what is added to noise and a tail, one by one and together
    "plain": {"fused": 0.0, "wave_ms": 0.0, "drift": 0.0},
    "drift": {"fused": 0.0, "wave_ms": 0.0},
    "drift, staircase": {"fused": 0.0},
    "drift, fusion": {"wave_ms": 0.0},
    "drift, staircase, fusion": {},
}
HELD_OUT = 60


@dataclass(frozen=True)
class Recovery:
    """Relative errors of the fitted coefficients against the device's own."""

    attention: float
    mlp: float
    constant: float
    corrected: bool


def recover(device: Device) -> tuple[Recovery, Accuracy]:
    """Fit the device's profile; compare with its truth and with fresh measurements of held-out architectures."""
    model = CalibratedModel(device.profile())
    level = model.predict(PARENT).ms / device.compute_true_ms(PARENT)  # the machine's pace while it was measured
    wave = device.wave_ms / device.wave
    fitted = [model.predict_unit_ms(Unit(0, kind)) / level for kind in (Kind.ATTENTION, Kind.MLP)]
    errors = [
        abs(ms / (device.unit_ms[kind] + wave) - 1) for ms, kind in zip(fitted, (Kind.ATTENTION, Kind.MLP), strict=True)
    ]
    constant = abs(float(model.coefficients[0]) / level / device.constant - 1)
    unseen = [a for a in draw_architectures(device.seed, HELD_OUT) if model.profile.find_measurement(a) is None]
    parent = model.profile.find_measurement(PARENT)
    assert parent is not None
    measured = [record.measurement.compute_ratio() * parent.p50 for record in device.measure(unseen, ROUNDS)]
    predictions = [model.predict(a) for a in unseen]
    ms, low, high = (np.array([getattr(p, name) for p in predictions]) for name in ("ms", "low_ms", "high_ms"))
    accuracy = Accuracy.of(ms, low, high, np.array(measured))
    return Recovery(*errors, constant, model.regression.corrected), accuracy


def run(devices: int, searches: int, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Recovery and coverage on several devices of each kind, then searches on the hardest kind."""
    kinds = {}
    for name, changes in DEVICES.items():
        on_step(name)
        pairs = [recover(Device(seed, **changes)) for seed in range(devices)]
        recovered = {key: float(np.mean([asdict(one)[key] for one, _ in pairs])) for key in asdict(pairs[0][0])}
        kinds[name] = recovered | asdict(Accuracy.average(accuracy for _, accuracy in pairs))
    on_step("searches")
    return {"devices": devices, "kinds": kinds, "searches": compare_budget_searches(searches)}


def format_table(document: dict[str, Any]) -> str:
    header = ("device", "attention", "MLP", "constant", "MAPE held out", "coverage of 90 %", "half width", "L2 used")
    names = ("attention", "mlp", "constant", "mape", "coverage", "half_width", "corrected")
    rows = [(name, *(f"{100 * one[key]:.1f} %" for key in names)) for name, one in document["kinds"].items()]
    searches = document["searches"]
    outcome = [
        (method, f"{one['violations']} of {searches['count']}", f"{100 * one['worst']:+.1f} %", f"{one['loss']:.3f}",
         f"{one['measured']:.1f}")
        for method, one in searches["ways"].items()
    ]  # fmt: skip
    second = format_markdown(("winner picked by", "above the budget", "worst excess", "mean loss", "measured"), outcome)
    return format_markdown(header, rows) + "\n\n" + second


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """Coverage per kind of device beside the nominal."""
    from latency.drawing import draw_bars

    kinds = document["kinds"]
    series = {"covered": [100 * one["coverage"] for one in kinds.values()], "nominal": [90.0] * len(kinds)}
    names = [name.replace(", ", ",\n") for name in kinds]
    draw_bars(names, series, "measurements inside the interval, %", "Synthetic devices: do the intervals hold?", path)
