"""What --precision allows: formats that the machine multiplies faster in, on targets that have them."""

from types import SimpleNamespace

import onnx
import pytest
from exported_parents import export_parent
from families import build
from onnx import numpy_helper

from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.export.exported_graphs import ExportedGraphs
from nas.pipeline import precision
from nas.pipeline.precision import (
    check_precision_runs,
    describe_speeds,
    list_precision_units,
    measure_parts,
    restrict_to_fast_formats,
)
from nas.pipeline.problem import _count_saved_bytes
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Architecture, Choice
from search_spaces.errors import UsageError
from search_spaces.weight_formats import FORMATS

__all__ = ["export_parent"]
WORKLOAD = Workload.parse("forward:batch=1,seq=8")


@pytest.fixture
def parent():
    model = build("llama")
    return SimpleNamespace(model=model, anatomy=read_anatomy(model))


@pytest.fixture
def speeds(monkeypatch):
    """int8 is three times as fast as fp32, w8 as fast, w4 half as fast for outputs as many as inputs."""

    def load(products):
        own = {"": 3.0, "int8": 1.0, "w8": 3.0, "w4": 6.0}
        return {each: own | ({"w4": 1.0} if each.inputs != each.outputs else {}) for each in products}

    monkeypatch.setattr(precision, "load_speeds", load)


def test_units_are_added_where_a_precision_allows_fewer_bits() -> None:
    assert list_precision_units("fp32") == ()
    assert set(list_precision_units("search")) == set(list_precision_units("w4")) == {"attention-bits", "mlp-bits"}


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
    "text", ["mlp.1:bits=w4", "mlp.1:bits=w8", "attention.1:bits=int8", "mlp.1:form=linear", "mlp.1"]
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
    saved = _count_saved_bytes(SimpleNamespace(model=parent.model, anatomy=parent.anatomy), choice, 4)
    assert whole - edited == pytest.approx(saved, rel=0.02)


def count_weight_bytes(path) -> int:
    """Bytes of everything that is a matrix or goes with one."""
    return sum(numpy_helper.to_array(each).nbytes for each in onnx.load(str(path)).graph.initializer)


def test_advice_has_a_line_for_each_format(parent, speeds) -> None:
    lines = describe_speeds(measure_parts(parent, WORKLOAD), WORKLOAD)
    assert [line.partition(":")[0] for line in lines] == list(FORMATS)
    assert "attention 3.00 x, mlp 3.00 x" in lines[0]
    assert lines[1].endswith("not searched")
    assert "attention 0.86 x, mlp 3.00 x" in lines[2]
