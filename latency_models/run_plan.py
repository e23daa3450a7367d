"""Measuring files on this machine by the runner that a foreign device runs: a folder with a plan, fresh processes."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_models.measurement import Measurement
from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.plan import ENTRY, INPUTS, MODELS, PLAN, PROFILE
from latency_models.runner.plan import SCHEMA_VERSION as PLAN_VERSION
from latency_models.runner.process import run_tied
from latency_models.runtime_ort import PRECISION
from latency_models.targets import HOST
from latency_models.workload import Workload
from search_spaces.errors import MeasurementError, ProfileMismatch

SESSIONS = 2
MIN_ROUNDS = 10  # of all sessions together
_RUNNER = Path(__file__).parent / "runner"
PORTABLE = tuple(sorted(path.name for path in _RUNNER.glob("*.py")))  # what a kit carries as `runner/`
_ENTRY_TEXT = '''"""Measure by plan.json and write profile.json beside it; see --help."""

import sys

from runner.main import main

if __name__ == "__main__":
    sys.exit(main())
'''


def write_folder(folder: Path, plan: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> None:
    """Make `folder` a kit: the plan, the inputs, the runner and its entry. The candidates' files are the caller's.

    Args:
        plan: target, precision, model, shape, workload, sentinel, seconds, sittings, threads, least_rounds and
            candidates (name, file, optionally weight_bytes and architecture), as plan.json has them.
        inputs: input name to array; each file is given those it asks for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / INPUTS, **dict(inputs))  # type: ignore[arg-type]
    (folder / "runner").mkdir(exist_ok=True)
    for name in PORTABLE:
        shutil.copyfile(_RUNNER / name, folder / "runner" / name)
    (folder / ENTRY).write_text(_ENTRY_TEXT)
    (folder / PLAN).write_text(json.dumps({"schema_version": PLAN_VERSION, **plan}, indent=1) + "\n")


def run_folder(folder: Path, on_share: Callable[[float], None] = lambda share: None) -> Path:
    """Measure what a folder plans in ONNX Runtime on this machine's CPU, every session in a process of its own.

    Args:
        on_share: called with the share that is done, rising to 1.

    Returns:
        The profile that the runner wrote.

    Raises:
        MeasurementError: what the runner said, in one line.
    """
    command = [sys.executable, ENTRY, "--json", "--tied", "--runtime", "onnxruntime", "--provider", "cpu"]
    try:
        run_tied(command, folder, folder / "run.log", lambda line: on_share(line["share"]))
    except MeasuringFailed as error:
        raise MeasurementError(str(error)) from None
    return folder / PROFILE


Run = Callable[[Path, Callable[[float], None]], Path]  # runs a kit folder, says how far it is, names the profile


@dataclass(frozen=True)
class Measured:
    """Measurements by the name of their file, and the key they were made under.

    Example:
        >>> measured = measure_files(files, inputs, workload, sentinel="parent", seconds=2.0)
        >>> ratio = measured.of["winner"].compute_ratio()
    """

    key: dict[str, str]
    of: dict[str, Measurement]

    def join(self, later: "Measured") -> "Measured":
        """These and later ones of the same files.

        Raises:
            ProfileMismatch: under another key.
        """
        if later.key != self.key:
            raise ProfileMismatch(
                f"measured under {later.key} after {self.key}; keep the machine as it is, measure again"
            )
        return Measured(self.key, {name: one.join(later.of[name]) for name, one in self.of.items()})


def measure_files(
    files: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    workload: Workload,
    *,
    sentinel: str,
    seconds: float,
    sessions: int = SESSIONS,
    threads: int | None = None,
    min_rounds: int = MIN_ROUNDS,
    limit_s: float | None = None,
    weight_bytes: int | None = None,
    on_round: Callable[[float], None] = lambda share: None,
    precision: str = PRECISION,
    run: Run = run_folder,
) -> Measured:
    """Measure ONNX files interleaved in random order, in at least two fresh processes.

    Args:
        files: name to ONNX file; the `sentinel` is one of them, run every few others.
        inputs: input name to array; each file is given those it asks for.
        seconds: time to spend after warm-up, all sessions together; at least `min_rounds` rounds are made.
        limit_s: after so long no further round is begun, all sessions together; None for no limit.
        threads: intra-op threads; the cores of this process by default. Inter-op is 1.
        weight_bytes: what each file holds when loaded, where that is not its size; bounds how many are loaded at once.
        on_round: called with the share that is done, rising to 1.
        precision: of the files.
        run: where; on this machine's CPU by default.

    Raises:
        MeasurementError: a file that cannot be loaded or run, or a machine that cannot be measured.
        KeyError: the sentinel is not among the files.
    """
    if sentinel not in files:
        raise KeyError(f"the sentinel {sentinel!r} is not among the files {sorted(files)}")
    folders = list(dict.fromkeys(path.parent for path in files.values()))  # graphs of one folder may share weights
    stored = {name: Path(MODELS) / str(folders.index(path.parent)) / path.name for name, path in files.items()}
    held = {} if weight_bytes is None else {"weight_bytes": weight_bytes}
    plan = {
        "target": HOST, "precision": precision, "model": "", "shape": None, "workload": str(workload),
        "sentinel": sentinel, "seconds": seconds, "sittings": sessions, "threads": threads,
        "least_rounds": min_rounds, "limit_s": limit_s,
        "candidates": [{"name": name, "file": file.as_posix(), **held} for name, file in stored.items()],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        for name, file in stored.items():
            _bring(files[name], Path(folder) / file.parent)
        write_folder(Path(folder), plan, inputs)
        document = json.loads(run(Path(folder), on_round).read_text())
    measured = {record["name"]: Measurement.from_json(record["measurement"]) for record in document["records"]}
    return Measured(document["key"], measured)


def _bring(file: Path, folder: Path) -> None:
    """A graph and the weights it refers to, under their names; linked where the disk allows it."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (file, *_list_weights(file)):
        if (folder / part.name).exists():
            continue  # came with another graph
        try:
            os.link(part, folder / part.name)
        except OSError:  # another disk
            shutil.copyfile(part, folder / part.name)


def _list_weights(file: Path) -> list[Path]:
    """The files beside a graph that its tensors refer to."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    graph = onnx.load(str(file), load_external_data=False).graph
    external = [tensor for tensor in graph.initializer if uses_external_data(tensor)]
    names = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return [file.parent / name for name in sorted(names)]
