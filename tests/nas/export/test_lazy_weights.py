"""Weights that are read when a file is written: the same file, in fp16 too, and checked by its first blocks."""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import build_shallow
from onnx import numpy_helper

from latency_models.workload import Phase
from nas.export import lazy_weights, onnx_export
from nas.export.exporters import EXPORTERS
from nas.export.onnx_export import export_onnx
from nas.export.parity import HALF_TOLERANCE, check_parity
from nas.export.slices import SliceCheck
from pruning.anatomy.anatomy import read_anatomy
from pruning.inference.widening import copy_in_float32, widen
from search_spaces.errors import ExportError


@pytest.fixture(autouse=True)
def every_matrix_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_weights, "SMALLEST", 1)
    monkeypatch.setattr(lazy_weights, "_OTHER", 1)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


def and_slow(quick: list, slow: list) -> list:
    """Cases of the fast tests, and more in the slow ones."""
    return [*quick, *(pytest.param(*each, marks=pytest.mark.slow) for each in slow)]


@pytest.mark.parametrize("family", and_slow(["gpt2"], [["llama"], ["bert"], ["vit"]]))  # tied, and stored turned
def test_narrow_weights_are_written_as_those_of_the_model_in_float32(family: str, tmp_path: Path) -> None:
    narrow = widen(build_shallow(family).bfloat16())
    one, other = (
        read_weights(export_onnx(model, tmp_path / f"{position}.onnx"))
        for position, model in enumerate((narrow, copy_in_float32(narrow)))
    )
    assert {name: array.dtype for name, array in one.items()} == {name: array.dtype for name, array in other.items()}
    assert all(np.array_equal(array, other[name]) for name, array in one.items())
    assert check_parity(narrow, tmp_path / "0.onnx") < 1e-4


@pytest.mark.parametrize(
    ("family", "runtime"),
    and_slow(
        [("vit", "onnxruntime"), ("gpt2", "tensorrt")],
        [*product(["llama", "bert", "mixtral"], EXPORTERS), ("vit", "tensorrt"), ("gpt2", "onnxruntime")],
    ),
)
def test_files_in_fp16_are_half_as_large_and_compute_nearly_the_same(family: str, runtime: str, tmp_path: Path) -> None:
    model = widen(build_shallow(family).bfloat16())
    check = partial(check_parity, tolerance=HALF_TOLERANCE)
    path = tmp_path / "half.onnx"
    EXPORTERS[runtime].export(model, path, Phase.FORWARD, None, torch.float16, check)
    arrays = read_weights(path).values()
    half = sum(array.nbytes for array in arrays if array.dtype == np.float16)
    assert half >= 0.9 * 2 * sum(tensor.numel() for tensor in model.parameters())
    assert not any(array.dtype == np.float32 and array.size > 64 for array in arrays)


@pytest.mark.parametrize("phase", and_slow([Phase.DECODE], [[Phase.PREFILL]]))
def test_cached_phases_hand_over_fp16(phase: Phase, tmp_path: Path) -> None:
    path = export_onnx(build_shallow("llama"), tmp_path / "half.onnx", phase=phase, dtype=torch.float16)
    assert check_parity(build_shallow("llama"), path, phase, HALF_TOLERANCE) > 0
    outputs = {value.name: value.type.tensor_type.elem_type for value in onnx.load(str(path)).graph.output}
    assert {kind for name, kind in outputs.items() if name.startswith("present")} == {onnx.TensorProto.FLOAT16}


def test_a_weight_that_fp16_does_not_hold_is_refused(tmp_path: Path) -> None:
    model = build_shallow("vit")
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.weight[3, 4] = 1e6
    with pytest.raises(ExportError, match=r"a weight of 1e\+06 is beyond fp16"):
        export_onnx(model, tmp_path / "half.onnx", dtype=torch.float16)


def test_what_was_traced_for_one_runtime_is_written_for_another(tmp_path: Path) -> None:
    model, traced = widen(build_shallow("vit").bfloat16()), {}
    for runtime, exporter in EXPORTERS.items():
        exporter.export(model, tmp_path / f"{runtime}.onnx", Phase.FORWARD, traced)
    assert len(traced) == 1


@pytest.mark.parametrize("phase", and_slow([Phase.DECODE], [[Phase.FORWARD]]))
def test_a_file_with_its_weights_beside_it_is_checked_by_its_first_blocks(
    phase: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_INLINE", 0)
    model = build_shallow("llama")
    path, check = tmp_path / "model.onnx", SliceCheck(read_anatomy(model), 1e-4)
    export_onnx(model, path, phase=phase)
    assert (tmp_path / "model.onnx.data").exists()
    assert check(model, path, phase) < 1e-4
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(2)
    with pytest.raises(ExportError, match="differs from the model"):
        check(model, path, phase)
