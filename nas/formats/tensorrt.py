"""`tensorrt`: a folder for the device: graphs in the operators that TensorRT parses, shapes, and what builds engines.

An engine is of one kind of GPU and one version, so it is built where it runs, by a script that needs TensorRT alone.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_models.workload import Phase
from nas.export.cached_export import compute_axis_size
from nas.export.companions import carry_companions
from nas.export.exporters import EXPORTERS
from nas.export.onnx_export import build_file_name
from nas.export.tensorrt_export import InputRange
from nas.formats import tensorrt_build
from nas.formats.format import Answers, FormatBase, NotRun, Probe, Refusal
from nas.formats.onnx_runtime import list_phases
from nas.formats.parity import build_probe
from nas.formats.source import Source
from nas.progress import Progress
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces.weight_formats import ALL_FORMATS, TENSORRT

BUILD, SHAPES = "build_engine.py", "shapes.json"


@dataclass(frozen=True)
class TensorRtFormat(FormatBase):
    """Graphs of every phase, `shapes.json` and `build_engine.py`."""

    name: str = "tensorrt"

    def find_refusal(self, source: Source) -> Refusal | None:
        """Weights in formats whose operators are ONNX Runtime's own."""
        used = {part.format for part in source.model.modules() if isinstance(part, QuantisedLinear)}
        other = sorted(format.name for format in used if format.runtime != TENSORRT)
        if not other:
            return None
        names, architecture = tuple(f"={name}" for name in other), source.architecture
        nearest = architecture and architecture.restore(
            *(choice for choice in architecture.choices if str(choice).endswith(names))
        )
        known = ", ".join(name for name, format in ALL_FORMATS.items() if format.runtime == TENSORRT)
        return Refusal(f"weights in {', '.join(other)} are products of ONNX Runtime; TensorRT has {known}", nearest)

    def export(self, source: Source, folder: Path, progress: Progress) -> None:
        """Write the folder; each graph is compared with the model in ONNX Runtime."""
        exporter, shapes = EXPORTERS[self.name], {}
        phases = list_phases(source.model)
        if Phase.DECODE in phases:  # an engine of `decode` takes one token
            phases = (Phase.FORWARD, Phase.PREFILL, Phase.DECODE)
        for phase in phases:
            graph = folder / exporter.name_file(build_file_name(phase))
            source.write_graph(phase, graph, progress, exporter)
            shapes[graph.name] = list_shapes(graph, phase, InputRange().limit_to(source.model, phase))
        (folder / SHAPES).write_text(json.dumps(shapes, indent=1) + "\n")
        shutil.copyfile(tensorrt_build.__file__, folder / BUILD)
        carry_companions(source.model, source.folder, folder)

    def build_probe(self, source: Source) -> Probe:
        """The shared one."""
        return build_probe(source.model)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        """No engine runs here."""
        return NotRun("not run: engines are built on the device; the graphs were compared in ONNX Runtime")


def list_shapes(graph: Path, phase: Phase, ranges: InputRange) -> dict[str, list[tuple[int, ...]]]:
    """The least, usual and largest shape of every input of a graph."""
    import onnx

    def resolve(value: Any, batch: int, length: int) -> tuple[int, ...]:
        return tuple(
            compute_axis_size(axis.dim_param, batch, length, phase) if axis.dim_param else axis.dim_value
            for axis in value.type.tensor_type.shape.dim
        )

    inputs = onnx.load(str(graph), load_external_data=False).graph.input
    sizes = (ranges.minimum, ranges.usual, ranges.maximum)
    return {value.name: [resolve(value, *size) for size in sizes] for value in inputs}
