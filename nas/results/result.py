"""The result of a search, as other programs read it: `OUT/result.json` and what `--json` prints."""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latency_models.footprint import Memory
from nas.quality.comparison import Comparison
from nas.quality.quality import Quality
from nas.results.finalists import Finalist
from nas.search.unit_savings import UnitSavings
from nas.storage.result_folder import RESULT, SCHEMA_VERSION
from search_spaces.architecture import Architecture

_PACKAGES = ("nas", "torch", "transformers", "optuna", "mlflow", "onnx", "onnxruntime", "scipy")


@dataclass(frozen=True)
class Entry:
    """One architecture in a result: held-out or validation quality, predicted ms, and measured ms if there are any.

    Example:
        >>> entry = Entry(architecture, quality, predicted_ms=8.2, interval_ms=(7.9, 8.6), method="nas")
        >>> entry.to_json()["measured_ms"] is None
        True
    """

    architecture: Architecture
    quality: Quality
    predicted_ms: float
    interval_ms: tuple[float, float]
    method: str
    measured_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form; ms at the result's percentile."""
        return {
            "method": self.method,
            "architecture": self.architecture.to_json(),
            "words": self.architecture.words,
            "quality": self.quality.to_json(),
            "predicted_ms": round(self.predicted_ms, 4),
            "interval_ms": [round(ms, 4) for ms in self.interval_ms],
            "measured_ms": None if self.measured_ms is None else round(self.measured_ms, 4),
        }


@dataclass(frozen=True)
class Result:
    """Everything a search reports. Qualities of parent, winner and baselines are of the test split, comparisons too.

    Example:
        >>> result = run(SearchRequest("jetson-orin", Budget.parse("20ms"), Path("out")), progress)
        >>> words, certified = result.winner.architecture.words, result.certified
    """

    model: dict[str, Any]
    target: dict[str, Any]
    workload: str
    percentile: int
    budget_ms: float
    parent: Entry
    winner: Entry
    winner_parameters: int
    winner_memory: Memory
    winner_joules: float | None
    certified: bool
    verdict: str
    host: dict[str, float] | None
    files: dict[str, str]
    pareto: tuple[Entry, ...]
    baselines: tuple[Entry, ...]
    comparisons: tuple[Comparison, ...]
    units: tuple[UnitSavings, ...]
    search: dict[str, Any]
    mlflow: dict[str, Any]
    resume_command: str
    winner_parts: dict[str, int] = field(default_factory=dict)  # how many of each nature
    tokens: str = ""  # the winner's schedule in words
    parent_memory: Memory | None = None
    parent_joules: float | None = None
    as_dropped: Quality | None = None  # the winner's, before what is left was adjusted; None where nothing was
    compensation: dict[str, Any] | None = None  # how it was
    compensated: Quality | None = None  # the winner's, before it was trained; None where it was not, or not adjusted
    healing: dict[str, Any] | None = None  # how it was trained
    finalists: tuple[Finalist, ...] = ()
    phases: dict[str, float] = field(default_factory=dict)  # seconds of each, named as they were announced

    def to_json(self) -> dict[str, Any]:
        """The document that is written and printed."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "target": self.target,
            "workload": self.workload,
            "percentile": self.percentile,
            "budget_ms": round(self.budget_ms, 4),
            "parent": {
                **self.parent.to_json(),
                "parameters": self.model["parameters"],
                "memory_bytes": None if self.parent_memory is None else asdict(self.parent_memory),
                "joules": self.parent_joules,
            },
            "winner": {
                **self.winner.to_json(),
                "parameters": self.winner_parameters,
                "parts": self.winner_parts,
                "memory_bytes": asdict(self.winner_memory),
                "joules": self.winner_joules,
                "certified": self.certified,
                "verdict": self.verdict,
                "host": self.host,
                "tokens": self.tokens,
                "as_dropped": None if self.as_dropped is None else self.as_dropped.to_json(),
                "compensation": self.compensation,
                "compensated": None if self.compensated is None else self.compensated.to_json(),
                "healing": self.healing,
                "files": self.files,
            },
            "pareto": [entry.to_json() for entry in self.pareto],
            "baselines": [entry.to_json() for entry in self.baselines],
            "finalists": [finalist.to_json() for finalist in self.finalists],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "units": [unit.to_json() for unit in self.units],
            "search": self.search,
            "phases": self.phases,
            "mlflow": self.mlflow,
            "versions": list_versions(),
            "resume_command": self.resume_command,
        }

    def save(self, folder: Path) -> None:
        """Write `result.json`; it is complete or not there."""
        draft = folder / f"{RESULT}.draft"
        draft.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        draft.replace(folder / RESULT)


def list_versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
