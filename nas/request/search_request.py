"""A search request: everything a person asked for, complete and on disk, so that a search can be resumed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_models.workload import Workload
from nas.request.choices import AUTO, FULL, OFF, PROJECTIONS, QUALITY
from nas.request.quantities import Budget, ByteLimit, ParameterLimit
from nas.storage.private_files import write_private
from nas.storage.result_folder import resume_command
from search_spaces.errors import UsageError
from search_spaces.kinds import DEFAULT_UNITS, KINDS, UNIT_NAMES
from search_spaces.servable import Servable

FILE = "request.json"
SCHEMA_VERSION = 1
BATCH = 4  # trials proposed together: what docs/search.md says about it was measured
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class SearchRequest:
    """One search, as asked. `workload` None means the default of model and target.

    `heal_s` is how long finalists are trained, all of them together, in seconds; None for not at all. `part` is the
    stack that is pruned of a model that has several.

    Example:
        >>> request = SearchRequest("jetson-orin", Budget.parse("20ms"), Path("out"), trials=12)
        >>> request.to_json()["trials"]
        12
    """

    target: str
    budget: Budget
    out: Path
    model: str | None = None
    data: Path | None = None
    workload: Workload | None = None
    units: tuple[str, ...] = DEFAULT_UNITS
    percentile: int = 90
    trials: int = 48
    time_limit_s: float | None = None
    seed: int = 0
    storage: str | None = None
    tracking_uri: str | None = None
    trust_remote_code: bool = False
    method: str = "nas"
    pareto: bool = False
    servable: Servable = Servable.ANY
    prefix_cache_bytes: int = 1 << 30
    verify_cache: bool = False
    arithmetic: str = AUTO
    precision: str = FULL
    max_parameters: ParameterLimit | None = None
    max_bytes: ByteLimit | None = None
    max_cache: ByteLimit | None = None
    tokens: str = OFF
    compensate: str = AUTO
    heal_s: float | None = None
    heal_train: str = PROJECTIONS
    batch: int = BATCH
    executor: str = "local"
    workers: int | None = None
    worker_resources: dict[str, float] | None = None
    device: str = AUTO
    stream: str = AUTO
    part: str | None = None
    goal: str = QUALITY
    id: str = ""  # of this search among all, given when it begins

    def is_same_search(self, other: "SearchRequest") -> bool:
        """Whether the other asks for the same: who evaluates, and where the folder is, make no difference."""
        return self._remove_location() == other._remove_location()

    def _remove_location(self) -> "SearchRequest":
        return dataclasses.replace(
            self, out=Path(), executor="local", workers=None, worker_resources=None, device=AUTO, stream=AUTO, id=""
        )

    @property
    def resume_command(self) -> str:
        """What a person types to go on with this search."""
        return resume_command(self.out)

    def save(self) -> None:
        """Write the request into its result folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_private(self.out / FILE, json.dumps(self.to_json(), indent=2) + "\n")

    def to_json(self) -> dict[str, Any]:
        """The JSON form; `load` reads it."""
        document = dataclasses.asdict(self)
        document["budget"] = self.budget.text
        document["max_parameters"] = self.max_parameters and self.max_parameters.text
        document["max_bytes"] = self.max_bytes and self.max_bytes.text
        document["max_cache"] = self.max_cache and self.max_cache.text
        document["workload"] = None if self.workload is None else str(self.workload)
        document["units"] = list(self.units)
        document["out"], document["data"] = str(self.out), None if self.data is None else str(self.data)
        return {"schema_version": SCHEMA_VERSION, **document}

    @classmethod
    def load(cls, folder: Path) -> "SearchRequest":
        """The request of an earlier search; the folder may have been moved since.

        Raises:
            UsageError: when the folder holds no readable request.
        """
        path = folder / FILE
        try:
            document = json.loads(path.read_text())
            if document.pop("schema_version") != SCHEMA_VERSION:
                raise UsageError(f"{path} was written by another version of nas; start the search again")
            document["budget"] = Budget.parse(document["budget"])
            document["workload"] = document["workload"] and Workload.parse(document["workload"])
            max_parameters = document.get("max_parameters")
            document["max_parameters"] = max_parameters and ParameterLimit.parse(max_parameters)
            for name in ("max_bytes", "max_cache"):
                text = document.get(name)
                document[name] = text and ByteLimit.parse(text)
            document["servable"] = Servable(document.get("servable", Servable.ANY))
            document["units"] = tuple(KINDS[name].name for name in document["units"])
            document["data"] = document["data"] and Path(document["data"])
            document.setdefault("compensate", OFF)  # searches of earlier versions had none
            if "arithmetic" not in document:  # which earlier versions called precision
                document["arithmetic"], document["precision"] = document.pop("precision", AUTO), FULL
            return cls(**{**document, "out": folder})
        except FileNotFoundError:
            raise UsageError(f"{folder} holds no {FILE}; give the result folder of a search") from None
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path} is not a search request ({error}); start the search again") from None


def parse_resources(text: str) -> dict[str, float]:
    """Read what one worker asks for, such as `{"CPU": 2, "big": 1}`.

    Raises:
        UsageError: no JSON object of positive numbers.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        document = None
    numbers = isinstance(document, dict) and all(
        isinstance(amount, int | float) and not isinstance(amount, bool) and 0 < amount < float("inf")
        for amount in document.values()
    )
    if not numbers or not document:
        raise UsageError(
            f'worker resources {text!r}: a JSON object of positive amounts; write for example {{"CPU": 2}}'
        )
    return {str(name): float(amount) for name, amount in document.items()}


def check_executor(name: str) -> str:
    """An executor's name, if it is one.

    Raises:
        UsageError: it is none.
    """
    if name not in EXECUTORS:
        raise UsageError(f"executor {name!r} is none of {', '.join(EXECUTORS)}")
    return name


def parse_units(text: str) -> tuple[str, ...]:
    """Read names of kinds of units such as `attention,cross-attention,mlp,block`, or `none`.

    Raises:
        UsageError: on an empty list or an unknown kind.
    """
    if text.strip() == "none":
        return ()
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in UNIT_NAMES]
    if unknown or not names:
        raise UsageError(f"units {text!r}: each is one of {', '.join(UNIT_NAMES)}; write for example attention,mlp")
    return tuple(name for name in UNIT_NAMES if name in names)


def read_search_of(model: Path) -> SearchRequest | None:
    """The request of the search that found a model; None where its folder lies in no result folder.

    Raises:
        UsageError: the request cannot be read.
    """
    return SearchRequest.load(model.parent) if (model.parent / FILE).is_file() else None
