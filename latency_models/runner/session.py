"""One session: everything of a plan measured once in one process, kept group by group."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .conditions import read_conditions
from .energy_meters import measure_joules, open_energy_meter
from .failure import MeasuringFailed, get_first_line
from .measure import Samples, measure
from .nvml import find_gpu
from .plan import INPUTS, Candidate, Plan
from .runtime import Runtime

SCHEMA_VERSION = 1
Report = Callable[[float, str], None]
_LOADED, _TIMED = 0.1, 0.9  # shares of a group that are done by then


@dataclass
class Session:
    """What one process measured: for each finished group, name to samples, sentinel samples and joules.

    Attributes:
        plan: digest of the plan it belongs to.
        conditions: before the first group and after each.
    """

    plan: str
    key: dict[str, str]
    conditions: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, dict[str, list[float]]]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it; the file is complete or not there, whatever happens to the device."""
        draft = path.with_suffix(".draft")
        with draft.open("w") as opened:
            json.dump({"schema_version": SCHEMA_VERSION, **vars(self)}, opened)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(path)

    @classmethod
    def load(cls, path: Path, plan: Plan) -> Session | None:
        """What was kept of a session; None where nothing was or the file is damaged.

        Raises:
            MeasuringFailed: it belongs to another plan.
        """
        try:
            document = json.loads(path.read_text())
            version = document.pop("schema_version")
            session = cls(**document)
            session.key, session.groups = dict(session.key), [dict(group) for group in session.groups]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if session.plan != plan.digest or version != SCHEMA_VERSION:
            raise MeasuringFailed(f"{path} belongs to another plan; move it away and run again")
        return session

    def is_finished(self, plan: Plan, number: int) -> bool:
        """Whether every group of the session was measured."""
        return len(self.groups) == len(plan.group_candidates(number))


def get_session_path(plan: Plan, number: int) -> Path:
    """Where session `number` (from 1) is kept."""
    return plan.folder / f"session-{number}.json"


def run_session(plan: Plan, number: int, runtime: Runtime, report: Report) -> None:
    """Measure the groups of a session that are not kept yet.

    Args:
        report: is given the share of this session that is done and what happens next.

    Raises:
        MeasuringFailed: a file cannot be loaded or run, or the device is another than before.
    """
    if not 1 <= number <= plan.sessions:
        raise MeasuringFailed(f"session {number} is not planned; the sessions are 1 to {plan.sessions}")
    path, key = get_session_path(plan, number), runtime.read_key()
    for other in range(1, plan.sessions + 1):
        _check_key(key, Session.load(get_session_path(plan, other), plan), other)
    gpu = find_gpu() if runtime.on_gpu else None
    session = Session.load(path, plan) or Session(plan.digest, key, [read_conditions(gpu=gpu)])
    groups, inputs = plan.group_candidates(number), _load_inputs(plan)
    for index, group in enumerate(groups):
        if index < len(session.groups):
            continue

        def on_group(share: float, message: str, index: int = index) -> None:
            report((index + share) / len(groups), f"group {index + 1} of {len(groups)}: {message}")

        share = len(group) / sum(map(len, groups)) / plan.sessions
        measured = _measure_group(plan, group, runtime, inputs, share, 1000 * number + index, on_group)
        _check_key(runtime.read_key(), session, number)
        session.groups.append(measured)
        session.conditions.append(read_conditions(gpu=gpu))
        session.save(path)


def _measure_group(
    plan: Plan,
    group: list[Candidate],
    runtime: Runtime,
    inputs: Mapping[str, np.ndarray],
    share: float,
    seed: int,
    report: Report,
) -> dict[str, dict[str, list[float]]]:
    """Load a group's files, measure them for a share of the plan's time, then their energy where there is a meter."""
    seconds, calls = share * plan.seconds, {}
    for position, candidate in enumerate(group):
        report(_LOADED * position / len(group), f"loading {candidate.name}")
        calls[candidate.name] = runtime.load(candidate.file, inputs)
    report(_LOADED, f"warming up, then measuring {len(group)} candidates for {seconds:.0f} s")
    taken = measure(
        calls,
        sentinel=plan.sentinel,
        seconds=seconds,
        min_rounds=math.ceil(plan.min_rounds / plan.sessions),
        limit_s=None if plan.limit_s is None else share * plan.limit_s,
        seed=seed,
        on_round=lambda done: report(_LOADED + (_TIMED - _LOADED) * done, "measuring"),
    )
    joules: dict[str, float] = {}
    with open_energy_meter(runtime.on_gpu) as meter:
        if meter is not None:
            report(_TIMED, f"reading energy: {meter.name}")
            joules = measure_joules(meter, calls, seconds / len(group) / 2, seed)
    report(1.0, "done")
    return {name: _round(samples, joules.get(name)) for name, samples in taken.items()}


def _round(samples: Samples, joules: float | None) -> dict[str, list[float]]:
    return {
        "samples": [round(ms, 6) for ms in samples.samples_ms],
        "sentinel_samples": [round(ms, 6) for ms in samples.sentinel_ms],
        "joules": [] if joules is None else [joules],
    }


def _load_inputs(plan: Plan) -> dict[str, np.ndarray]:
    path = plan.folder / INPUTS
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MeasuringFailed(f"{path} cannot be read ({get_first_line(error)}); unpack the kit again") from None


def _check_key(now: Mapping[str, str], session: Session | None, number: int) -> None:
    """Refuse to mix measurements of what is not the same device, runtime, precision, threads and power mode."""
    then = now if session is None else session.key
    changed = [f"{name} was {then.get(name)!r} and is {now.get(name)!r}" for name in now if now[name] != then.get(name)]
    if changed:
        raise MeasuringFailed(
            f"session {number} was measured under another key: {'; '.join(changed)}; set it back and run again, or "
            f"remove every session-*.json to start anew"
        )
