"""Narrower MLPs: the neurons with the smallest weights are gone, or those that come last in a known order."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build, example
from onnx import numpy_helper
from transformers.pytorch_utils import Conv1D
from unit_kind import DEPTH, MATRICES, UnitKindContract, architecture_of, block_of, read_parent, run

from nas.export.exported_graphs import ExportedGraphs
from nas.export.onnx_export import TENSORRT_OPSET
from nas.export.parity import check_parity
from nas.export.shared_weights import SharedWeights
from nas.profiling.host import derive_files
from pruning.analysis.channel_orders import order_channels
from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from pruning.surgery.block_library import BlockLibrary
from pruning.surgery.channel_order import get_channel_order
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import ArchitectureError


def rows_of(module) -> torch.Tensor:
    """The weights (out, in), a view."""
    return module.weight.data.T if isinstance(module, Conv1D) else module.weight.data


def find_largest(block, family: str, share: float) -> tuple[list[int], int]:
    """(neurons that stay, of how many), one neuron after another."""
    _, _, up, down = MATRICES[family]
    reads = rows_of(block.get_submodule(down))
    count = reads.shape[1]
    sizes = []
    for neuron in range(count):
        written = [rows_of(block.get_submodule(path)).reshape(-1, count, reads.shape[0])[:, neuron] for path in up]
        sizes.append(float(torch.cat(written).pow(2).sum().sqrt() * reads[:, neuron].pow(2).sum().sqrt()))
    kept = min(count, max(8, 8 * round(share * count / 8)))
    return sorted(sorted(range(count), key=lambda neuron: -sizes[neuron])[:kept]), count


class TestMlpWidth(UnitKindContract):
    name = "mlp-width"
    choices = ("mlp.1:width=0.75", "mlp.1:width=0.5", "mlp.1:width=0.25")

    def mask(self, model, family, choice) -> None:
        block = block_of(model, family, choice)
        kept, count = find_largest(block, family, dict(choice.level.axes)["width"] / 1000)
        dropped = sorted(set(range(count)) - set(kept))
        for path in MATRICES[family][2]:
            module = block.get_submodule(path)
            for half in range(len(rows_of(module)) // count):
                rows_of(module)[[half * count + neuron for neuron in dropped]] = 0
                if module.bias is not None:
                    module.bias.data[[half * count + neuron for neuron in dropped]] = 0
        rows_of(block.get_submodule(MATRICES[family][3]))[:, dropped] = 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_equal_neurons_go_from_the_last_on(family: str) -> None:
    model = build(family)
    block = block_of(model, family, Choice.parse("mlp.1"))
    for path in (*MATRICES[family][2], MATRICES[family][3]):
        rows_of(block.get_submodule(path))[:] = 1
    numbers = torch.arange(float(rows_of(block.get_submodule(MATRICES[family][2][0])).shape[0]))
    count = rows_of(block.get_submodule(MATRICES[family][3])).shape[1]
    rows_of(block.get_submodule(MATRICES[family][2][0]))[:, 0] = torch.where(numbers % 2 == 0, 1.0, -1.0)
    pruned = prune(model, architecture_of("mlp.1:width=0.5"))
    left = rows_of(block_of(pruned, family, Choice.parse("mlp.1")).get_submodule(MATRICES[family][2][0]))[:, 0]
    assert left[: count // 2].tolist() == [1.0, -1.0] * (count // 4)


@pytest.mark.parametrize("family", TestMlpWidth.families)
def test_neurons_go_in_the_order_that_was_found_out(family: str) -> None:
    """What is left is the parent with the others silent, and less of them is left of less."""
    model = build(family)
    anatomy, down = read_anatomy(model), MATRICES[family][3]
    order_channels(model, anatomy, example(model, batch=8))
    kept = list[set[int]]()
    for text in TestMlpWidth.choices:
        order = get_channel_order(block_of(model, family, Choice.parse(text)).get_submodule(down))
        assert order is not None
        masked, pruned = copy.deepcopy(model), prune(model, architecture_of(text), anatomy=anatomy)
        reads = rows_of(block_of(masked, family, Choice.parse(text)).get_submodule(down))
        count = rows_of(block_of(pruned, family, Choice.parse(text)).get_submodule(down)).shape[1]
        kept.append(set(order.groups[:count].tolist()))
        reads[:, order.groups[count:]] = 0
        torch.testing.assert_close(run(pruned), run(masked), rtol=0, atol=1e-5)
    assert kept[0] > kept[1] > kept[2]


def test_a_mixture_of_experts_has_no_widths() -> None:
    model = build("mixtral")
    anatomy = read_anatomy(model)
    assert not any("width" in str(choice) for choice in anatomy.choices)
    with pytest.raises(ArchitectureError, match=r"mlp\.1:width=0\.5: block 1 of mixtral cannot have it"):
        prune(model, architecture_of("mlp.1:width=0.5"), anatomy=anatomy)


def test_widths_go_with_everything_else() -> None:
    """Of several blocks, and beside parts that are dropped; a dropped MLP has no width."""
    model, anatomy = read_parent("llama")
    words = "attn+mlp:width=0.5 mlp:width=0.25 attn removed"
    pruned = prune(model, Architecture.from_words(words), anatomy=anatomy)
    widths = [block.mlp.down_proj.in_features for block in pruned.model.layers[:2]]
    assert widths == [24, 16]  # of 48, and 12 is between two multiples of 8
    both = Architecture(DEPTH, frozenset(map(Choice.parse, ("mlp.1", "mlp.1:width=0.5"))))
    assert both == Architecture(DEPTH, frozenset({Choice.parse("mlp.1")}))


def test_candidates_of_a_library_share_narrow_weights_too() -> None:
    model, anatomy = read_parent("llama")
    library = BlockLibrary(model, anatomy)
    candidates = [
        prune(model, architecture_of("mlp.1:width=0.5").drop(other), anatomy=anatomy, library=library)
        for other in map(Choice.parse, ("attention.0", "mlp.3"))
    ]
    one, other = (dict(candidate.named_parameters()) for candidate in candidates)
    known = {parameter.data_ptr() for parameter in model.parameters()}
    narrow = [name for name, parameter in one.items() if parameter.data_ptr() not in known]
    assert narrow == [f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    assert all(one[name].data_ptr() == other[name].data_ptr() for name in narrow)


@pytest.mark.parametrize("more", [["elsewhere"], ["48"]])
def test_a_graph_that_does_not_show_the_width_is_exported_with_it(more: list[str], export_parent) -> None:
    """Where something unknown stands between the matrices, or a number that may be the width."""
    parent = export_parent("llama")
    architecture = architecture_of("mlp.1:width=0.5").drop(Choice.parse("attention.0"))
    assert parent.graph.find_exported(architecture) == Architecture.parent(DEPTH)
    graph = parent.graph
    nodes, weights = graph.proto.graph.node, graph.proto.graph.initializer
    sigmoid = [node for node in nodes if node.op_type == "Sigmoid"][1]
    weights.append(numpy_helper.from_array(np.array([48]), "48"))
    nodes.add(op_type="Slice", input=[sigmoid.output[0], *more], output=["part"])
    assert graph.find_exported(architecture) == architecture_of("mlp.1:width=0.5")


def test_the_file_of_a_narrower_mlp_has_the_weights_that_compensation_gave_it(export_parent, tmp_path: Path) -> None:
    parent = export_parent("llama")
    inputs = example(parent.model, batch=12)
    builder = CandidateBuilder(parent.model, parent.anatomy, CompensationPlan("refit", inputs, inputs))
    model = builder.build(architecture_of("mlp.1:width=0.5"))
    adjusted = list_adjusted(model)
    assert (1, "mlp.down_proj") in {(each.layer, each.path) for each in adjusted}
    file = parent.graph.derive(architecture_of("mlp.1:width=0.5"), tmp_path / "model.onnx", adjusted)
    assert check_parity(model, file) < 1e-4


def test_files_with_widths_share_one_file_of_weights(export_parent, tmp_path: Path) -> None:
    """Cut weights go where the others are; a kit's too, whose values a device draws."""
    parent = export_parent("gpt2", opset=TENSORRT_OPSET)
    chosen = [
        Architecture.from_words(words) for words in ("attn+mlp:width=0.5 mlp:width=0.25 attn attn+mlp", "mlp " * 4)
    ]
    files = derive_files(ExportedGraphs(parent.graph, None), chosen, tmp_path)
    for architecture in chosen:
        pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
        assert check_parity(pruned, files[architecture.digest]) < 1e-4
    drawn = SharedWeights("drawn.data", 1024)
    graph = parent.graph.rewrite(drawn.move)
    parents = drawn.size
    edited = graph.edit(chosen[0])
    assert all(len(tensor.raw_data) < 1024 for tensor in edited.graph.initializer)
    assert drawn.size > parents
