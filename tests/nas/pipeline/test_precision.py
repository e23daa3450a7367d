"""What --precision allows: formats that the machine multiplies faster in, on targets that have them."""

from types import SimpleNamespace

import onnx
import pytest
import torch
from exported_parents import export_parent
from families import build, example, filled
from onnx import numpy_helper
from transformers import GPT2Config, GPT2LMHeadModel

from latency_models.targets import find_target
from latency_models.workload import Phase, Workload
from nas.export.exported_graphs import ExportedGraphs
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, export_onnx
from nas.export.parity import check_parity
from nas.parent.shape import read_shape
from nas.pipeline import precision
from nas.pipeline.precision import (
    check_precision_runs,
    describe_speeds,
    list_precision_units,
    measure_parts,
    restrict_to_fast_formats,
    restrict_to_sound_formats,
)
from nas.pipeline.problem import _count_copied, _count_saved_bytes
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import UsageError
from search_spaces.weight_formats import FORMATS

__all__ = ["export_parent"]
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
        own = {"": 3.0, "int8": 1.0, "w8": 3.0, "w4": 6.0}
        return {each: own | ({"w4": 1.0} if each.inputs != each.outputs else {}) for each in products}

    monkeypatch.setattr(precision, "load_speeds", load)


def test_units_are_added_where_a_precision_allows_fewer_bits() -> None:
    assert list_precision_units("fp32") == ()
    allowed = {"attention-bits", "mlp-bits", "head-bits"}
    assert set(list_precision_units("search")) == set(list_precision_units("w4")) == allowed


def test_targets_of_other_runtimes_have_no_formats() -> None:
    check_precision_runs(("attention", "mlp-bits"), find_target("host"))
    check_precision_runs(("attention", "mlp"), find_target("jetson-orin"))
    with pytest.raises(UsageError, match=r"runs tensorrt.*take --target host"):
        check_precision_runs(("attention", "mlp-bits"), find_target("jetson-orin"))


def test_the_speed_of_a_part_is_that_of_all_its_matrices(parent, speeds) -> None:
    """An attention of llama has two square matrices and two of half the outputs; its MLP has none that is square."""
    found = {(str(unit), name): faster for (unit, name), faster in measure_parts(parent, WORKLOAD).items()}
    assert found["mlp.0", "w4"] == 3
    assert found["attention.0", "int8"] == 3
    assert found["attention.0", "w4"] == pytest.approx(12 / (6 + 6 + 1 + 1))


@pytest.mark.parametrize(
    ("asked", "attention", "mlp"), [("search", {"int8"}, {"int8", "w4"}), ("w4", set(), {"w4"}), ("w8", set(), set())]
)
def test_only_faster_formats_are_searched(parent, speeds, asked, attention, mlp) -> None:
    space = parent.anatomy.build_space(("attention", "mlp", "attention-bits", "mlp-bits"))
    found = restrict_to_fast_formats(space, parent, WORKLOAD, asked)
    for kind, names in (("attention", attention), ("mlp", mlp)):
        offered = {name for name in FORMATS if Choice.parse(f"{kind}.1:bits={name}") in found.choices}
        assert offered == names
    assert Choice.parse("attention.1") in found.choices


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "text",
    ["mlp.1:bits=w4", "mlp.1:bits=w8", "attention.1:bits=int8", "head:bits=w8", "mlp.1:form=linear", "mlp.1"],
)
def test_files_have_as_many_bytes_as_predicted(family: str, text: str, export_parent, tmp_path) -> None:
    parent, choice = export_parent(family), Choice.parse(text)
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
    lines = describe_speeds(parent, measure_parts(parent, WORKLOAD), WORKLOAD)
    assert [line.partition(":")[0] for line in lines] == list(FORMATS)
    assert lines[0].endswith("with 8 rows attention 3.00 x, mlp 3.00 x, head 3.00 x")
    assert lines[1].endswith("not searched")
    assert "attention 0.86 x, mlp 3.00 x, head 3.00 x" in lines[2]


def test_formats_that_break_a_part_are_left_out_with_the_reason(parent) -> None:
    mlp = parent.model.model.layers[2].mlp
    with torch.no_grad():
        mlp.up_proj.weight[5] *= 400  # one neuron takes the scale of all
        mlp.down_proj.weight[:, 5] /= 4000
    space = parent.anatomy.build_space(("mlp", "mlp-bits", "head-bits"))
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
    assert describe_speeds(parent, measure_parts(parent, asked), asked)[0].endswith(words)


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
    parent = export_parent("llama", phase)
    chosen = map(Choice.parse, ("attention.1:bits=w8", "mlp.2:bits=w4", "head:bits=w4"))
    architecture = Architecture(4).drop(*chosen)
    pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
    assert check_parity(pruned, parent.graph.derive(architecture, tmp_path / "model.onnx"), phase) < 1e-4
