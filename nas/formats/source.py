"""What is exported: a model in memory, the folder it came from, and the parent that its graphs are edited from."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latency_models.workload import Phase
from nas.export.exporters import ONNX_RUNTIME, Exporter
from nas.export.onnx_export import build_file_name
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel
from nas.progress import Progress
from pruning.checkpoint import is_pruned, load_to_compute
from pruning.surgery.prune import RECORD
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class Source:
    """A model that is exported.

    Attributes:
        model: in eval mode, on the CPU, computing in float32.
        folder: of its weights, tokenizer and the other files.
        plain: whether the classes of Transformers read the folder as it is.
        parent: of the model; where it is known, graphs are edited from the parent's.

    Example:
        >>> source = read_source(Path("OUT/winner"))
        >>> source.plain
        False
    """

    model: Any
    folder: Path
    plain: bool
    parent: ParentModel | None = None

    @property
    def architecture(self) -> Architecture | None:
        """What its blocks lost; None where all blocks that are left are whole."""
        record = getattr(self.model.config, RECORD, None)
        return None if record is None else Architecture.from_json(record)

    def write_graph(self, phase: Phase, path: Path, progress: Progress, exporter: Exporter = ONNX_RUNTIME) -> None:
        """Write the graph of a phase for a runtime: the one beside the weights, or else the parent's, edited.

        Raises:
            ExportError: no file computes what the model does, or it has no such phase.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        made = self.folder / exporter.name_file(build_file_name(phase))
        export = None if self.parent is None else ParentExport(self.parent, progress, phase, exporter)
        if made.is_file():
            copy_graph(made, path)
        elif export is not None and self.parent is not None and self.model is self.parent.model:
            copy_graph(export.path, path)
        elif export is not None and not self.plain:
            export.write_pruned(self.model, path)
        else:
            exporter.export(self.model, path, phase)


def copy_graph(graph: Path, path: Path) -> None:
    """Copy a graph, with the file of its weights where they are in a second one: the graph names that file."""
    beside = graph.with_name(f"{graph.name}.data")
    if beside.is_file():
        shutil.copyfile(beside, path.with_name(beside.name))
    shutil.copyfile(graph, path)


def read_source(folder: Path, parent: ParentModel | None = None, trust_remote_code: bool = False) -> Source:
    """The model in a folder.

    Raises:
        ModelError: as `pruning.checkpoint.load`.
    """
    return Source(load_to_compute(folder, trust_remote_code), folder, not is_pruned(folder), parent)


def make_parent_source(parent: ParentModel) -> Source | None:
    """A parent as what is exported; None where its files are not on this machine."""
    return None if parent.files is None else replace(Source(parent.model, parent.files, True), parent=parent)
