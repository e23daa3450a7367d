"""What holds of every kind of unit, whatever its levels change."""

import copy
import functools
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from eight_bits import saturates
from families import build, example
from torch import Tensor, nn

from nas.export.exported_graphs import ExportedGraphs
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET, export_onnx
from nas.export.parity import check_parity
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.checkpoint import load, save
from pruning.inference.prefix_cache import list_prefixes
from pruning.surgery.block_library import BlockLibrary
from pruning.surgery.prune import prune
from search_spaces import KINDS, Architecture, Choice, Kind, Reduction, Scorer
from search_spaces.unit import is_structural, list_kinds

DEPTH = 4
# Where the matrices of each family are, written by hand: the list of blocks, what writes the attention's contribution,
# what writes the neurons of the MLP, and what reads them.
MATRICES = {
    "llama": ("model.layers", "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "gpt2": ("transformer.h", "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"),
    "vit": ("vit.layers", "attention.o_proj", ("mlp.fc1",), "mlp.fc2"),
    "bert": ("bert.encoder.layer", "attention.output.dense", ("intermediate.dense",), "output.dense"),
    "phi3": ("model.layers", "self_attn.o_proj", ("mlp.gate_up_proj",), "mlp.down_proj"),
}
EXPORTS = (("llama", ONNX_RUNTIME_OPSET), ("gpt2", TENSORRT_OPSET), ("vit", ONNX_RUNTIME_OPSET))
MORE_EXPORTS = (("llama", TENSORRT_OPSET), ("gpt2", ONNX_RUNTIME_OPSET), ("vit", TENSORRT_OPSET))


class UnitKindContract:
    """Tests of one kind; derive a class that says which, and what its levels compute.

    Attributes:
        name: of the kind in `KINDS`.
        choices: of one unit of a parent with four blocks, each leaving less than the one before.
        families: that can have it.
        exports: (family, opset) whose files are compared; `more_exports` in slow tests.
        exported: the choices that are compared in them, where each takes an export of its own; all in slow tests.
    """

    name: ClassVar[str]
    choices: ClassVar[tuple[str, ...]]
    families: ClassVar[tuple[str, ...]] = ("llama", "gpt2", "vit", "bert", "phi3")
    exports: ClassVar[tuple[tuple[str, int], ...]] = EXPORTS
    more_exports: ClassVar[tuple[tuple[str, int], ...]] = MORE_EXPORTS
    exported: ClassVar[tuple[str, ...]] = ()

    def mask(self, model: Any, family: str, choice: Choice) -> None:
        """Let a parent compute, in place and with all its parts, what it computes with a choice."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test runs for all choices, families and exports that it asks for."""
        if "text" in metafunc.fixturenames:
            metafunc.parametrize("text", self.choices)
        if "family" in metafunc.fixturenames and "opset" not in metafunc.fixturenames:
            metafunc.parametrize("family", self.families)
        if "opset" in metafunc.fixturenames:
            quick = [(*each, self.exported or self.choices) for each in self.exports]
            more = [*self.more_exports, *(self.exports if self.exported else ())]
            slow = [pytest.param(*each, self.choices, marks=pytest.mark.slow) for each in more]
            metafunc.parametrize(("family", "opset", "texts"), [*quick, *slow])

    def test_text_and_json_come_back(self, text: str) -> None:
        choice, architecture = Choice.parse(text), architecture_of(text)
        assert str(choice) == text
        assert list_kinds(choice) == {self.name}
        assert KINDS[self.name].structural == is_structural(choice)
        document = json.loads(json.dumps(architecture.to_json()))
        assert Architecture.from_json(document) == architecture
        assert Architecture.from_words(architecture.words).choices == architecture.choices

    def test_no_two_levels_have_one_name_or_share_states(self) -> None:
        """A digest names qualities on disk, a prefix the states of candidates: with one name, one's are the other's."""
        chosen = [Architecture.parent(DEPTH), *map(architecture_of, self.choices)]
        assert len({each.digest for each in chosen}) == len(chosen)
        layer = Choice.parse(self.choices[0]).layer
        shared = [
            set(list_prefixes(one)) & set(list_prefixes(other))
            for one in chosen
            for other in chosen
            if one is not other
        ]
        assert all(len(prefix) <= layer for same in shared for prefix in same)

    def test_a_pruned_model_computes_what_the_masked_parent_does(self, family: str, text: str) -> None:
        model, anatomy = read_parent(family)
        masked = copy.deepcopy(model)
        self.mask(masked, family, Choice.parse(text))
        expected = run(masked)
        found = [prune(model, architecture_of(text), anatomy=anatomy, share_weights=share) for share in (True, False)]
        found += [prune(model, architecture_of(text), library=BlockLibrary(model, anatomy), anatomy=anatomy)]
        for pruned in found:
            torch.testing.assert_close(run(pruned), expected, rtol=0, atol=1e-5)
        assert not torch.allclose(run(model), expected, atol=1e-4)  # it matters

    def test_parameters_that_are_gone_are_counted(self, family: str, text: str) -> None:
        model, anatomy = read_parent(family)
        pruned = prune(model, architecture_of(text), anatomy=anatomy)
        counted = anatomy.count_parameters(Choice.parse(text)) if KINDS[self.name].structural else 0
        assert model.num_parameters() - pruned.num_parameters() == counted

    def test_a_space_offers_it_when_it_is_asked(self, family: str) -> None:
        """Structural kinds only: those that change the tokens are the affair of the workload."""
        _, anatomy = read_parent(family)
        offered = {choice for choice in anatomy.choices if self.name in list_kinds(choice)}
        if KINDS[self.name].structural:
            assert {Choice.parse(text) for text in self.choices} <= offered
            assert set(anatomy.build_space((self.name,)).choices) == offered
        else:
            assert not offered

    def test_an_edited_file_computes_what_the_pruned_model_does(
        self, family: str, opset: int, texts: tuple[str, ...], export_parent: Any, tmp_path: Path
    ) -> None:
        parent = export_parent(family, opset=opset)

        def export(architecture: Architecture) -> ParentGraph:
            path = export_onnx(prune(parent.model, architecture, anatomy=parent.anatomy), tmp_path / "key.onnx", opset)
            return ParentGraph.read(path, parent.anatomy, parent.model, architecture)

        graphs = ExportedGraphs(parent.graph, export)
        for text in (each for each in texts if not (each.endswith("=int8") and saturates())):
            pruned = prune(parent.model, architecture_of(text), anatomy=parent.anatomy)
            assert check_parity(pruned, graphs.derive(architecture_of(text), tmp_path / "model.onnx")) < 1e-4, text

    def test_what_is_saved_comes_back(self, family: str, text: str, tmp_path: Path) -> None:
        model, anatomy = read_parent(family)
        pruned = prune(model, architecture_of(text), anatomy=anatomy)
        save(pruned, tmp_path)
        again = load(tmp_path)
        assert torch.equal(run(again), run(pruned))
        assert again.num_parameters() == pruned.num_parameters()


def architecture_of(text: str) -> Architecture:
    """The architecture with one choice; tokens are chosen by their norm, which anybody can compute."""
    choice = Choice.parse(text)
    return Architecture(DEPTH, frozenset({choice}), None if is_structural(choice) else Reduction(Scorer.NORM))


@functools.cache
def read_parent(family: str) -> tuple[Any, Anatomy]:
    """A tiny parent, not to be changed, and its anatomy."""
    model = build(family)
    return model, read_anatomy(model)


@torch.no_grad()
def run(model: Any) -> Tensor:
    """What a model computes of an example."""
    output: Tensor = model(**example(model))[0]
    return output


def block_of(model: Any, family: str, choice: Choice) -> nn.Module:
    """The block that a choice is about; for what follows the blocks, the model."""
    if not choice.kind.in_blocks:
        return model
    return model.get_submodule(f"{MATRICES[family][0]}.{choice.layer}")


@torch.no_grad()
def silence(module: nn.Module) -> None:
    """Let a linear module give zeros."""
    for parameter in module.parameters():
        parameter.zero_()


__all__ = [
    "DEPTH",
    "EXPORTS",
    "MATRICES",
    "MORE_EXPORTS",
    "Kind",
    "UnitKindContract",
    "architecture_of",
    "block_of",
    "read_parent",
    "run",
    "silence",
]
