"""A profile: what was measured on a target for one parent and workload, raw samples included, on disk as JSON."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latency_models.measurement import Measurement
from latency_models.shape import ModelShape
from latency_models.targets import HOST
from latency_models.workload import Workload
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, NasError, ProfileMismatch, UsageError

SCHEMA_VERSION = 2
_READABLE = (1, 2)  # 1 had neither target nor conditions


@dataclass(frozen=True)
class Record:
    """One architecture of the parent, measured. An architecture without any unit is the bare stem.

    Example:
        >>> record = Record(Architecture.parent(6), Measurement((10.1, 10.3), Workload(Phase.FORWARD)))
    """

    architecture: Architecture
    measurement: Measurement


@dataclass(frozen=True)
class Profile:
    """Measurements under one key.

    Attributes:
        key: device, runtime and version, precision, threads, power mode; never mixed with another.
        model: digest of the parent's weights.
        target: the name of the target that was measured.
        conditions: for each session what the device said of itself (clocks, temperatures, load), as it said it.

    Example:
        >>> profile = Profile.load(Path("profile.json"))
        >>> parent = profile.find_measurement(Architecture.parent(profile.shape.depth))
    """

    key: dict[str, str]
    model: str
    shape: ModelShape
    workload: Workload
    records: tuple[Record, ...]
    target: str = HOST
    conditions: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for record in self.records:
            if record.measurement.workload != self.workload:
                raise ProfileMismatch(
                    f"a record of {record.measurement.workload} is in a profile of {self.workload}; measure them apart"
                )
            if record.architecture.depth != self.shape.depth:
                raise ProfileMismatch(
                    f"a record has {record.architecture.depth} blocks and the profile's model {self.shape.depth}; "
                    "measure each model apart"
                )

    def add_records(self, records: tuple[Record, ...]) -> "Profile":
        """This profile with more records; those of an architecture it has already replace the old."""
        renewed = {record.architecture for record in records}
        kept = tuple(record for record in self.records if record.architecture not in renewed)
        return replace(self, records=kept + records)

    def merge(self, other: "Profile") -> "Profile":
        """Both profiles' records.

        Raises:
            ProfileMismatch: when key, model, shape, workload or target differ.
        """
        for name in ("key", "model", "shape", "workload", "target"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ProfileMismatch(
                    f"profiles differ in {name} ({mine} and {theirs}) and cannot be mixed; measure again"
                )
        return self.add_records(other.records)

    def find_measurement(self, architecture: Architecture) -> Measurement | None:
        """The measurement of exactly this architecture, if there is one."""
        measurements = (record.measurement for record in self.records if record.architecture == architecture)
        return next(measurements, None)

    def save(self, path: Path) -> None:
        """Write the profile; the file is complete or not there."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "key": self.key,
            "model": self.model,
            "shape": self.shape.to_json(),
            "workload": str(self.workload),
            "conditions": list(self.conditions),
            "records": [
                {"architecture": r.architecture.to_json(), "measurement": r.measurement.to_json()} for r in self.records
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")  # two processes may write the same profile
        draft.write_text(json.dumps(document, indent=1) + "\n")
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Read what `save` writes.

        Raises:
            UsageError: when there is no such file.
            MeasurementError: when it is truncated, edited into nonsense, or of another version.
        """
        try:
            return cls._from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            raise UsageError(f"{path} does not exist; make it with nas profile") from None
        except OSError as error:
            raise MeasurementError(f"{path} cannot be read ({error.strerror}); make it with nas profile") from None
        except (NasError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise MeasurementError(f"{path} is no profile ({error}); make it again with nas profile") from None

    @classmethod
    def _from_json(cls, document: dict[str, Any]) -> "Profile":
        if document["schema_version"] not in _READABLE:
            raise MeasurementError(f"schema_version is {document['schema_version']!r}, none of {_READABLE}")
        records = tuple(
            Record(Architecture.from_json(r["architecture"]), Measurement.from_json(r["measurement"]))
            for r in document["records"]
        )
        shape, workload = ModelShape.from_json(document["shape"]), Workload.parse(document["workload"])
        target, conditions = str(document.get("target", HOST)), tuple(document.get("conditions", ()))
        return cls(dict(document["key"]), str(document["model"]), shape, workload, records, target, conditions)
