"""Where a target is measured: this machine, or a device that kits are carried to, in the form of file it takes."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from latency_models.profile import Profile
from latency_models.run_plan import Measured, measure_files
from latency_models.runner.plan import PROFILE
from latency_models.runtime_ort import count_default_threads, read_environment
from latency_models.workload import Workload
from nas.export.exported_graphs import ExportedGraphs
from nas.export.onnx_export import build_file_name, make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.export.parity import check_parity
from nas.parent.parent import ParentModel
from nas.profiling.effort import Effort
from nas.profiling.host import measure_architectures
from nas.profiling.host_profile import load_host_profile
from nas.profiling.kit import Kit, export_for_target, make_inputs, pack
from nas.profiling.profile_store import check_profile
from nas.profiling.ssh import Transport, profile_there
from nas.progress import Progress, open_timed_stage
from pruning.compensation.candidate_builder import list_adjusted
from pruning.surgery.prune import read_architecture
from pruning.surgery.trained_weights import was_trained
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError, MeasurementError
from search_spaces.space import Space


class Device(Protocol):
    """Measures architectures and files of one parent under one workload.

    Example:
        >>> device: Device = ThisMachine(parent, ParentExport(parent, progress), workload, progress)
        >>> profile = device.measure([architecture], Effort(20.0))
    """

    def profile(self) -> Profile:
        """The target, profiled anew and kept.

        Raises:
            MeasurementError: it cannot be measured, or not to the end.
        """

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        """The parent and these architectures, side by side.

        Raises:
            MeasurementError: they cannot be measured, or not to the end.
        """

    def export(self, model: Any, folder: Path) -> Path:
        """Write a pruned model as the target takes it.

        Raises:
            ExportError: it cannot be exported, or the file does not compute what the model does.
        """

    def compare(self, file: Path, effort: Effort) -> Measured:
        """A file as `winner` beside the `parent`, in fresh processes.

        Raises:
            MeasurementError: as `measure`.
        """


@dataclass(frozen=True)
class ThisMachine:
    """This machine's CPU in ONNX Runtime.

    Example:
        >>> machine = ThisMachine(parent, ParentExport(parent, progress), workload, progress)
        >>> profile = machine.measure([architecture], Effort(20.0))
    """

    parent: ParentModel
    export_of_parent: ParentExport
    workload: Workload
    progress: Progress
    space: Space | None = None

    def profile(self) -> Profile:
        """The whole design, in place of the profile that was kept."""
        return load_host_profile(
            self.parent, self.export_of_parent, self.workload, self.progress, fresh=True, space=self.space
        )

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        """Files derived from the parent's export."""
        graphs = self.export_of_parent.graphs
        with open_timed_stage(self.progress, "measuring candidates", effort.limit_s) as on_share:
            records = measure_architectures(
                self.parent.model, graphs, list(architectures), self.workload, effort, on_round=on_share
            )
        key = read_environment(count_default_threads())
        return Profile(key, self.parent.digest, self.parent.shape, self.workload, records)

    def export(self, model: Any, folder: Path) -> Path:
        """The parent's file, edited; compared with the model."""
        path = folder / build_file_name(self.workload.phase)
        with self.progress.open_stage("writing the winner's file"):
            reason = self.export_of_parent.write_pruned(model, path)
        if reason:
            self.progress.show_message(reason)
        return path

    def compare(self, file: Path, effort: Effort) -> Measured:
        """Beside the parent's own export."""
        with open_timed_stage(self.progress, "measuring winner and parent", effort.limit_s) as on_share:
            return measure_files(
                {"parent": self.export_of_parent.path, "winner": file},
                make_workload_inputs(self.parent.model, self.workload), self.workload, sentinel="parent",
                seconds=effort.seconds, min_rounds=effort.min_rounds, limit_s=effort.limit_s, on_round=on_share,
            )  # fmt: skip


@dataclass(frozen=True)
class RemoteDevice:
    """A device that kits are carried to. Contenders go without their weights, the winner as it will be deployed.

    Example:
        >>> device = RemoteDevice(Kit(parent, target, workload), SshTarget("user@orin"), progress)
        >>> profile = device.profile()
    """

    kit: Kit
    transport: Transport
    progress: Progress

    def profile(self) -> Profile:
        """The kit that was first taken there, once more."""
        return profile_there(self.kit, self.transport, self.progress)

    def measure(self, architectures: Sequence[Architecture], effort: Effort) -> Profile:
        """A kit of these architectures."""
        parent = Architecture.parent(self.kit.parent.anatomy.depth)
        kit = replace(
            self.kit, seconds=effort.seconds, min_rounds=effort.min_rounds, limit_s=effort.limit_s,
            architectures=tuple(dict.fromkeys([parent, *architectures])),
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            kit.write(Path(name))
            profile = Profile.load(self._run(Path(name), lambda share: None))
        check_profile(profile, kit.target.name, kit.parent, kit.target, kit.workload)
        return profile

    def export(self, model: Any, folder: Path) -> Path:
        """In the target's precision and operators; compared with the model in fp32, in fp16 the same graph rounds."""
        target, phase = self.kit.target, self.kit.workload.phase
        path = folder / f"device-{build_file_name(phase)}"
        with self.progress.open_stage("writing the winner's file"):
            if was_trained(model) or not self._derive(model, path):
                export_for_target(model, path, target, phase)
                self._check(model, path)
        return path

    def _derive(self, model: Any, path: Path) -> bool:
        """Write the file by editing the parent's; whether that is possible and computes what the model does."""
        try:
            architecture = read_architecture(model, self._graphs.anatomy.depth)
            self._graphs.derive(architecture, path, list_adjusted(model))
            self._check(model, path)
        except (ExportError, MeasurementError):
            return False
        return True

    def _check(self, model: Any, path: Path) -> None:
        if self.kit.target.precision == "fp32":
            check_parity(model, path, self.kit.workload.phase)

    @cached_property
    def _graphs(self) -> ExportedGraphs:
        """Of the parent as it is deployed on the target, each schedule's made when it is asked for."""
        return self.kit.export_graphs_of(self.kit.parent.model)

    def compare(self, file: Path, effort: Effort) -> Measured:
        """Beside the parent in the same form."""
        kit = self.kit
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            whole = Architecture.parent(kit.parent.anatomy.depth)
            parent = self._graphs.derive(whole, Path(name) / "parent.onnx")
            inputs = make_inputs(self._graphs.parent, make_workload_inputs(kit.parent.model, kit.workload))
            return measure_files(
                {"parent": parent, "winner": file}, inputs, kit.workload, sentinel="parent", seconds=effort.seconds,
                min_rounds=effort.min_rounds, limit_s=effort.limit_s, precision=kit.target.precision,
                run=self._run,
            )  # fmt: skip

    def _run(self, folder: Path, on_share: Callable[[float], None]) -> Path:
        """Run a folder there; what was measured before a lost connection is not measured again."""
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            packed = Path(name) / "kit.zip"
            pack(folder, packed)
            document = self.transport.run(packed, self.progress)
        (folder / PROFILE).write_bytes(document)
        return folder / PROFILE
