"""Linear maps in the place of attentions and MLPs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import mark_rest_slow
from torch import Tensor, nn
from unit_kind import (
    EXPORTS,
    MATRICES,
    MORE_EXPORTS,
    UnitKindContract,
    architecture_of,
    block_of,
    read_parent,
    run,
    silence,
)

from nas.export.exported_graphs import ExportedGraphs
from nas.export.parity import check_parity
from pruning.checkpoint.load_save import load, save
from pruning.compensation.calibration_pass import Adjusted
from pruning.compensation.method import Adjustment
from pruning.surgery.linear_stand_in import LinearStandIn
from pruning.surgery.prune import prune
from search_spaces import Choice
from search_spaces.errors import ArchitectureError

WORDS = ("attention.1:form=linear", "mlp.1:form=linear")
PARTS = {
    "llama": ("self_attn", "mlp"),
    "gpt2": ("attn", "mlp"),
    "vit": ("attention", "mlp"),
}  # pre-norm, one module each


class TestAttentionLinear(UnitKindContract):
    name = "attention-linear"
    choices = (WORDS[0],)
    exported = choices
    exports, more_exports = EXPORTS[:1], (*EXPORTS[1:], *MORE_EXPORTS)  # GPT-2's takes an export of its own

    def mask(self, model, family, choice) -> None:
        silence(block_of(model, family, choice).get_submodule(MATRICES[family][1]))


class TestMlpLinear(UnitKindContract):
    name = "mlp-linear"
    choices = (WORDS[1],)
    exported = choices
    exports, more_exports = EXPORTS[:1], (*EXPORTS[1:], *MORE_EXPORTS)

    def mask(self, model, family, choice) -> None:
        silence(block_of(model, family, choice).get_submodule(MATRICES[family][3]))


def fit(model: Any) -> list[nn.Module]:
    """Random weights for all maps of a model; they are zero until compensation."""
    maps = [module.linear for module in model.modules() if isinstance(module, LinearStandIn)]
    for linear in maps:
        for parameter in linear.parameters():
            parameter.data.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
    return maps


def stand_in(parent: Any, family: str, text: str, linear: nn.Module) -> Tensor:
    """What a parent computes where a part's output is a map of its first input."""
    kind = text.partition(".")[0]
    part = block_of(parent, family, Choice.parse(text)).get_submodule(PARTS[family][kind == "mlp"])

    def write(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        mapped = linear(args[0] if args else kwargs["hidden_states"])
        return (mapped, *output[1:]) if isinstance(output, tuple) else mapped

    handle = part.register_forward_hook(write, with_kwargs=True)
    try:
        return run(parent)
    finally:
        handle.remove()


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize("family", PARTS)
def test_the_map_is_given_what_the_part_is_and_its_output_takes_the_part_s_place(
    family: str, text: str, tmp_path: Path
) -> None:
    parent, anatomy = read_parent(family)
    pruned = prune(parent, architecture_of(text), anatomy=anatomy)
    (linear,) = fit(pruned)
    expected = stand_in(parent, family, text, linear)
    torch.testing.assert_close(run(pruned), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(run(prune(parent, architecture_of(text), anatomy=anatomy)), expected, atol=1e-3)
    save(pruned, tmp_path)
    assert torch.equal(run(load(tmp_path)), run(pruned))


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize(("family", "opset"), mark_rest_slow([("llama", 18), ("vit", 23)], [("vit", 23)]))
def test_an_edited_graph_has_the_map_in_the_part_s_place(
    family: str, opset: int, text: str, export_parent: Any, tmp_path: Path
) -> None:
    parent = export_parent(family, opset=opset)
    assert not parent.graph.find_exported(architecture_of(text)).choices, "no export of its own"
    pruned = prune(parent.model, architecture_of(text), anatomy=parent.anatomy)
    (linear,) = fit(pruned)
    path = f"{PARTS[family][text.startswith('mlp')]}.linear"
    adjusted = [Adjusted(1, path, linear, Adjustment(None, None, 0.0, 0.0))]
    file = ExportedGraphs(parent.graph, None).derive(architecture_of(text), tmp_path / "model.onnx", adjusted)
    assert check_parity(pruned, file) < 1e-4
    whole = ExportedGraphs(parent.graph, None).derive(architecture_of("mlp.0"), tmp_path / "other.onnx")
    assert file.stat().st_size < whole.stat().st_size + (1 << 16)


def test_an_attention_s_map_has_no_cache() -> None:
    parent, anatomy = read_parent("llama")
    pruned = prune(parent, architecture_of(WORDS[0]), anatomy=anatomy)
    fit(pruned)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        whole = pruned(ids).logits[:, -1]
        first = pruned(ids[:, :3], use_cache=True)
        last = pruned(ids[:, 3:], past_key_values=first.past_key_values, use_cache=True)
    assert len(first.past_key_values.layers) == 3
    torch.testing.assert_close(last.logits[:, -1], whole, rtol=0, atol=1e-5)


def test_where_an_activation_stands_between_the_members_none_is_offered() -> None:
    """OPT's block applies it itself: a map behind it would not be one of the input."""
    parent, anatomy = read_parent("opt")
    offered = {str(choice) for choice in anatomy.choices if "linear" in str(choice)}
    assert offered == {f"attention.{layer}:form=linear" for layer in range(4)}
    with pytest.raises(ArchitectureError, match=r"mlp\.1:form=linear: block 1 of opt cannot have it"):
        prune(parent, architecture_of(WORDS[1]), anatomy=anatomy)
