"""Where a target is measured: this machine, or a device that ssh reaches, in the form of file that it takes."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latency_models.measure import Measured, measure_files
from latency_models.measuring.plan import PROFILE
from latency_models.profile import Profile
from latency_models.runtime_ort import default_threads, environment
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import export_for_onnx_runtime, workload_inputs
from nas.export.parity import check_parity
from nas.export.variants import ParentGraph
from nas.kit import Kit, export_for_target, inputs_of, pack
from nas.latency import ParentExport
from nas.profiling import measure_architectures
from nas.progress import Progress
from nas.remote import Account, run_kit
from nas.subject import Subject
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class Effort:
    """How long is measured: seconds, and rounds at least, of all sittings together."""

    seconds: float
    least_rounds: int


class Device(Protocol):
    """Measures architectures and files of one parent under one workload."""

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        """The parent and these architectures, side by side.

        Raises:
            MeasurementError: they cannot be measured, or not to the end.
        """

    def confirm(self, winner: Any, folder: Path, effort: Effort) -> tuple[Path, Measured]:
        """Export a pruned model into a folder; measure it as `winner` beside the `parent`, in fresh processes.

        Raises:
            ExportError: it cannot be exported, or the file does not compute what the model does.
            MeasurementError: as `measure`.
        """


@dataclass(frozen=True)
class ThisMachine:
    """This machine's CPU in ONNX Runtime."""

    subject: Subject
    export: ParentExport
    workload: Workload
    progress: Progress

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        """Files derived from the parent's export."""
        records = measure_architectures(
            self.subject.model, self.export.graph, list(architectures), self.workload,
            seconds=effort.seconds, least_rounds=effort.least_rounds,
        )  # fmt: skip
        key = environment(default_threads())
        return Profile(key, self.subject.digest, self.subject.shape, self.workload, records)

    def confirm(self, winner: Any, folder: Path, effort: Effort) -> tuple[Path, Measured]:
        """The file is exported anew from the pruned model and compared with it."""
        phase = self.workload.phase
        path = folder / file_name(phase)
        with self.progress.stage("exporting the winner"):
            _, reason = export_for_onnx_runtime(winner, path, check_parity, phase)
        if reason:
            self.progress.message(reason)
        files = {"parent": self.export.path, "winner": path}
        with self.progress.stage("measuring winner and parent"):
            return path, measure_files(
                files, workload_inputs(self.subject.model, self.workload), self.workload, sentinel="parent",
                seconds=effort.seconds, least_rounds=effort.least_rounds,
            )  # fmt: skip


@dataclass(frozen=True)
class RemoteDevice:
    """A device over ssh. Contenders go there without their weights, the winner as it will be deployed."""

    kit: Kit
    account: Account
    progress: Progress

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        """A kit of these architectures."""
        parent = Architecture.parent(self.kit.subject.anatomy.depth)
        chosen = tuple(dict.fromkeys([parent, *architectures]))
        kit = replace(self.kit, seconds=effort.seconds, least_rounds=effort.least_rounds, architectures=chosen)
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            kit.write(Path(name))
            return Profile.load(self._run(Path(name), lambda share: None))

    def confirm(self, winner: Any, folder: Path, effort: Effort) -> tuple[Path, Measured]:
        """Both files are written in the target's precision and operators."""
        kit, phase = self.kit, self.kit.workload.phase
        path = folder / f"device-{file_name(phase)}"
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            with self.progress.stage("exporting the winner"):
                export_for_target(winner, path, kit.target, phase)
                parent = export_for_target(kit.subject.model, Path(name) / "parent.onnx", kit.target, phase)
            graph = ParentGraph.read(parent, kit.subject.anatomy)
            inputs: Mapping[str, np.ndarray] = inputs_of(graph, workload_inputs(kit.subject.model, kit.workload))
            return path, measure_files(
                {"parent": parent, "winner": path}, inputs, kit.workload, sentinel="parent", seconds=effort.seconds,
                least_rounds=effort.least_rounds, precision=kit.target.precision, run=self._run,
            )  # fmt: skip

    def _run(self, folder: Path, on_share: Callable[[float], None]) -> Path:
        """Run a folder there; what was measured before a lost connection is not measured again."""
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            packed = Path(name) / "kit.zip"
            pack(folder, packed)
            document = run_kit(packed, self.account, self.progress)
        (folder / PROFILE).write_bytes(document)
        return folder / PROFILE


def file_name(phase: Phase) -> str:
    """Of a model exported for a phase."""
    return "model.onnx" if phase is Phase.FORWARD else f"model-{phase}.onnx"
