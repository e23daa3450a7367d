"""The parent's exported file: made once, kept in the cache, and edited for every architecture."""

import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from latency_models.workload import Phase
from nas.export.exported_graphs import ExportedGraphs
from nas.export.exporters import ONNX_RUNTIME, Exporter
from nas.export.graph_editing import ParentGraph, describe_choices
from nas.export.parity import check_parity, choose_tolerance
from nas.export.shared_weights import remove_parent_weights, restore_parent_weights
from nas.parent.parent import ParentModel
from nas.progress import Progress
from pruning.analysis.channel_orders import compute_orders_digest
from pruning.compensation.candidate_builder import list_adjusted
from pruning.surgery.prune import prune, read_architecture
from pruning.surgery.trained_weights import was_trained
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError, MeasurementError
from search_spaces.schedule import TOKENS_REVISION

REVISION = 2  # of how files are written: those of another one are made anew


@dataclass(frozen=True)
class ParentExport:
    """The parent's ONNX file for one phase, made once per weights and exporter and kept in the cache, and its graph.

    Example:
        >>> export = ParentExport(load_parent_model("python-lm"), progress, Phase.PREFILL)
        >>> reason = export.derive(architecture, Path("pruned.onnx"))
    """

    parent: ParentModel
    progress: Progress
    phase: Phase = Phase.FORWARD
    exporter: Exporter = ONNX_RUNTIME
    traced: dict[Phase, Any] = field(default_factory=dict, compare=False, repr=False)  # of the parent

    def make_other(self, phase: Phase, exporter: Exporter) -> "ParentExport":
        """The parent's file for another phase or runtime; what was traced for this one is not traced again."""
        same = (phase, exporter) == (self.phase, self.exporter)
        return self if same else replace(self, phase=phase, exporter=exporter)

    @cached_property
    def path(self) -> Path:
        """The file; exported and checked against the model when it is not there yet.

        Raises:
            ExportError: the parent has no such phase, or no form of it agrees with the model.
        """
        path = self._get_cached_path("parent")
        if not path.exists():
            with self.progress.open_stage("exporting the parent"):
                reason = self._export(path)
            if reason:
                self.progress.show_message(reason)
        return path

    def _get_cached_path(self, name: str) -> Path:
        versions = f"torch{version('torch')}-transformers{version('transformers')}".replace("+", "-")
        phase = "" if self.phase is Phase.FORWARD else f"{self.phase}-"
        runtime = "" if self.exporter == ONNX_RUNTIME else f"{self.exporter.name}-"
        return self.parent.cache / f"{name}-{phase}{runtime}{REVISION}-{versions}.onnx"

    def _export(self, path: Path) -> str:
        """Write the file, complete or not at all; the weights of a large one, in a second file, are there before it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            reason = self._write(self.parent.model, draft)
            for file in sorted(draft.parent.iterdir(), reverse=True):
                file.replace(path.parent / file.name)
        return reason

    def _write(self, model: Any, path: Path) -> str:
        """Export a model, checked against it; returns why it has not the usual operators, if so."""
        traced = self.traced if model is self.parent.model else None
        return self.exporter.export(model, path, self.phase, traced).reason

    def write_pruned(self, pruned: Any, path: Path) -> str:
        """Write the file of a model that was pruned from the parent: the parent's, edited, and compared with the model.

        It is exported anew where the model was trained since, and where an edit is impossible or does not compute what
        the model does.

        Returns:
            What a person should know of it; mostly nothing.

        Raises:
            ExportError: no file of the model can be made.
        """
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # of an earlier file there
        if was_trained(pruned):
            return self._write(pruned, path)
        try:
            architecture = read_architecture(pruned, self.parent.anatomy.depth)
            file = self.graphs.derive(architecture, path, list_adjusted(pruned))
            check_parity(pruned, file, self.phase, choose_tolerance(pruned))
        except (ExportError, MeasurementError) as error:  # the second where the runtime refuses the file
            return self._write(pruned, path) or f"the parent's file could not be edited, so exported anew: {error}"
        return ""

    @cached_property
    def graphs(self) -> ExportedGraphs:
        """The parent's graph and, made when they are asked for, those of other export keys."""
        return ExportedGraphs(self.graph, self._export_reduced)

    def derive(self, architecture: Architecture, path: Path) -> Path:
        """Write the file of any architecture, with the parent's weights.

        Raises:
            ExportError: the parent, or the parent with what no edit makes, cannot be exported.
        """
        return self.graphs.derive(architecture, path)

    def _export_reduced(self, architecture: Architecture) -> ParentGraph:
        """The graph of an export key: exported and checked against the model once, kept without its weights."""
        import onnx

        orders = compute_orders_digest(self.parent.model)  # by which levels are cut out of its weights
        name = f"tokens-{TOKENS_REVISION}-{architecture.digest}"
        path = self._get_cached_path(f"{name}-{orders}" if orders else name)
        if not path.exists():
            model = prune(self.parent.model, architecture, anatomy=self.parent.anatomy, share_weights=True)
            with (
                self.progress.open_stage(f"exporting {describe_choices(architecture)}"),
                tempfile.TemporaryDirectory() as folder,
            ):
                draft = Path(folder) / path.name
                self._write(model, draft)
                light = remove_parent_weights(onnx.load(str(draft)), self.graph.proto)
            light_draft = path.with_suffix(".draft")
            onnx.save(light, str(light_draft))
            light_draft.replace(path)
        proto = restore_parent_weights(onnx.load(str(path), load_external_data=False), self.graph.proto)
        return ParentGraph.of_proto(proto, self.parent.anatomy, self.parent.model, architecture)

    @cached_property
    def graph(self) -> ParentGraph:
        """The graph that variants are derived from."""
        return ParentGraph.read_in_place(self.path, self.parent.anatomy, self.parent.model)
