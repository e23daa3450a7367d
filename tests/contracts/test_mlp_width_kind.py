"""Narrower MLPs: the neurons with the smallest weights are gone."""

import pytest
import torch
from families import build
from transformers.pytorch_utils import Conv1D
from unit_kind import DEPTH, MATRICES, UnitKindContract, architecture_of, block_of, read_parent

from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.block_library import BlockLibrary
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
        gone = sorted(set(range(count)) - set(kept))
        for path in MATRICES[family][2]:
            module = block.get_submodule(path)
            for half in range(len(rows_of(module)) // count):
                rows_of(module)[[half * count + neuron for neuron in gone]] = 0
                if module.bias is not None:
                    module.bias.data[[half * count + neuron for neuron in gone]] = 0
        rows_of(block.get_submodule(MATRICES[family][3]))[:, gone] = 0


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


def test_a_graph_that_does_not_show_the_width_is_exported_with_it(export_parent) -> None:
    """What stands between the matrices must be understood; else the level is part of the export key."""
    parent = export_parent("llama")
    architecture = architecture_of("mlp.1:width=0.5").drop(Choice.parse("attention.0"))
    assert parent.graph.find_exported(architecture) == Architecture.parent(DEPTH)
    graph = parent.graph
    sigmoid = [node for node in graph.proto.graph.node if node.op_type == "Sigmoid"][1]
    graph.proto.graph.node.add(op_type="Concat", input=[sigmoid.output[0], "elsewhere"], output=["both"])
    assert graph.find_exported(architecture) == architecture_of("mlp.1:width=0.5")
