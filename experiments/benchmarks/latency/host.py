"""This machine in ONNX Runtime: profiles of at most 40 models, 60 random architectures that no fit has seen.

Beside our model stand others with the same samples: one coefficient on arithmetic, one on parameters, SPRINT's two
scalars (milliseconds of an attention and of an MLP below the parent), and a random forest on which units are kept.
"""

import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.accuracy import Accuracy, format_markdown
from latency_models.calibrated import CalibratedModel
from latency_models.profile import Profile, Record
from latency_models.resolved_blocks import find_parts
from latency_models.work import count_flops
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.profiling.effort import Effort
from nas.profiling.host import measure_architectures, profile_host
from nas.progress import Silent
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent

CASES = (  # reference model, workload
    ("python-lm", "forward:batch=1,seq=256"),
    ("python-lm", "prefill:batch=1,seq=256"),
    ("python-lm", "decode:batch=1,past=512"),
    ("minilm", "forward:batch=4,seq=64"),
    ("digits-vit", "forward:batch=8,seq=65"),
)
HELD_OUT = 60
Array = NDArray[np.float64]
Predict = Callable[[list[Architecture]], Array]


def run(seconds: float, models: set[str]) -> dict[str, Any]:
    """Every case of these models; `seconds` for each of its two measurements."""
    cases = {f"{model}, {text}": run_case(model, text, seconds) for model, text in CASES if model in models}
    return {"cases": cases}


def run_case(model: str, text: str, seconds: float) -> dict[str, Any]:
    """Profile, then measure what is held out in processes of its own, and compare."""
    parent = load_parent_model(model, None)
    workload = Workload.parse(text)
    if parent.shape.tokens is not None:
        workload = Workload(workload.phase, workload.batch, parent.shape.tokens)
    graph = ParentExport(parent, Silent(), workload.phase).graph
    profile = profile_host(parent, graph, workload, Effort(seconds))
    unseen = draw_held_out(profile)
    records = measure_architectures(parent.model, graph, unseen, workload, Effort(seconds), seed=1)
    return {
        "records": len(profile.records),
        "held_out": len(unseen),
        **compare_predictors(profile, records[1:]),
    } | describe_sentinel(profile, records[0])


def draw_held_out(profile: Profile, seed: int = 1) -> list[Architecture]:
    """Random architectures of every size that the profile does not hold."""
    rng, depth = random.Random(seed), profile.shape.depth
    units = [Unit(layer, kind) for layer in range(depth) for kind in (Kind.ATTENTION, Kind.MLP)]
    drawn: dict[Architecture, None] = {}
    while len(drawn) < HELD_OUT:
        rate = rng.uniform(0.05, 0.75)
        architecture = drop_from_parent(depth, (unit for unit in units if rng.random() < rate))
        if profile.find_measurement(architecture) is None:
            drawn[architecture] = None
    return list(drawn)


def compare_predictors(profile: Profile, records: tuple[Record, ...]) -> dict[str, Any]:
    """The accuracy of our model and of the others on the held-out records."""
    ours = CalibratedModel(profile)
    parent = Architecture.parent(profile.shape.depth)
    level = ours.predict(parent).ms
    measured = np.array([record.measurement.compute_ratio() * level for record in records])
    unseen = [record.architecture for record in records]
    predictions = [ours.predict(architecture) for architecture in unseen]
    low, high = np.array([p.low_ms for p in predictions]), np.array([p.high_ms for p in predictions])
    accuracies = {"nas": asdict(Accuracy.of(np.array([p.ms for p in predictions]), low, high, measured))}
    for name, predict in fit_others(profile, level).items():
        guess = predict(unseen)
        accuracies[name] = asdict(Accuracy.of(guess, guess, guess, measured))
    pairs = [[round(p.ms, 4), round(float(ms), 4)] for p, ms in zip(predictions, measured, strict=True)]
    return {
        "accuracy": accuracies,
        "corrected": ours.regression.corrected,
        "parent_ms": level,
        "predicted_measured": pairs,
    }


def fit_others(profile: Profile, parent_ms: float) -> dict[str, Predict]:
    """Every other predictor, fitted to the profile's records."""
    known = [record.architecture for record in profile.records]
    measured = np.array([record.measurement.compute_ratio() * parent_ms for record in profile.records])
    return {
        "arithmetic": _fit_scaled(_fit_flops(profile), known, measured),
        "parameters": _fit_scaled(_fit_parameters(profile), known, measured),
        "two scalars (SPRINT)": _fit_two_scalars(known, measured, parent_ms),
        "random forest": _fit_forest(known, measured),
    }


def _fit_flops(profile: Profile) -> Predict:
    return lambda many: np.array([count_flops(profile.shape, a, profile.workload) for a in many])


def _fit_parameters(profile: Profile) -> Predict:
    shape = profile.shape

    def count(architecture: Architecture) -> float:
        return shape.stem + sum(part.weights for _, part in find_parts(shape, architecture))

    return lambda many: np.array([count(a) for a in many])


def _fit_scaled(feature: Predict, known: list[Architecture], measured: Array) -> Predict:
    """One coefficient, least squares of the relative error."""
    ratio = feature(known) / measured
    factor = float(ratio.sum() / (ratio**2).sum())
    return lambda many: factor * feature(many)


def _fit_two_scalars(known: list[Architecture], measured: Array, parent_ms: float) -> Predict:
    """The parent's latency less a constant for each attention and each MLP that is dropped."""

    def count_dropped(many: list[Architecture]) -> Array:
        kinds = (Kind.ATTENTION, Kind.MLP)
        return np.array([[sum(not a.keeps(i, kind) for i in range(a.depth)) for kind in kinds] for a in many])

    counts = count_dropped(known)
    saved, *_ = np.linalg.lstsq(counts / measured[:, None], (parent_ms - measured) / measured, rcond=None)
    return lambda many: np.maximum(parent_ms - count_dropped(many) @ saved, 1e-3)


def _fit_forest(known: list[Architecture], measured: Array) -> Predict:
    """On the raw pattern: one column for each unit, 1 where it is kept."""
    from sklearn.ensemble import RandomForestRegressor

    def encode_pattern(many: list[Architecture]) -> Array:
        return np.array(
            [[float(a.keeps(i, kind)) for i in range(a.depth) for kind in (Kind.ATTENTION, Kind.MLP)] for a in many]
        )

    forest = RandomForestRegressor(300, random_state=0).fit(encode_pattern(known), measured)
    return lambda many: np.asarray(forest.predict(encode_pattern(many)), dtype=np.float64)


def describe_sentinel(profile: Profile, parent: Record) -> dict[str, float]:
    """What the machine did: how far the parent's medians lie apart between processes, and its own spread."""
    first = profile.find_measurement(parent.architecture)
    assert first is not None
    medians = [
        median(part) for one in (first, parent.measurement) for part in split_sessions(one.samples_ms, one.sessions)
    ]
    return {"sentinel_range": max(medians) / min(medians) - 1, "sentinel_p90_over_p50": first.p90 / first.p50}


def split_sessions(samples: tuple[float, ...], counts: tuple[int, ...]) -> list[tuple[float, ...]]:
    """The samples of each process."""
    parts, start = [], 0
    for count in counts or (len(samples),):
        parts.append(samples[start : start + count])
        start += count
    return parts


def format_table(document: dict[str, Any]) -> str:
    """Each case with every predictor's error, then what the sentinel says."""
    cases = document["cases"]
    names = list(next(iter(cases.values()))["accuracy"])
    header = ("model, workload", "measured", "MAPE", "within 10 %", "Spearman", "coverage of 90 %",
              *(f"{name}: MAPE / Spearman" for name in names[1:]), "sentinel's range")  # fmt: skip
    rows = []
    for name, one in cases.items():
        ours = one["accuracy"]["nas"]
        rest = [f"{100 * o['mape']:.1f} % / {o['spearman']:.3f}" for o in (one["accuracy"][n] for n in names[1:])]
        rows.append((
            name, str(one["records"]), f"{100 * ours['mape']:.1f} %", f"{100 * ours['within']:.0f} %",
            f"{ours['spearman']:.3f}", f"{100 * ours['coverage']:.0f} %", *rest, f"{100 * one['sentinel_range']:.0f} %",
        ))  # fmt: skip
    return format_markdown(header, rows)


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """Measured over predicted, one panel for each case."""
    from latency.drawing import draw_scatters

    draw_scatters({name: one["predicted_measured"] for name, one in document["cases"].items()}, path)
