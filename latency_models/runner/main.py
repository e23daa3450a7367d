"""The runner of a kit: every session in a fresh process, then one profile of all of them."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import random_weights
from .failure import MeasuringFailed
from .ort import PROVIDERS
from .plan import ENTRY, PROFILE, Plan
from .process import ERROR, run_tied, tie
from .runtime import RUNTIMES, find_runtime
from .session import Report, Session, get_session_path, run_session

PROFILE_VERSION = 2
INTERRUPTED = 130
_STEP = 0.01  # of the whole, between two lines that say the same


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit code: 0 done, 1 failed with one line on stderr, 130 interrupted."""
    given = _build_parser().parse_args(arguments)
    if given.tied:
        tie(_leave if given.session else _interrupt)
    report = _Lines(given.json)
    try:
        plan = Plan.read(given.folder)
        if given.session:
            runtime = find_runtime(given.runtime, given.provider, plan.precision, plan.threads, plan.folder)
            run_session(plan, given.session, runtime, report)
        else:
            random_weights.fill(plan.folder)
            _run_sessions(plan, given, report)
    except (MeasuringFailed, OSError) as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept: run it again to continue", file=sys.stderr)
        return INTERRUPTED
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=ENTRY,
        description="Measure by plan.json and write profile.json beside it. Run it again after an interruption: "
        "what was measured is kept.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parents[1], help="of the plan")
    parser.add_argument("--runtime", choices=RUNTIMES, help="TensorRT where it and a GPU are, else ONNX Runtime")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), help="of ONNX Runtime; cuda where it and a GPU are")
    parser.add_argument("--json", action="store_true", help="one JSON object with share and message per step")
    parser.add_argument("--session", type=int, metavar="N", help="run only session N, in this process")
    parser.add_argument("--tied", action="store_true", help="end when standard input is closed")
    return parser


def _run_sessions(plan: Plan, given: argparse.Namespace, report: Report) -> None:
    """Run those sessions that are not finished, each as a child; join them into the profile."""
    options = ["--json", "--tied"]
    options += ["--runtime", given.runtime] if given.runtime else []
    options += ["--provider", given.provider] if given.provider else []
    for number in range(1, plan.sessions + 1):
        kept = Session.load(get_session_path(plan, number), plan)
        if kept is not None and kept.is_finished(plan, number):
            continue

        def on_line(line: Mapping[str, Any], number: int = number) -> None:
            share = (number - 1 + line["share"]) / plan.sessions
            report(share, f"session {number} of {plan.sessions}, {line['message']}")

        command = [sys.executable, str(plan.folder / ENTRY), str(plan.folder), "--session", str(number), *options]
        run_tied(command, plan.folder, plan.folder / f"session-{number}.log", on_line)
    _write_profile(plan)
    report(1.0, f"wrote {PROFILE}")


def _write_profile(plan: Plan) -> None:
    """Join the sessions; the form is that of the profiles of `nas`, a name added to each record."""
    sessions = [Session.load(get_session_path(plan, number), plan) for number in range(1, plan.sessions + 1)]
    whole = [session for session in sessions if session is not None]
    if len(whole) < plan.sessions or any(session.key != whole[0].key for session in whole):
        raise MeasuringFailed("sessions are missing or were measured under different keys; remove them and run again")
    records = [
        {"name": c.name, "architecture": c.architecture, "measurement": _join_sessions(plan, whole, c.name)}
        for c in plan.candidates
    ]
    document = {
        "schema_version": PROFILE_VERSION,
        **{name: plan.document.get(name) for name in ("target", "model", "shape", "workload")},
        "key": whole[0].key,
        "conditions": [
            {"sitting": number, "readings": session.conditions} for number, session in enumerate(whole, start=1)
        ],
        "records": records,
    }
    draft = plan.folder / f"{PROFILE}.draft"
    draft.write_text(json.dumps(document, indent=1) + "\n")
    draft.replace(plan.folder / PROFILE)


def _join_sessions(plan: Plan, sessions: Sequence[Session], name: str) -> dict[str, Any]:
    """One candidate's samples of all sessions, in order, with how many each took."""
    parts = [[group[name] for group in session.groups if name in group] for session in sessions]
    lists: dict[str, list[float]] = {
        of: [value for part in parts for measured in part for value in measured[of]]
        for of in ("samples", "sentinel_samples", "joules")
    }
    counts = [sum(len(measured["samples"]) for measured in part) for part in parts]
    return {"workload": plan.document["workload"], "unit": "ms", **lists, "sittings": counts}


class _Lines:
    """One line on stdout for each step, not for each round."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._share, self._message = -1.0, ""

    def __call__(self, share: float, message: str) -> None:
        if message == self._message and share < self._share + _STEP:
            return
        self._share, self._message = share, message
        line = json.dumps({"share": round(share, 4), "message": message})
        print(line if self._as_json else f"{share:4.0%}  {message}", flush=True)


def _interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _leave() -> None:
    os._exit(INTERRUPTED)
