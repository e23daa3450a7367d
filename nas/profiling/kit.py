"""A kit: what is taken to a device that is not this machine to measure it, and what comes back.

It holds graphs, inputs and the runner, which needs Python, NumPy and ONNX Runtime or TensorRT. It holds no weights:
latency does not depend on their values, so the device draws random ones. What is small and stays in the graphs (norms,
biases) is of a model initialised at random too. Nothing that was trained leaves this machine.
"""

import copy
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from latency_models.run_plan import MIN_ROUNDS, PORTABLE
from latency_models.runner import random_weights
from latency_models.runner.plan import MODELS, PLAN
from latency_models.targets import Target
from latency_models.workload import Phase, Workload
from nas.export.exported_graphs import ExportedGraphs
from nas.export.exporters import find_exporter
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import export_onnx, make_example_inputs, make_workload_inputs
from nas.export.shared_weights import SharedWeights
from nas.parent.parent import ParentModel
from nas.profiling.effort import Effort
from nas.profiling.host import plan_measurements, write_plan
from nas.profiling.host_profile import name_measured
from nas.progress import Progress
from pruning.analysis.input_scales import calibrate_inputs
from pruning.checkpoint.sentence_embedding import attach, read_sentence_embedding
from pruning.kinds.quantised_part import AXIS
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.space import Space

SECONDS = 60.0
RANDOM_WEIGHTS = "random.data"
_DRAWN_BYTES = 1 << 14  # tensors from this size on are drawn on the device
_CALIBRATED = 8  # tokens that scales of rounded inputs are chosen on, which latency does not depend on
_DTYPES = {"fp32": "float32", "fp16": "float16"}
_README = """Latency of {count} variants of a model on {target}, {workload}

On the device, with Python 3.9 or later, NumPy and {runtimes}:

    python3 run.py

It takes about {minutes:.0f} min, says how far it is, and writes profile.json. Interrupted, it goes on where it stopped
when it is started again. Let the device do nothing else meanwhile, in the power mode that it will be used in. Then, on
the machine with nas:

    nas profile import profile.json

The weights are random (latency does not depend on them), drawn on the device: {megabytes:.0f} MB in {models}.
"""


def check_target(target: Target) -> Target:
    """The target, if a kit can be made for it.

    Raises:
        UsageError: this machine, or a precision in which no graphs are made.
    """
    if target.is_host:
        raise UsageError(f"target {target.name} is this machine; measure it with nas profile")
    if target.precision not in _DTYPES:
        raise UsageError(
            f"target {target.name} is in {target.precision}, in which no graphs are made; "
            f"name a precision of {', '.join(_DTYPES)}, for example {target.name.partition('/')[0]}/fp16"
        )
    return target


@dataclass(frozen=True)
class Kit:
    """What a kit measures.

    Attributes:
        seconds, min_rounds, limit_s: of all sessions together.
        architectures: the parent and others; the design over the latency terms where there are none.
        space: whose token schedules and levels the design is to cover.

    Raises:
        UsageError: for a target that a kit cannot be made for.

    Example:
        >>> kit = Kit(parent, find_target("jetson-orin"), Workload(Phase.PREFILL))
        >>> path = kit.build(progress)  # to be unpacked and run there
    """

    parent: ParentModel
    target: Target
    workload: Workload
    seconds: float = SECONDS
    min_rounds: int = MIN_ROUNDS
    architectures: tuple[Architecture, ...] = ()
    space: Space | None = None
    limit_s: float | None = None

    def __post_init__(self) -> None:
        check_target(self.target)

    def build(self, progress: Progress) -> Path:
        """The zip file, made once and kept in the cache: a run on a device is resumed with the very same kit.

        Raises:
            ExportError: the model cannot be exported.
        """
        path = self.parent.cache / f"kit-{self._name_kit()}.zip"
        if not path.exists():
            with progress.open_stage("making the kit"), tempfile.TemporaryDirectory(prefix="nas-") as name:
                self.write(Path(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_suffix(".draft")
                pack(Path(name), draft)
                draft.replace(path)
        return path

    def write(self, folder: Path) -> None:
        """Write the kit's files into an empty folder."""
        dtype, parent = _DTYPES[self.target.precision], self.parent
        shared = _draw_weights(dtype)
        graph = self.export_graphs(shared)
        write_plan(
            folder, target=self.target.name, precision=self.target.precision, digest=parent.digest,
            shape=parent.shape, workload=self.workload, graph=graph,
            architectures=self.architectures or plan_measurements(parent.shape, self.workload, self.space),
            inputs=make_inputs(graph.parent, make_workload_inputs(parent.model, self.workload)),
            effort=Effort(self.seconds, self.min_rounds, self.limit_s),
        )  # fmt: skip
        drawn = Drawn(shared.size // np.dtype(dtype).itemsize, dtype)
        plan = json.loads((folder / PLAN).read_text())
        for candidate in plan["candidates"]:
            candidate["weight_bytes"] += drawn.bytes
        (folder / PLAN).write_text(json.dumps(plan | {random_weights.KEY: drawn.to_json()}, indent=1) + "\n")
        (folder / "README.txt").write_text(self._build_readme(len(plan["candidates"]), drawn.bytes))

    def export_graphs(self, drawn: SharedWeights) -> ExportedGraphs:
        """The exports of a parent of the same structure, initialised at random, whose large weights are `drawn`."""
        made = make_random_copy(self.parent.model)
        if self._has_formats():
            calibrate_inputs(made, self.parent.anatomy, make_example_inputs(made, 1, _CALIBRATED))
        return self.export_graphs_of(made, drawn.move)

    def _has_formats(self) -> bool:
        """Whether parts have fewer bits in any graph."""
        chosen = [choice for each in self.architectures for choice in each.choices]
        chosen += [] if self.space is None else self.space.choices
        return any(choice.level.get_value(AXIS) is not None for choice in chosen)

    def export_graphs_of(self, parent: Any, finished: Callable[[Any], Any] = lambda proto: proto) -> ExportedGraphs:
        """The exports of a parent as the target takes it, by export key; `finished` gives what is kept."""
        anatomy = self.parent.anatomy

        def make(architecture: Architecture) -> ParentGraph:
            model = prune(parent, architecture, anatomy=anatomy, share_weights=True)
            with tempfile.TemporaryDirectory(prefix="nas-") as name:
                path = export_for_target(model, Path(name) / "parent.onnx", self.target, self.workload.phase)
                graph = ParentGraph.read(path, anatomy, parent, architecture)
            return graph.rewrite(finished)

        return ExportedGraphs(make(Architecture.parent(anatomy.depth)), make)

    def _name_kit(self) -> str:
        """Differs where the content would."""
        runner = Path(random_weights.__file__).parent
        chosen = " ".join(a.digest for a in self.architectures) + name_measured(self.space)
        effort = f"{self.seconds} {self.min_rounds} {self.limit_s}"
        content = hashlib.sha256(f"{self.target.name} {self.workload} {effort} {chosen} {_README}".encode())
        for name in PORTABLE:
            content.update((runner / name).read_bytes())
        for package in ("nas", "torch", "transformers", "onnx"):
            content.update(version(package).encode())
        return content.hexdigest()[:16]

    def _build_readme(self, count: int, drawn_bytes: int) -> str:
        tensorrt = self.target.runtime == "tensorrt"
        return _README.format(
            count=count, target=self.target.name, workload=self.workload, minutes=max(1, 1.5 * self.seconds / 60),
            runtimes="TensorRT (or ONNX Runtime)" if tensorrt else "ONNX Runtime", megabytes=drawn_bytes / 1e6,
            models=MODELS,
        )  # fmt: skip


def export_for_target(model: Any, path: Path, target: Target, phase: Phase) -> Path:
    """Write a model in the precision of a target and the operators of its runtime, plain ones for TensorRT.

    Raises:
        ExportError: the model cannot be exported.
    """
    import torch

    dtype = torch.float16 if target.precision == "fp16" else torch.float32
    return export_onnx(model, path, find_exporter(target.runtime).opset, phase, dtype=dtype)


@dataclass(frozen=True)
class Drawn:
    """The tensors that are left to the device: how many values of which dtype their one file holds."""

    count: int
    dtype: str

    @property
    def bytes(self) -> int:
        """Of the file."""
        return self.count * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        """The form in plan.json."""
        return {"file": f"{MODELS}/{RANDOM_WEIGHTS}", "dtype": self.dtype, "count": self.count, "seed": 0}


def make_random_copy(model: Any) -> Any:
    """A model of the same class and sizes with random weights, in fp32, the same every time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = type(model)(copy.deepcopy(model.config)).float().eval()
    embedding = read_sentence_embedding(model)
    attach(made, None if embedding is None else embedding.randomise())
    return made


def pack(folder: Path, path: Path) -> None:
    """Write a folder as a zip file; the same content gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def _draw_weights(dtype: str) -> SharedWeights:
    """Large weights in a precision, referred to in a file that is not written here."""
    import onnx

    wanted = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    drawn = {wanted, onnx.TensorProto.INT8, onnx.TensorProto.INT4}  # any bytes are whole numbers
    return SharedWeights(RANDOM_WEIGHTS, _DRAWN_BYTES, fits=lambda tensor: tensor.data_type in drawn)


def make_inputs(graph: ParentGraph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs in the types that the graph declares: one in fp16 takes fp16."""
    import onnx

    types = {
        i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in graph.proto.graph.input
    }
    return {name: array.astype(types[name]) for name, array in inputs.items() if name in types}
