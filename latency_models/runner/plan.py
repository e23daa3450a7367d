"""The plan of a kit: what is measured, and how long."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .failure import MeasuringFailed

PLAN, INPUTS, PROFILE, MODELS, ENTRY = "plan.json", "inputs.npz", "profile.json", "models", "run.py"
SCHEMA_VERSION = 1
LOADED_BYTES = 4 << 30  # weights held by the models that are measured side by side
GROUP = 12  # candidates measured side by side at most: a group is what an interruption loses


@dataclass(frozen=True)
class Candidate:
    """One file; `weight_bytes` is what it holds when loaded, `architecture` what it is of its parent."""

    name: str
    file: Path
    weight_bytes: int
    architecture: Mapping[str, Any] | None


@dataclass(frozen=True)
class Plan:
    """What `plan.json` says.

    Attributes:
        digest: of the plan's text; a session belongs to exactly one plan.
        seconds, min_rounds: for all sessions together, warm-up not counted.
        limit_s: after so long no further round is begun, all sessions together; None for no limit.
        threads: intra-op threads; None for the cores of the process that measures.
        document: the whole of it: target, model, shape and workload are handed on to the profile unread.
    """

    folder: Path
    digest: str
    precision: str
    sentinel: str
    seconds: float
    sessions: int
    threads: int | None
    min_rounds: int
    candidates: tuple[Candidate, ...]
    document: Mapping[str, Any]
    limit_s: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read the plan of a folder.

        Raises:
            MeasuringFailed: when it is missing, damaged, of another version, or names files that are not there.
        """
        path = folder / PLAN
        try:
            text = path.read_text()
            return cls._from_json(folder, text, json.loads(text))
        except OSError as error:
            raise MeasuringFailed(
                f"{path} cannot be read ({error.strerror}); run it where the kit was unpacked"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasuringFailed(f"{path} is no plan ({error!r}); unpack the kit again") from None

    @classmethod
    def _from_json(cls, folder: Path, text: str, document: Mapping[str, Any]) -> Plan:
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {document['schema_version']!r} is not {SCHEMA_VERSION}")
        candidates = tuple(_read_candidate(folder, entry) for entry in document["candidates"])
        names = [candidate.name for candidate in candidates]
        if document["sentinel"] not in names or len(set(names)) != len(names):
            raise ValueError(f"the sentinel {document['sentinel']!r} is not among different candidates")
        if document["sittings"] < 1 or document["least_rounds"] < 1 or not document["seconds"] >= 0:
            raise ValueError("sittings and least_rounds are at least 1 and seconds at least 0")
        return cls(
            folder, hashlib.sha256(text.encode()).hexdigest(), str(document["precision"]), document["sentinel"],
            float(document["seconds"]), int(document["sittings"]), document["threads"], int(document["least_rounds"]),
            candidates, document, None if document.get("limit_s") is None else float(document["limit_s"]),
        )  # fmt: skip

    def group_candidates(self, session: int) -> list[list[Candidate]]:
        """The candidates in groups whose weights fit side by side, the sentinel first in each.

        Shuffled, differently in every session: who shares a group with whom must not tell in the end.
        """
        sentinel = next(candidate for candidate in self.candidates if candidate.name == self.sentinel)
        others = [candidate for candidate in self.candidates if candidate is not sentinel]
        random.Random(session).shuffle(others)
        groups: list[list[Candidate]] = [[]]
        free_bytes = LOADED_BYTES - sentinel.weight_bytes
        size = math.ceil(len(others) / max(1, math.ceil(len(others) / GROUP)))  # equal sizes rather than a small last
        for candidate in others:
            held = sum(other.weight_bytes for other in groups[-1])
            if groups[-1] and (len(groups[-1]) >= size or held + candidate.weight_bytes > free_bytes):
                groups.append([])
            groups[-1].append(candidate)
        return [[sentinel, *group] for group in groups]


def _read_candidate(folder: Path, entry: Mapping[str, Any]) -> Candidate:
    file = folder / entry["file"]
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    return Candidate(
        str(entry["name"]), file, int(entry.get("weight_bytes", file.stat().st_size)), entry.get("architecture")
    )
