"""What is logged of a search: plain data, which is kept as JSON until it is sent."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FEASIBLE = "feasible"  # 1 or 0: whether a candidate meets the budget
Curves = dict[str, list[tuple[int, float]]]  # by the name of a metric, its value at steps of a training


@dataclass(frozen=True)
class CandidateRun:
    """What is logged of one candidate: flat numbers under the same keys for all, and words to find it by.

    `curves` has one that was trained.

    Example:
        >>> metrics = {"quality.kl": 0.03, "latency.p90": 8.2}
        >>> run = CandidateRun("trial 012", "evolution", "attn+mlp mlp", "0123abcd", {}, {}, metrics, True, False)
    """

    name: str
    method: str
    words: str
    digest: str
    architecture: dict[str, Any]
    params: dict[str, Any]
    metrics: dict[str, float]
    feasible: bool
    pareto: bool
    curves: Curves = field(default_factory=dict)


@dataclass(frozen=True)
class Winner:
    """The winner as a version of a registered model.

    Attributes:
        model: the registered model's name; winners under one name can be compared with each other.
        loss: on held-out data; lower is better.
        ms: measured, or predicted for a target that was not at hand.
        certified: measured on the target inside the budget.
        feasible: certified, or predicted inside the budget; else it never becomes champion.
        tags: what else is worth knowing of the version.
        formerly: the name that an earlier nas gave to the same model; its versions are compared too.

    Example:
        >>> winner = Winner("python-lm-host-0.6x-0", loss=0.03, ms=8.2, certified=True, feasible=True)
    """

    model: str
    loss: float
    ms: float
    certified: bool
    feasible: bool
    tags: dict[str, str] = field(default_factory=dict)
    formerly: str = ""


@dataclass(frozen=True)
class Layout:
    """How the experiment's page shows its runs: by which metric they are sorted, and which metrics are columns.

    Example:
        >>> layout = Layout("quality.kl", higher_is_better=False, columns=("latency.p90",))
    """

    metric: str
    higher_is_better: bool
    columns: tuple[str, ...]


@dataclass(frozen=True)
class SearchRun:
    """What is logged of a search.

    Attributes:
        params, metrics: under the keys that the candidates have.
        data: the digest of each split.
        winner: None is not registered.
        tags: what is known of the search and of no candidate.
        layout: of the experiment's page; None leaves it as it is.
        curves: of the winner's training, where it was trained.
        verb: the command whose run it is.

    Example:
        >>> run = SearchRun("python-lm", "host", "0.6x", "", {"seed": 0}, {"winner.kl": 0.03}, candidates=())
        >>> where = log_search(run, "sqlite:///mlflow.db", Path("out"))
    """

    model: str
    target: str
    budget: str
    note: str
    params: dict[str, Any]
    metrics: dict[str, float]
    candidates: Sequence[CandidateRun]
    files: Sequence[Path] = ()
    folders: dict[str, Path] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    winner: Winner | None = None
    tags: dict[str, str] = field(default_factory=dict)
    layout: Layout | None = None
    curves: Curves = field(default_factory=dict)
    verb: str = "search"


@dataclass(frozen=True)
class Record:
    """A search's run with what makes sending it twice the same as sending it once.

    Attributes:
        id: the tag `nas.record` of its run.
        created_ms: since the epoch; the time of its runs and metrics, whenever they are sent.
        tracking_uri: where it belongs, without a password.
    """

    id: str
    created_ms: int
    tracking_uri: str
    run: SearchRun

    def to_json(self, out: Path) -> dict[str, Any]:
        """The JSON form; files of the result folder are named from there, so that it may be moved."""
        run = asdict(self.run)
        run["files"] = [_make_relative(path, out) for path in self.run.files]
        run["folders"] = {name: _make_relative(path, out) for name, path in self.run.folders.items()}
        return {"id": self.id, "created_ms": self.created_ms, "tracking_uri": self.tracking_uri, "run": run}

    @classmethod
    def from_json(cls, document: dict[str, Any], out: Path) -> "Record":
        """Read what `to_json` writes; KeyError, TypeError or AttributeError where it is something else."""
        run = dict(document["run"])
        run["candidates"] = [CandidateRun(**_read_curves(candidate)) for candidate in run["candidates"]]
        run["files"] = [out / path for path in run["files"]]
        run["folders"] = {name: out / path for name, path in run["folders"].items()}
        run["winner"] = run["winner"] and Winner(**run["winner"])
        layout = run.get("layout")
        run["layout"] = layout and Layout(**{**layout, "columns": tuple(layout["columns"])})
        return cls(document["id"], document["created_ms"], document["tracking_uri"], SearchRun(**_read_curves(run)))


def _read_curves(document: dict[str, Any]) -> dict[str, Any]:
    """A run's document with points as tuples; earlier versions had no curves."""
    curves = document.get("curves", {})
    return {**document, "curves": {name: [(step, value) for step, value in curves[name]] for name in curves}}


def _make_relative(path: Path, out: Path) -> str:
    path, out = path.resolve(), out.resolve()
    return str(path.relative_to(out) if path.is_relative_to(out) else path)
