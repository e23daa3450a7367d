"""Weights of four and eight bits by the quantisers of libraries, beside the files that `nas` makes of the same parts.

    python experiments/benchmarks/quantisers.py --model python-lm --items 24

All matrices in the blocks of a language model are quantised; the head and the embedding stay. Each quantiser makes a
file, the file runs in ONNX Runtime on windows of the test split, and its loss is printed. NNCF is left out where it is
not installed (it needs tabulate, ninja, pydot, openvino-telemetry and scikit-learn beside it).
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from onnx.inliner import inline_local_functions

from latency_models.runtime_ort import count_default_threads, open_session
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.progress import Silent
from nas.quality.evaluator import choose_evaluator
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from search_spaces.architecture import Architecture

BLOCK = 32  # inputs that share a scale
INT8_COMPUTE = 4  # accuracy level: inputs are rounded to eight bits, as in the files that `nas` makes
CALIBRATION = 8  # windows, for quantisers that look at inputs


@dataclass(frozen=True)
class Setting:
    """A parent, its file in float32, and the windows that quantisers may look at."""

    parent: ParentModel
    export: ParentExport
    calibration: Mapping[str, torch.Tensor]

    def list_products(self) -> list[str]:
        """Names of the nodes that multiply with a matrix of a block."""
        proto = onnx.load(str(self.export.path), load_external_data=False)
        weights = {tensor.name for tensor in proto.graph.initializer if len(tensor.dims) > 1}
        return [node.name for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] in weights]


class Quantiser(Protocol):
    """Makes a file whose products in the blocks have fewer bits."""

    def __call__(self, setting: Setting, path: Path) -> None:
        """Write the file of the setting's parent."""


def quantise_by_edit(name: str, fitted: bool) -> Quantiser:
    """The files of `nas`: the parent's graph edited, without or with compensation and error feedback."""

    def quantise(setting: Setting, path: Path) -> None:
        parent = setting.parent
        ends = (f"attention.{layer}:bits={name}" for layer in range(parent.anatomy.depth))
        wanted = {*ends, *(f"mlp.{layer}:bits={name}" for layer in range(parent.anatomy.depth))}
        chosen = [choice for choice in parent.anatomy.choices if str(choice) in wanted]
        architecture = Architecture(parent.anatomy.depth).drop(*chosen)
        if not fitted:
            setting.export.derive(architecture, path)
            return
        plan = CompensationPlan("auto", setting.calibration, setting.calibration)
        model = CandidateBuilder(parent.model, parent.anatomy, plan).build(architecture)
        setting.export.graphs.derive(architecture, path, list_adjusted(model))

    return quantise


def quantise_dynamically(setting: Setting, path: Path) -> None:
    """ONNX Runtime's eight bits, a scale for each output and one for all inputs of a call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        setting.export.path, path, per_channel=True, weight_type=QuantType.QInt8,
        nodes_to_quantize=setting.list_products(), extra_options={"WeightSymmetric": True},
    )  # fmt: skip


def quantise_in_blocks(algorithm: str, bits: int) -> Quantiser:
    """ONNX Runtime's quantisers of blocks: nearest; k_quant and HQQ search scales and zero points."""

    def quantise(setting: Setting, path: Path) -> None:
        from onnxruntime.quantization import matmul_nbits_quantizer as ort

        proto, products = onnx.load(str(setting.export.path)), set(setting.list_products())
        config: Any = {
            "nearest": lambda: ort.DefaultWeightOnlyQuantConfig(BLOCK, True, INT8_COMPUTE, bits=bits),
            "k_quant": ort.KQuantWeightOnlyQuantConfig,
            "hqq": lambda: ort.HQQWeightOnlyQuantConfig(BLOCK, bits),
        }[algorithm]()
        excluded = [node.name for node in proto.graph.node if node.op_type == "MatMul" and node.name not in products]
        quantiser = ort.MatMulNBitsQuantizer(
            proto, bits, BLOCK, algorithm == "nearest", INT8_COMPUTE, nodes_to_exclude=excluded, algo_config=config
        )
        quantiser.process()
        for node in quantiser.model.model.graph.node:
            if node.op_type == "MatMulNBits":
                _compute_in_eight_bits(node)
        quantiser.model.save_model_to_file(str(path))

    return quantise


def _compute_in_eight_bits(node: Any) -> None:
    """Let a product round its inputs like the others: some quantisers leave out how it computes."""
    kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", INT8_COMPUTE)])


def quantise_by_nncf(**how: bool) -> Quantiser:
    """NNCF's four bits in blocks, symmetric; with AWQ and scale estimation where that is asked for."""

    def quantise(setting: Setting, path: Path) -> None:
        import nncf

        proto, products = inline_local_functions(onnx.load(str(setting.export.path))), set(setting.list_products())
        others = [node.name for node in proto.graph.node if node.name not in products]
        windows = [feed(proto, {name: value[n : n + 1] for name, value in setting.calibration.items()})
                   for n in range(len(next(iter(setting.calibration.values()))))]  # fmt: skip
        made = nncf.compress_weights(
            proto, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=BLOCK, ratio=1.0, all_layers=True,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False), dataset=nncf.Dataset(windows), **how,
        )  # fmt: skip
        onnx.save(made, str(path))

    return quantise


QUANTISERS: dict[str, Callable[[], Quantiser]] = {
    "w4, nas: nearest": lambda: quantise_by_edit("w4", fitted=False),
    "w4, nas: error feedback and refit": lambda: quantise_by_edit("w4", fitted=True),
    "w4, onnxruntime: nearest": lambda: quantise_in_blocks("nearest", 4),
    "w4, onnxruntime: k_quant": lambda: quantise_in_blocks("k_quant", 4),
    "w4, onnxruntime: HQQ": lambda: quantise_in_blocks("hqq", 4),
    "w4, nncf: nearest": lambda: quantise_by_nncf(),
    "w4, nncf: scale estimation": lambda: quantise_by_nncf(scale_estimation=True),
    "w4, nncf: AWQ": lambda: quantise_by_nncf(awq=True),
    "w4, nncf: AWQ and scale estimation": lambda: quantise_by_nncf(awq=True, scale_estimation=True),
    "w8, nas: nearest": lambda: quantise_by_edit("w8", fitted=False),
    "w8, onnxruntime: nearest": lambda: quantise_in_blocks("nearest", 8),
    "int8, nas: nearest": lambda: quantise_by_edit("int8", fitted=False),
    "int8, onnxruntime: dynamic": lambda: quantise_dynamically,
}


def feed(proto: Any, given: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What a file of a language model is given for tokens (batch, length)."""
    ids = given["input_ids"]
    full = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(ids.shape[1]).expand(*ids.shape),
    } | dict(given)
    return {each.name: full[each.name].numpy() for each in proto.graph.input}


class FileModel:
    """A file that is called as the model it was made of."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._session = open_session(path, count_default_threads())
        inputs = [SimpleNamespace(name=each.name) for each in self._session.get_inputs()]
        self._proto = SimpleNamespace(graph=SimpleNamespace(input=inputs))

    def __call__(self, input_ids: torch.Tensor, **other: Any) -> SimpleNamespace:
        """The logits (batch, length, vocabulary), window by window, as inputs share scales in a call."""
        rows = [self._session.run(None, feed(self._proto, {"input_ids": row[None]}))[0] for row in input_ids]
        return SimpleNamespace(logits=torch.from_numpy(np.concatenate(rows)))


def compare(model: str, items: int, names: Iterable[str]) -> None:
    """Print a row for each quantiser."""
    parent = load_parent_model(model)
    evaluator = choose_evaluator(parent.model, parent.dataset)
    calibration = {name: value[:CALIBRATION] for name, value in parent.dataset.calibration.inputs.items()}
    setting = Setting(parent, ParentExport(parent, Silent()), calibration)
    print(f"| quantiser | {evaluator.metric} | bytes | seconds |\n|---|---:|---:|---:|")
    for name in names:
        if "nncf" in name and find_spec("nncf") is None:
            continue
        with TemporaryDirectory() as folder:
            path, began = Path(folder) / "model.onnx", time.perf_counter()
            try:
                QUANTISERS[name]()(setting, path)
                took = time.perf_counter() - began
                loss = evaluator.evaluate(FileModel(path), "test", items).loss
                print(f"| {name} | {loss:.5f} | {path.stat().st_size} | {took:.1f} |", flush=True)
            except Exception as error:
                print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:120]} | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--items", type=int, default=24, help="windows of the test split")
    parser.add_argument("--only", nargs="+", choices=QUANTISERS, default=list(QUANTISERS), metavar="NAME")
    options = parser.parse_args()
    compare(options.model, options.items, options.only)


if __name__ == "__main__":
    main()
