"""The score library: the loss of every unit dropped alone, on disk, independent of device and budget."""

import json
from collections.abc import Callable
from pathlib import Path

from nas.search.problem import Problem
from search_spaces.unit import Unit

SCHEMA_VERSION = 1


def score_library(problem: Problem, on_unit: Callable[[int, int], None]) -> dict[Unit, float]:
    """Loss of each unit of the space dropped alone; what an earlier search scored is read, not computed.

    Args:
        problem: names the file and the content (weights, data, metric, items) it is valid for.
        on_unit: told (done, all) after every unit.
    """
    known = _read(problem.library, problem.content)
    for done, unit in enumerate(problem.space.units, 1):
        if str(unit) not in known:
            architecture = problem.space.parent.drop(unit)
            known[str(unit)] = problem.evaluate(architecture, problem.fidelity).loss
            _write(problem.library, problem.content, known)
        on_unit(done, len(problem.space.units))
    return {unit: known[str(unit)] for unit in problem.space.units}


def _read(path: Path, content: str) -> dict[str, float]:
    """The scores of this content; another content's file is not used, and will be replaced."""
    try:
        document = json.loads(path.read_text())
        same = (document["schema_version"], document["content"]) == (SCHEMA_VERSION, content)
        return dict(document["loss"]) if same else {}
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return {}


def _write(path: Path, content: str, scores: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(
        json.dumps({"schema_version": SCHEMA_VERSION, "content": content, "loss": scores}, indent=1) + "\n"
    )
    draft.replace(path)
