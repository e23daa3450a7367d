"""The latency model of a subject on a target: measured here, measured there and imported, or from the data sheet."""

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.model import LatencyModel
from latency_models.profile import Profile
from latency_models.runtime_ort import default_threads, environment
from latency_models.targets import HOST, Target
from latency_models.workload import Phase, Workload
from nas.export.cached_export import cache_layers
from nas.export.exporters import ONNX_RUNTIME, Exporter
from nas.export.graph_editing import ParentGraph
from nas.export.images import PIXELS
from nas.export.parity import check_parity
from nas.export.schedule_exports import ReducedGraphs
from nas.export.shared_weights import with_parent, without_parent
from nas.parent.parent import ParentModel
from nas.profiling.host import SECONDS, measure_architectures, profile_host
from nas.profiling.profile_store import device_model, device_profile_path, load_device_profile
from nas.progress import Progress, timed_stage
from nas.storage.cache_folder import file_words
from pruning.anatomy.positions import longest_sequence, trained_positions
from pruning.surgery.prune import architecture_of, prune
from search_spaces.architecture import Architecture
from search_spaces.errors import BadWorkload, ExportError, MeasurementError
from search_spaces.schedule import TOKENS_REVISION
from search_spaces.space import Space

REVISION = 2  # of how files are written: those of another one are made anew
LIMIT = 9.0  # times the seconds that were asked for, at most, whatever a machine does besides
LOOK_SECONDS = 6.0  # to tell ways apart that differ by much


@dataclass(frozen=True)
class ParentExport:
    """The parent's ONNX file for one phase, made once per weights and exporter and kept in the cache, and its graph."""

    subject: ParentModel
    progress: Progress
    phase: Phase = Phase.FORWARD
    exporter: Exporter = ONNX_RUNTIME
    traced: dict[Phase, Any] = field(default_factory=dict, compare=False, repr=False)  # of the parent

    def other(self, phase: Phase, exporter: Exporter) -> "ParentExport":
        """The parent's file for another phase or runtime; what was traced for this one is not traced again."""
        same = (phase, exporter) == (self.phase, self.exporter)
        return self if same else replace(self, phase=phase, exporter=exporter)

    @cached_property
    def path(self) -> Path:
        """The file; exported and checked against the model when it is not there yet.

        Raises:
            ExportError: the parent has no such phase, or no form of it agrees with the model.
        """
        path = self._cached("parent")
        if not path.exists():
            with self.progress.stage("exporting the parent"):
                reason = self._export(path)
            if reason:
                self.progress.message(reason)
        return path

    def _cached(self, name: str) -> Path:
        versions = f"torch{version('torch')}-transformers{version('transformers')}".replace("+", "-")
        phase = "" if self.phase is Phase.FORWARD else f"{self.phase}-"
        runtime = "" if self.exporter == ONNX_RUNTIME else f"{self.exporter.name}-"
        return self.subject.cache / f"{name}-{phase}{runtime}{REVISION}-{versions}.onnx"

    def _export(self, path: Path) -> str:
        """Write the file, complete or not at all; the weights of a large one, in a second file, are there before it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            reason = self._write(self.subject.model, draft)
            for file in sorted(draft.parent.iterdir(), reverse=True):
                file.replace(path.parent / file.name)
        return reason

    def _write(self, model: Any, path: Path) -> str:
        """Export a model, checked against it; returns why it has not the usual operators, if so."""
        traced = self.traced if model is self.subject.model else None
        return self.exporter.export(model, path, self.phase, traced).reason

    def write_pruned(self, pruned: Any, path: Path) -> str:
        """Write the file of a model that was pruned from the parent: the parent's, edited, and compared with the model.

        It is exported anew where an edit is impossible or does not compute what the model does.

        Returns:
            What a person should know of it; mostly nothing.

        Raises:
            ExportError: no file of the model can be made.
        """
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # of an earlier file there
        try:
            check_parity(pruned, self.derive(architecture_of(pruned, self.subject.anatomy.depth), path), self.phase)
        except (ExportError, MeasurementError) as error:  # the second where the runtime refuses the file
            return self._write(pruned, path) or f"the parent's file could not be edited, so exported anew: {error}"
        return ""

    @cached_property
    def graphs(self) -> ReducedGraphs:
        """The parent's graph and, made when they are asked for, those of its token schedules."""
        return ReducedGraphs(self.graph, self._reduced)

    def derive(self, architecture: Architecture, path: Path) -> Path:
        """Write the file of any architecture.

        Raises:
            ExportError: the parent, or the parent with its token schedule, cannot be exported.
        """
        return self.graphs.derive(architecture, path)

    def _reduced(self, architecture: Architecture) -> ParentGraph:
        """The graph of a token schedule: exported and checked against the model once, kept without its weights."""
        import onnx

        path = self._cached(f"tokens-{TOKENS_REVISION}-{architecture.digest}")
        if not path.exists():
            model = prune(self.subject.model, architecture, anatomy=self.subject.anatomy, share_weights=True)
            schedule = architecture.tokens
            with self.progress.stage(f"exporting tokens {schedule}"), tempfile.TemporaryDirectory() as folder:
                draft = Path(folder) / path.name
                self._write(model, draft)
                light = without_parent(onnx.load(str(draft)), self.graph.proto)
            light_draft = path.with_suffix(".draft")
            onnx.save(light, str(light_draft))
            light_draft.replace(path)
        proto = with_parent(onnx.load(str(path), load_external_data=False), self.graph.proto)
        return ParentGraph.of_proto(proto, self.subject.anatomy, architecture.tokens)

    @cached_property
    def graph(self) -> ParentGraph:
        """The graph that variants are derived from."""
        return ParentGraph.read(self.path, self.subject.anatomy)


def default_workload(subject: ParentModel, target: Target) -> Workload:
    """The workload of a target when none was asked for: small where it is measured on a CPU, and one that fits."""
    return fitting(subject.model, subject.shape.default_workload(small=target.is_host))


def fitting(model: Any, workload: Workload) -> Workload:
    """The workload, no longer than the model has positions for."""
    counts = [count for count in (longest_sequence(model), trained_positions(model)) if count is not None]
    if workload.past + workload.sequence <= min(counts, default=sys.maxsize) or model.main_input_name == PIXELS:
        return workload
    if workload.phase is Phase.DECODE:
        return replace(workload, past=max(1, min(counts) - 1))
    return replace(workload, sequence=min(counts))


def workload_for(subject: ParentModel, target: Target, asked: Workload | None) -> Workload:
    """The workload that was asked for, or the target's usual one, if the model can run it.

    Raises:
        BadWorkload: an image model does not make that many tokens, or a model has no positions for so many, or no
            such phase.
    """
    workload = asked or default_workload(subject, target)
    tokens = subject.shape.tokens
    if tokens is not None and workload.phase is Phase.FORWARD and workload.sequence != tokens:
        raise BadWorkload(f"workload {workload}: {subject.id} makes {tokens} tokens of an image; write seq={tokens}")
    most, length = longest_sequence(subject.model), workload.past + workload.sequence
    if most is not None and length > most:
        raise BadWorkload(
            f"workload {workload}: it takes {length} positions and {subject.id} has {most}; "
            f"write for example {fitting(subject.model, workload)}"
        )
    if workload.phase is not Phase.FORWARD:
        try:
            cache_layers(subject.model, workload.phase)
        except ExportError as error:
            raise BadWorkload(f"workload {workload}: {error}") from error
    return workload


def profile_path(subject: ParentModel, workload: Workload, space: Space | None = None) -> Path:
    """Where the host's profile of a subject and workload is kept; one for each choice of token schedules."""
    return subject.cache / f"profile-{file_words(str(workload))}{tokens_name(space)}.json"


def tokens_name(space: Space | None) -> str:
    """Names the token schedules that a space's profile is made with; empty where it has none."""
    if space is None:
        return ""
    steps = Architecture(space.depth, frozenset(space.steps), space.reduction)
    every = steps.with_tokens(space.fixed) if space.fixed is not None else steps
    if not every.tokens.stages:
        return ""
    listed = sorted(map(str, space.steps))
    return f"-tokens-{hashlib.sha256(f'{TOKENS_REVISION} {every.digest} {listed}'.encode()).hexdigest()[:12]}"


def host_profile(
    subject: ParentModel, export: ParentExport, workload: Workload, progress: Progress, seconds: float = SECONDS,
    fresh: bool = False, space: Space | None = None,
) -> Profile:  # fmt: skip
    """The host's profile: read from the cache when it was made under the same key, else measured.

    Args:
        space: whose token schedules the profile is to cover.

    Raises:
        MeasurementError: the workload cannot be measured here.
        ExportError: a token schedule cannot be exported.
    """
    path = profile_path(subject, workload, space)
    known = None if fresh else _cached(path, subject, workload)
    if known is not None:
        progress.message(f"using the profile measured before ({path})")
        return known
    graphs = export.graphs
    limit_s = LIMIT * seconds
    with timed_stage(progress, "measuring this machine", limit_s) as on_share:
        profile = profile_host(
            subject.model, subject.digest, subject.shape, graphs, workload, seconds=seconds, limit_s=limit_s,
            on_round=on_share, space=space,
        )  # fmt: skip
    profile.save(path)
    return profile


def measured_ms(
    subject: ParentModel, export: ParentExport, workload: Workload, architectures: Sequence[Architecture]
) -> list[float]:
    """Medians of a quick look at some architectures on this machine, side by side; kept, as the exports are.

    Each is its ratio to the parent beside it, in the parent's median: few samples, and a machine may change meanwhile.

    Raises:
        MeasurementError: a file that does not run.
    """
    path = subject.cache / f"looks-{file_words(str(workload))}-{_name_of(architectures)}.json"
    profile = _cached(path, subject, workload)
    if profile is None:
        records = measure_architectures(
            subject.model, export.graphs, list(architectures), workload, seconds=LOOK_SECONDS
        )  # fmt: skip
        profile = Profile(environment(default_threads()), subject.digest, subject.shape, workload, records)
        profile.save(path)
    parent = profile.of(Architecture(subject.anatomy.depth))
    assert parent is not None
    ratios = {record.architecture: record.measurement.ratio() for record in profile.records}
    return [parent.p50 * ratios[architecture] for architecture in architectures]


def _name_of(architectures: Sequence[Architecture]) -> str:
    named = " ".join([str(TOKENS_REVISION), *(each.digest for each in architectures)])
    return hashlib.sha256(named.encode()).hexdigest()[:12]


def _cached(path: Path, subject: ParentModel, workload: Workload) -> Profile | None:
    """The cached profile if it is one of this machine with this model and workload, under today's key."""
    try:
        profile = Profile.load(path)
    except MeasurementError:
        return None
    found = (profile.key, profile.model, profile.shape, profile.workload, profile.target)
    wanted = (environment(default_threads()), subject.digest, subject.shape, workload, HOST)
    return profile if found == wanted else None


def latency_model(
    subject: ParentModel, target: Target, workload: Workload, export: ParentExport, progress: Progress,
    space: Space | None = None,
) -> LatencyModel:  # fmt: skip
    """The latency model of a target: of a device, its profile where one was imported, else its data sheet.

    With a `space` that has token schedules, the profile is one that covers them.
    """
    if target.is_host:
        return CalibratedModel(host_profile(subject, export, workload, progress, space=space))
    path = device_profile_path(subject.cache, target, workload)
    if not path.exists():
        _say_what_is_measured(subject, target, workload, progress)
        return DataSheetModel(target, subject.shape, workload)
    profile = load_device_profile(path, subject, target, workload)
    if not _covers(profile, space):
        progress.message(f"{target.name} was measured without these token schedules: the data sheet is used")
        return DataSheetModel(target, subject.shape, workload)
    return device_model(profile)


def _covers(profile: Profile, space: Space | None) -> bool:
    """Whether schedules were measured that choose tokens as those of the space do, if it has any."""
    wanted = None if space is None else space.reduction if space.fixed is None else space.fixed.reduction
    return wanted is None or any(record.architecture.reduction == wanted for record in profile.records)


def _say_what_is_measured(subject: ParentModel, target: Target, workload: Workload, progress: Progress) -> None:
    """A device that was profiled under other workloads is not silently predicted from its data sheet."""
    found = sorted(subject.cache.glob(f"device-{file_words(target.name)}-*.json"))
    if found:
        known = ", ".join(str(Profile.load(path).workload) for path in found)
        progress.message(f"{target.name} was measured under {known}, not under {workload}: the data sheet is used")
