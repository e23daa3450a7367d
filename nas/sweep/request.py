"""A sweep as asked: the cells, what all of their searches have in common, and how it is run; on disk to be resumed."""

import json
import os
import shlex
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from latency_models.targets import find_target
from nas.parent.reference_models import find_reference, list_reference_names
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.storage.private_files import write_private
from nas.storage.redact import build_sqlite_url
from nas.sweep.cell import CELLS, Cell, list_cells
from nas.tracking.address import get_tracking_uri
from search_spaces.errors import ModelError, UsageError

FILE = "sweep-request.json"
SCHEMA_VERSION = 1
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sweep:
    """The searches of a sweep and how they are run.

    Attributes:
        out: its folder, absolute; the searches' own folders lie in it.
        id: names its study, so that sweeps in one database never mix.
        storage: the database of its study; None is a file in its folder.
        tracking_uri: MLflow, as given; None is MLFLOW_TRACKING_URI, else a database in its folder.
        cpus: that each trial asks Ray for.
        concurrent: the most trials at once; None for as many as the cluster has room for.

    Example:
        >>> sweep = create_sweep(Path("sweep"), ["python-lm"], ["host"], [Budget.parse("0.6x")], seeds=[0])
        >>> len(sweep.cells)
        1
    """

    out: Path
    id: str
    cells: tuple[Cell, ...]
    storage: str | None = None
    tracking_uri: str | None = None
    cpus: int = 1
    concurrent: int | None = None

    @property
    def resume_command(self) -> str:
        """What a person types to go on with it."""
        return shlex.join(["nas", "sweep", "--resume", str(self.out)])

    @property
    def study(self) -> tuple[str, str]:
        """The address and the name of its Optuna study."""
        return self.storage or build_sqlite_url(self.out / "sweep.db"), f"sweep {self.id}"

    def get_folder(self, cell: Cell) -> Path:
        """The result folder of a cell."""
        return self.out / CELLS / cell.name

    def save(self, common: SearchRequest) -> None:
        """Write the sweep, and the request of every cell into its folder.

        Raises:
            UsageError: the folder holds a sweep already.
        """
        path = self.out / FILE
        if path.exists():
            raise UsageError(f"{self.out} holds a sweep; choose another --out, or continue with: {self.resume_command}")
        for cell in self.cells:
            self.build_request(cell, common).save()
        document = {"schema_version": SCHEMA_VERSION, **asdict(self), "out": str(self.out)}
        write_private(path, json.dumps(document, indent=2) + "\n")

    def build_request(self, cell: Cell, common: SearchRequest) -> SearchRequest:
        """The search of a cell."""
        return replace(
            common, model=cell.model, target=cell.target, budget=Budget.parse(cell.budget), seed=cell.seed,
            out=self.get_folder(cell), storage=self.storage, tracking_uri=self._get_tracking(),
        )  # fmt: skip

    def _get_tracking(self) -> str | None:
        """One MLflow for all searches. What MLFLOW_TRACKING_URI holds may have a password: it is not written down."""
        return None if not self.tracking_uri and "MLFLOW_TRACKING_URI" in os.environ else self.mlflow

    @property
    def mlflow(self) -> str:
        """Where the sweep and its searches are logged."""
        return get_tracking_uri(self.tracking_uri, self.out)

    @classmethod
    def load(cls, folder: Path) -> "Sweep":
        """The sweep of a folder.

        Raises:
            UsageError: there is none, or it was moved since: its study and its searches are named by their paths.
        """
        path = folder.resolve() / FILE
        try:
            document = json.loads(path.read_text())
            if document.pop("schema_version") != SCHEMA_VERSION:
                raise UsageError(f"{path} was written by another version of nas; start the sweep again")
            cells = tuple(Cell(**cell) for cell in document.pop("cells"))
            sweep = cls(**{**document, "cells": cells, "out": Path(document["out"])})
        except FileNotFoundError:
            raise UsageError(f"{folder} holds no {FILE}; --resume takes the folder of a sweep") from None
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path} is not a sweep ({error}); start the sweep again") from None
        if sweep.out != folder.resolve():
            raise UsageError(f"{folder} was moved from {sweep.out}; a sweep is resumed where it was started")
        return sweep


def create_sweep(
    out: Path, models: Sequence[str], targets: Sequence[str], budgets: Sequence[Budget], seeds: Sequence[int],
    **how: Any,
) -> Sweep:  # fmt: skip
    """A sweep over every combination, not yet on disk.

    Args:
        how: `storage`, `tracking_uri`, `cpus` and `concurrent` of the `Sweep`.

    Raises:
        UsageError: an empty list, a negative seed, or the same thing twice.
        UnknownTarget: a target that is none.
        ModelError, MissingExtra: a model that is no reference model, no folder and no hub id.
    """
    resolved = [_resolve_model(model) for model in models]
    _check_once("--models", models, [str(model) for model in resolved])
    _check_once("--targets", targets, [find_target(target).name for target in targets])
    _check_once("--budgets", [budget.text for budget in budgets], [replace(budget, text="") for budget in budgets])
    _check_once("--seeds", [str(seed) for seed in seeds], list(seeds))
    if min(seeds) < 0:
        raise UsageError(f"--seeds {min(seeds)}: a seed is 0 or above")
    return Sweep(out.resolve(), uuid.uuid4().hex[:12], list_cells(resolved, targets, budgets, seeds), **how)


def parse_list(flag: str, text: str, parse: Callable[[str], _T]) -> tuple[_T, ...]:
    """The members of `a,b,c`.

    Raises:
        UsageError: none, or an empty one; and whatever `parse` raises.
    """
    members = [member.strip() for member in text.split(",")]
    if not all(members):
        raise UsageError(f"{flag} {text!r} has an empty place; separate the members by single commas")
    return tuple(parse(member) for member in members)


def parse_seed(text: str) -> int:
    """A whole number.

    Raises:
        UsageError: it is none.
    """
    if not text.isdecimal():
        raise UsageError(f"--seeds {text!r} is no whole number from 0 on; write for example 0,1,2")
    return int(text)


def _check_once(flag: str, given: Sequence[str], meant: Sequence[Hashable]) -> None:
    """Refuse an empty list, and two names of one thing."""
    if not given:
        raise UsageError(f"{flag} is empty; name at least one")
    earlier: dict[Hashable, str] = {}
    for name, thing in zip(given, meant, strict=True):
        if thing in earlier:
            raise UsageError(f"{flag}: {name} and {earlier[thing]} are the same; name each once")
        earlier[thing] = name


def _resolve_model(text: str) -> str:
    """A reference model's name, the absolute path of a folder, or a hub id.

    Raises:
        ModelError: it can be none of them.
    """
    if text in list_reference_names():
        find_reference(text)  # whether its package is installed
        return text
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if text.startswith((".", "/", "~")) or text.count("/") != 1 or path.exists() or path.parent.is_dir():
        raise ModelError(
            f"model {text!r} is no folder here; give a Hugging Face folder, a hub id (org/name) or a reference model"
        )
    return text
