"""What a sweep found: `OUT/sweep.json`, its figure, and its run in MLflow."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.sweep.cell import shorten_model_name
from nas.sweep.figure import sweep_figure
from nas.sweep.request import Sweep
from nas.sweep.right_sizing import Answer, find_right_sizes
from nas.sweep.row import Row
from nas.tracking import SearchRun, log_search

SCHEMA_VERSION = 1
FILE, FIGURE = "sweep.json", "sweep.png"


@dataclass(frozen=True)
class SweepResult:
    """The rows of a sweep, in the order of its cells; `mlflow` is where it was logged.

    Example:
        >>> result = run_sweep(sweep, progress)
        >>> winners = [row.winner for row in result.rows]
    """

    sweep: Sweep
    rows: tuple[Row, ...]
    mlflow: dict[str, Any] | None = None

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """Right-sizing."""
        return find_right_sizes(self.rows)

    @property
    def exit_code(self) -> int:
        """0 when every cell has a winner, 1 when some failed, 3 when for some nothing met the budget."""
        states = {row.outcome.state for row in self.rows}
        return 1 if "failed" in states else 3 if "infeasible" in states else 0

    def to_json(self) -> dict[str, Any]:
        """The document that is written and printed."""
        return {
            "schema_version": SCHEMA_VERSION,
            "out": str(self.sweep.out),
            "exit_code": self.exit_code,
            "cells": [row.to_json() for row in self.rows],
            "right_sizing": [answer.to_json() for answer in self.answers],
            "mlflow": self.mlflow,
            "resume_command": self.sweep.resume_command,
        }

    def save(self) -> Path:
        """Write `sweep.json`; it is complete or as it was before."""
        path = self.sweep.out / FILE
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        draft.replace(path)
        return path


def deliver(result: SweepResult) -> SweepResult:
    """Draw, log to MLflow and write; a tracking server that is away is noted and stops nothing."""
    out = result.sweep.out
    files = [result.save()]
    if any(row.winner for row in result.rows):
        files.append(sweep_figure(result.rows, out / FIGURE))
    logged = log_search(_build_run(result, files), result.sweep.mlflow, out)
    result = replace(result, mlflow=logged)
    result.save()
    return result


def _build_run(result: SweepResult, files: list[Path]) -> SearchRun:
    """The sweep as one run; every search is a run of its own already, with its candidates."""
    rows = result.rows
    states = [row.outcome.state for row in rows]
    models = ", ".join(dict.fromkeys(shorten_model_name(row.cell.model) for row in rows))
    words = [
        f"- {answer.target} within {answer.budget_ms:.3g} ms: {'; '.join(answer.words)}" for answer in result.answers
    ]
    return SearchRun(
        model="sweep",
        target=result.sweep.out.name,
        budget=", ".join(dict.fromkeys(row.cell.budget for row in rows)),
        note="\n".join([f"Sweep of {models}.", "", *words]),
        params={
            "models": models,
            "targets": ", ".join(dict.fromkeys(row.target for row in rows)),
            "seeds": ", ".join(dict.fromkeys(str(row.cell.seed) for row in rows)),
        },
        metrics={
            **{f"sweep.{state}": float(states.count(state)) for state in ("winner", "infeasible", "failed")},
            "sweep.seconds": sum(row.outcome.seconds for row in rows),
            "sweep.evaluations": float(sum(row.evaluations for row in rows)),
        },
        candidates=(),
        files=files,
    )
