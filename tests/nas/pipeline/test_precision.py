"""What --precision allows: formats that the machine multiplies faster in, on targets that have them."""

from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
import torch
from exported_parents import export_parent
from families import build, example, filled
from onnx import numpy_helper
from transformers import GPT2Config, GPT2LMHeadModel

from latency_models.datasheet_model import DataSheetModel
from latency_models.targets import find_target
from latency_models.workload import Phase, Workload
from nas.export.exported_graphs import ExportedGraphs
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET, export_onnx
from nas.export.parity import check_parity
from nas.parent.shape import read_shape
from nas.pipeline import precision
from nas.pipeline.limits import _count_copied, _count_saved_bytes
from nas.pipeline.precision import (
    calibrate_formats,
    check_precision_runs,
    compare_parts,
    describe_speeds,
    list_precision_units,
    restrict_to_fast_formats,
    restrict_to_sound_formats,
)
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.input_scale import get_input_scale
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import UsageError
from search_spaces.weight_formats import ALL_FORMATS, FORMATS, W8A8

__all__ = ["export_parent"]
HOST, ORIN = find_target("host"), find_target("jetson-orin")
WORKLOAD = Workload.parse("forward:batch=1,seq=8")


@pytest.fixture
def parent():
    model = build("llama")
    anatomy = read_anatomy(model)
    return SimpleNamespace(model=model, placed=model, anatomy=anatomy, shape=read_shape(model, anatomy))


@pytest.fixture
def speeds(monkeypatch):
    """int8 is three times as fast as fp32, w8 as fast, w4 half as fast for outputs as many as inputs."""

    def load(products):
        own = {"": 3.0, "int8": 1.0, "w8": 3.0, "w4": 6.0, "w2": 0.5}
        return {each: own | ({"w4": 1.0} if each.inputs != each.outputs else {}) for each in products}

    monkeypatch.setattr(precision, "load_speeds", load)
    monkeypatch.setattr(precision, "multiplies_rightly", lambda name: True)  # whatever this machine has


def test_units_are_added_where_a_precision_allows_fewer_bits() -> None:
    assert list_precision_units("fp32") == ()
    allowed = {"attention-bits", "mlp-bits", "head-bits"}
    assert set(list_precision_units("search")) == set(list_precision_units("w4")) == allowed


def test_a_target_has_the_formats_of_its_runtime() -> None:
    parts = ("attention", "mlp-bits")
    for target, asked in ((HOST, "search"), (HOST, "w2"), (ORIN, "search"), (ORIN, "w8a8"), (HOST, "fp32")):
        check_precision_runs(parts, target, asked)
    with pytest.raises(UsageError, match=r"--precision fp8: jetson.* multiplies no such numbers; it has w8a8, w4a16"):
        check_precision_runs(parts, ORIN, "fp8")
    check_precision_runs(parts, find_target("h100"), "fp8")
    for name in ("jetson-orin/int8", "apple-m2-gpu/fp32"):
        check_precision_runs(("attention", "mlp"), find_target(name), "fp32")
        with pytest.raises(UsageError, match=r"no part can have fewer bits there.*take --precision fp32"):
            check_precision_runs(parts, find_target(name), "search")
    with pytest.raises(UsageError, match=r"int8 is a format of onnxruntime-cpu, and jetson.* has w8a8, w4a16; take"):
        check_precision_runs(parts, ORIN, "int8")


def test_the_speed_of_a_part_is_that_of_all_its_matrices(parent, speeds) -> None:
    """An attention of llama has two square matrices and two of half the outputs; its MLP has none that is square."""
    found = {(str(unit), name): faster for (unit, name), faster in compare_parts(parent, HOST, WORKLOAD).items()}
    assert found["mlp.0", "w4"] == 3
    assert found["attention.0", "int8"] == 3
    assert found["attention.0", "w4"] == pytest.approx(12 / (6 + 6 + 1 + 1))


@pytest.mark.parametrize(
    ("asked", "attention", "mlp"), [("search", {"int8"}, {"int8", "w4"}), ("w4", set(), {"w4"}), ("w8", set(), set())]
)
def test_only_faster_formats_are_searched(parent, speeds, asked, attention, mlp) -> None:
    space = parent.anatomy.build_space(("attention", "mlp", "attention-bits", "mlp-bits"))
    found = restrict_to_fast_formats(space, parent, HOST, WORKLOAD, asked)
    for kind, names in (("attention", attention), ("mlp", mlp)):
        offered = {name for name in FORMATS if Choice.parse(f"{kind}.1:bits={name}") in found.choices}
        assert offered == names
    assert Choice.parse("attention.1") in found.choices


@pytest.mark.parametrize(("family", "opset"), [("llama", ONNX_RUNTIME_OPSET), ("gpt2", TENSORRT_OPSET)])
@pytest.mark.parametrize(
    "text",
    ["mlp.1:bits=w4", "mlp.1:bits=w8", "attention.1:bits=int8", "head:bits=w8", "mlp.1:form=linear", "mlp.1"],
)
def test_files_have_as_many_bytes_as_predicted(family: str, opset: int, text: str, export_parent, tmp_path) -> None:
    parent, choice = export_parent(family, opset=opset), Choice.parse(text)
    graphs = ExportedGraphs(parent.graph, None)
    if graphs.find_exported(Architecture(4).drop(choice)).choices:
        pytest.skip("exported anew; the bytes are the same")
    whole, edited = (
        count_weight_bytes(graphs.derive(Architecture(4).drop(*chosen), tmp_path / f"{len(chosen)}.onnx"))
        for chosen in ((), (choice,))
    )
    shape = read_shape(parent.model, parent.anatomy)
    saved = _count_saved_bytes(SimpleNamespace(model=parent.model, anatomy=parent.anatomy, shape=shape), choice, 4)
    assert whole - edited == pytest.approx(saved, rel=0.02)


def count_weight_bytes(path) -> int:
    """Bytes of everything that is a matrix or goes with one."""
    return sum(numpy_helper.to_array(each).nbytes for each in onnx.load(str(path)).graph.initializer)


def test_advice_has_a_line_for_each_format(parent, speeds) -> None:
    lines = describe_speeds(parent, HOST, compare_parts(parent, HOST, WORKLOAD), WORKLOAD)
    assert [line.partition(":")[0] for line in lines] == [*FORMATS, "w2"]
    assert lines[3] == "w2: not searched: 2 bits are for weights that are -s, 0 and s only, others lose too much"
    assert lines[0].endswith("with 8 rows attention 3.00 x, mlp 3.00 x, head 3.00 x")
    assert lines[1].endswith("not searched")
    assert "attention 0.86 x, mlp 3.00 x, head 3.00 x" in lines[2]


def test_a_format_that_this_machine_multiplies_wrongly_is_not_searched(parent, speeds, monkeypatch) -> None:
    monkeypatch.setattr(precision, "multiplies_rightly", lambda name: name != "int8")
    compared = compare_parts(parent, HOST, WORKLOAD)
    assert {name for _, name in compared} == {"w8", "w4"}
    lines = describe_speeds(parent, HOST, compared, WORKLOAD)
    assert lines[0].startswith("int8: not searched: its products are wrong on this processor")
    space = parent.anatomy.build_space(("mlp", "mlp-bits"))
    found = restrict_to_fast_formats(space, parent, HOST, WORKLOAD, "search")
    assert not any("int8" in str(choice) for choice in found.choices)


def test_formats_that_break_a_part_are_left_out_with_the_reason(parent) -> None:
    mlp = parent.model.model.layers[2].mlp
    with torch.no_grad():
        mlp.up_proj.weight[5] *= 400  # one neuron takes the scale of all
        mlp.down_proj.weight[:, 5] /= 4000
    space = parent.anatomy.build_space(("mlp", "mlp-bits", "head-bits"))
    space = replace(space, choices=tuple(each for each in space.choices if "=w2" not in str(each)))
    found, lines = restrict_to_sound_formats(space, parent, example(parent.model))
    left_out = sorted(set(space.choices) - set(found.choices))
    assert Choice.parse("mlp.2:bits=int8") in left_out
    assert {choice.unit for choice in left_out} == {Choice.parse("mlp.2").unit}
    assert len(lines) == len(left_out)
    assert lines[0].startswith("mlp.2:bits=int8 is not searched: rounding loses")


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ("decode:batch=1,past=16", "with one row attention 3.00 x, mlp 3.00 x, head 3.00 x"),
        ("decode:batch=4,past=16", "with 4 rows attention 3.00 x, mlp 3.00 x, head 3.00 x"),
        ("prefill:batch=2,seq=8", "with 16 rows attention 3.00 x, mlp 3.00 x; with 2 rows head 3.00 x"),
    ],
)
def test_advice_is_of_as_many_rows_as_a_workload_multiplies(parent, speeds, workload, words) -> None:
    asked = Workload.parse(workload)
    assert describe_speeds(parent, HOST, compare_parts(parent, HOST, asked), asked)[0].endswith(words)


@pytest.mark.parametrize("words", [96, 9000])
def test_bytes_of_a_file_count_a_head_that_an_embedding_has_too(words: int, tmp_path) -> None:
    """Few weights are copied, and the copy shrinks; many are stored once, and a quantised head comes on top."""
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=words, n_positions=64)
    model = filled(lambda: GPT2LMHeadModel(config))
    anatomy = read_anatomy(model)
    parent = SimpleNamespace(model=model, placed=model, anatomy=anatomy, shape=read_shape(model, anatomy))
    graph = ParentGraph.read(export_onnx(model, tmp_path / "parent.onnx", ONNX_RUNTIME_OPSET), anatomy, model)
    choice = Choice.parse("head:bits=w8")
    whole, edited = (
        count_weight_bytes(graph.derive(Architecture(1).drop(*chosen), tmp_path / f"{len(chosen)}.onnx"))
        for chosen in ((), (choice,))
    )
    assert whole == pytest.approx(4 * (model.num_parameters() + _count_copied(parent)), rel=0.02)
    assert whole - edited == pytest.approx(_count_saved_bytes(parent, choice, 4), rel=0.02)
    pruned = prune(model, Architecture(1).drop(choice), anatomy=anatomy)
    assert check_parity(pruned, tmp_path / "1.onnx") < 1e-4


@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
def test_files_that_decode_have_formats_too(phase: Phase, export_parent, tmp_path) -> None:
    parent = export_parent("gemma2", phase)  # whose files other tests look at, too
    chosen = map(Choice.parse, ("attention.1:bits=w8", "mlp.2:bits=w4", "head:bits=w4"))
    architecture = Architecture(4).drop(*chosen)
    pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
    assert check_parity(pruned, parent.graph.derive(architecture, tmp_path / "model.onnx"), phase) < 1e-4


def test_on_a_device_parts_have_the_formats_that_its_data_sheet_makes_faster() -> None:
    """A prompt is bound by arithmetic, of which int8 does more; a decoding step by weights, of which w4a16 has less."""
    config = GPT2Config(n_embd=1024, n_layer=2, n_head=16, vocab_size=96, n_positions=1024)
    model = filled(lambda: GPT2LMHeadModel(config))
    anatomy = read_anatomy(model)
    parent = SimpleNamespace(model=model, placed=model, anatomy=anatomy, shape=read_shape(model, anatomy))
    space = anatomy.build_space(("attention", "mlp", "attention-bits", "mlp-bits"))
    prompt, step = Workload.parse("prefill:batch=8,seq=1024"), Workload.parse("decode:batch=1,past=128")
    for workload, names in ((prompt, {"w8a8"}), (step, {"w8a8", "w4a16"})):
        found = restrict_to_fast_formats(space, parent, ORIN, workload, "search")
        assert {name for name in ALL_FORMATS if Choice.parse(f"mlp.1:bits={name}") in found.choices} == names
    predicted = compare_parts(parent, ORIN, step)
    latency = DataSheetModel(ORIN, parent.shape, step)
    whole = latency.predict(Architecture(2)).ms
    saved = whole - latency.predict(Architecture(2).drop(Choice.parse("mlp.1:bits=w4a16"))).ms
    part = whole - latency.predict(Architecture(2).drop(Choice.parse("mlp.1"))).ms
    assert predicted[Choice.parse("mlp.1").unit, "w4a16"] == pytest.approx(part / (part - saved))
    lines = describe_speeds(parent, ORIN, predicted, step)
    assert lines[0].startswith("w8a8: parts run as fast as in fp16 by the data sheet with one row attention ")
    assert [line.partition(":")[0] for line in lines] == ["w8a8", "w4a16"]


def test_fp8_is_offered_where_the_generation_has_it(parent) -> None:
    config = GPT2Config(n_embd=2048, n_layer=1, n_head=16, vocab_size=96, n_positions=1024)
    model = filled(lambda: GPT2LMHeadModel(config))
    anatomy, prompt = read_anatomy(model), Workload.parse("prefill:batch=8,seq=1024")
    parent = SimpleNamespace(model=model, placed=model, anatomy=anatomy, shape=read_shape(model, anatomy))
    for name, offered in (("h100", True), ("a100", False)):
        found = compare_parts(parent, find_target(name), prompt)
        assert ((Choice.parse("mlp.0").unit, "fp8") in found) == offered
    assert compare_parts(parent, find_target("h100"), prompt)[Choice.parse("mlp.0").unit, "fp8"] > 1.05


def test_scales_are_chosen_where_inputs_are_rounded_by_one(parent) -> None:
    space = parent.anatomy.build_space(("mlp-bits",))
    inputs, matrix = example(parent.model), parent.model.model.layers[1].mlp.down_proj
    calibrate_formats(replace(space, choices=(Choice.parse("mlp.1:bits=w4a16"),)), parent, inputs)
    assert not get_input_scale(matrix, W8A8)
    calibrate_formats(space, parent, inputs)
    assert get_input_scale(matrix, W8A8) > 0


def test_two_bits_are_for_ternary_parts_only(parent, speeds) -> None:
    with torch.no_grad():
        for module in parent.model.model.layers[1].mlp.children():
            if hasattr(module, "weight"):
                module.weight.copy_(0.02 * module.weight.sign() * (module.weight.abs() > 0.01))
    space = parent.anatomy.build_space(("mlp", "mlp-bits"))
    found = restrict_to_fast_formats(space, parent, HOST, WORKLOAD, "w2")
    assert [str(choice) for choice in found.choices if "bits" in str(choice)] == ["mlp.1:bits=w2"]
    lines = describe_speeds(parent, HOST, compare_parts(parent, HOST, WORKLOAD), WORKLOAD)
    assert lines[3] == "w2: matrices multiply as fast as in fp32 with 8 rows mlp 6.00 x"
