"""Searches on a synthetic device: a winner picked on predictions, and one that was measured, corrected and confirmed.

Loss is a sum over the dropped units with an importance of their own, and noise: what counts here is not how a
candidate is found but that the best of many predictions is chosen, which breaks what any interval promises.
"""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from latency.device import PARENT, Device
from latency_models.calibrated import CalibratedModel
from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from latency_models.terms import list_kept_units
from search_spaces.architecture import Architecture

ORDERS, AROUND = 120, 0.08  # of the pool
AT_ONCE = 4  # candidates measured together
MARGIN = 0.985  # what is chosen is to hold on its upper bound, which lies above its percentile
PERCENTILE, ROUNDS = 90, 200  # of a measured finalist
Losses = Mapping[Architecture, float]


@dataclass(frozen=True)
class Pick:
    """A winner, None where nothing held; `measured`: candidates measured beside the design."""

    winner: Architecture | None
    measured: int


def draw_losses(device: Device, share: float) -> Losses:
    """A pool of candidates around the budget, as a search gathers there, and what each loses.

    Units are dropped in the order of their importance as a noisy estimate has it, until the latency is near.
    """
    rng = random.Random(device.seed)
    importance = {unit: rng.lognormvariate(0, 1) for unit in list_kept_units(PARENT)}
    budget, pool = share * device.compute_true_ms(PARENT), {}
    for _ in range(ORDERS):
        noisy = {unit: value * rng.lognormvariate(0, 0.3) for unit, value in importance.items()}
        candidate = PARENT
        for unit in sorted(noisy, key=noisy.__getitem__):
            candidate = candidate.drop(unit)
            if abs(device.compute_true_ms(candidate) / budget - 1) <= AROUND:
                lost = sum(value for unit, value in importance.items() if candidate.drops(unit))
                pool[candidate] = lost * rng.uniform(0.95, 1.05)
    return pool


def pick_naively(profile: Profile, pool: Losses, share: float) -> Pick:
    """The least loss whose predicted percentile is inside the budget, a share of the parent's."""
    model = CalibratedModel(profile)
    budget = share * model.predict(PARENT, PERCENTILE).ms
    inside = [a for a in pool if model.predict(a, PERCENTILE).ms <= budget]
    return Pick(min(inside, key=pool.__getitem__, default=None), 0)


def pick_by_measuring(device: Device, profile: Profile, pool: Losses, share: float) -> Pick:
    """Measure what could be best, correct the model, choose again; until nothing better could still hold."""
    ranked, count = sorted(pool, key=pool.__getitem__), 0
    while True:
        model = CalibratedModel(profile)
        budget = share * MARGIN * model.predict(PARENT, PERCENTILE).ms
        hopeful = (a for a in ranked if model.predict(a, PERCENTILE).low_ms <= budget)
        first = list(itertools.islice(hopeful, AT_ONCE))
        unknown = [a for a in first if profile.find_measurement(a) is None]
        if not first:
            return Pick(None, count)
        if first[0] not in unknown:  # nothing better is unmeasured: it is the winner if a new session confirms it
            if holds(device, first[0], share):
                return Pick(first[0], count)
            ranked.remove(first[0])
            continue
        records = device.measure(unknown, ROUNDS)
        ranked = [a for a in ranked if a not in {r.architecture for r in records if not is_inside(r, share)}]
        profile, count = profile.add_records(records), count + len(records)


def holds(device: Device, architecture: Architecture, share: float) -> bool:
    """Whether a new session confirms it."""
    (record,) = device.measure([architecture], ROUNDS)
    return is_inside(record, share)


def is_inside(record: Record, share: float) -> bool:
    """The upper bound of the percentile times drift, against that share of the parent's percentile beside it."""
    own, parent = record.measurement, Measurement(record.measurement.sentinel_ms, record.measurement.workload)
    bound, half = own.compute_upper_bound(PERCENTILE), len(parent.samples_ms) // 2
    drift = median(parent.samples_ms[half:]) / median(parent.samples_ms[:half])
    return bound is not None and bound * max(drift, 1 / drift) <= share * parent.compute_percentile(PERCENTILE)


def compare_budget_searches(count: int) -> dict[str, Any]:
    """Both methods on the same devices, profiles and pools; the device's truth is the judge."""
    picks: dict[str, list[tuple[float, float, int]]] = {"predictions": [], "measure, correct, choose again": []}
    for seed in range(count):
        device, share = Device(seed), random.Random(seed).uniform(0.45, 0.85)
        pool, profile = draw_losses(device, share), device.profile()
        for method, pick in zip(
            picks, (pick_naively(profile, pool, share), pick_by_measuring(device, profile, pool, share)), strict=True
        ):
            if pick.winner is not None:
                excess = device.compute_true_ms(pick.winner) / (share * device.compute_true_ms(PARENT)) - 1
                picks[method].append((excess, pool[pick.winner], pick.measured))
    return {"count": count, "ways": {method: _summarise(runs) for method, runs in picks.items()}}


def _summarise(runs: list[tuple[float, float, int]]) -> dict[str, float]:
    excess = [one[0] for one in runs]
    return {
        "found": len(runs),
        "violations": sum(value > 0 for value in excess),
        "worst": max(excess),
        "loss": fmean(one[1] for one in runs),
        "measured": fmean(one[2] for one in runs),
    }
