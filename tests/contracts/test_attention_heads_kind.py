"""Fewer heads: the groups with the smallest weights are gone, or those that come last in a known order."""

import copy

import pytest
import torch
from families import build, example
from unit_kind import DEPTH, MATRICES, UnitKindContract, architecture_of, block_of, read_parent, run

from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET
from pruning.analysis.channel_orders import order_channels
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.channel_order import get_channel_order
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import ArchitectureError

SIZE = 8  # of a head, in all tiny families
GROUPS = {"llama": 2}  # of heads that share keys and values; of others each of four has its own
PROJECTIONS = {family: matrices[1] for family, matrices in MATRICES.items()} | {
    "qwen3": "self_attn.o_proj",
    "gpt_neox": "attention.dense",
}
WRITTEN = {  # the rows of each matrix that a group has, of so many groups, written by hand
    "llama": {"self_attn.q_proj": 2 * SIZE, "self_attn.k_proj": SIZE, "self_attn.v_proj": SIZE},
    "gpt2": {"attn.c_attn": None},
    "vit": {f"attention.{name}_proj": SIZE for name in "qkv"},
    "bert": {f"attention.self.{name}": SIZE for name in ("query", "key", "value")},
}


@torch.no_grad()
def find_smallest(block, family: str, count: int) -> list[int]:
    """The groups that go, one after another."""
    groups = GROUPS.get(family, 4)
    reads = get_weight_matrix(block.get_submodule(PROJECTIONS[family]))
    width = reads.shape[1] // groups
    sizes = []
    for group in range(groups):
        squares = 0.0
        for path, rows in WRITTEN[family].items():
            matrix = get_weight_matrix(block.get_submodule(path))
            starts = [group * rows] if rows else [section * 32 + group * SIZE for section in range(3)]
            squares += sum(float(matrix[start : start + (rows or SIZE)].pow(2).sum()) for start in starts)
        sizes.append(squares**0.5 * float(reads[:, group * width : (group + 1) * width].norm()))
    return sorted(range(groups), key=lambda group: sizes[group])[:count]


@torch.no_grad()
def silence_groups(block, family: str, groups: list[int]) -> None:
    reads = get_weight_matrix(block.get_submodule(PROJECTIONS[family]))
    width = reads.shape[1] // GROUPS.get(family, 4)
    for group in groups:
        reads[:, group * width : (group + 1) * width] = 0


class TestAttentionHeads(UnitKindContract):
    name = "attention-heads"
    choices = ("attention.1:heads=0.75", "attention.1:heads=0.5", "attention.1:heads=0.25")
    families = ("gpt2", "vit", "bert")
    exports = (("vit", ONNX_RUNTIME_OPSET),)
    more_exports = (("gpt2", TENSORRT_OPSET),)
    exported = ("attention.1:heads=0.5",)

    def mask(self, model, family, choice) -> None:
        block = block_of(model, family, choice)
        gone = round(4 * (1 - dict(choice.level.axes)["heads"] / 1000))
        silence_groups(block, family, find_smallest(block, family, gone))


def test_heads_that_share_keys_go_together() -> None:
    model, anatomy = read_parent("llama")
    assert [str(c) for c in anatomy.choices if "heads" in str(c) and c.layer == 1] == ["attention.1:heads=0.5"]
    pruned, masked = prune(model, architecture_of("attention.1:heads=0.5"), anatomy=anatomy), copy.deepcopy(model)
    block = masked.model.layers[1]
    silence_groups(block, "llama", find_smallest(block, "llama", 1))
    torch.testing.assert_close(run(pruned), run(masked), rtol=0, atol=1e-5)
    attention = pruned.model.layers[1].self_attn
    widths = [getattr(attention, f"{name}_proj").out_features for name in "qkv"]
    assert widths == [2 * SIZE, SIZE, SIZE]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gpt_neox", "vit", "bert"])
def test_heads_go_in_the_order_that_was_found_out(family: str) -> None:
    model = build(family)
    anatomy, blocks = read_anatomy(model), None
    order_channels(model, anatomy, example(model, batch=8))
    blocks = model.get_submodule(anatomy.stack)
    order = get_channel_order(blocks[2].get_submodule(PROJECTIONS[family]))
    assert order is not None
    groups = len(order.groups)
    assert groups == {"llama": 2, "qwen3": 2}.get(family, 4)
    masked = copy.deepcopy(model)
    silenced = get_weight_matrix(masked.get_submodule(anatomy.stack)[2].get_submodule(PROJECTIONS[family]))
    width = silenced.shape[1] // groups
    with torch.no_grad():
        for group in order.groups[groups // 2 :].tolist():
            silenced[:, group * width : (group + 1) * width] = 0
    pruned = prune(model, architecture_of("attention.2:heads=0.5"), anatomy=anatomy)
    torch.testing.assert_close(run(pruned), run(masked), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_decoding_with_unlike_heads_is_what_is_computed_at_once(family: str) -> None:
    model = build(family)
    anatomy = read_anatomy(model)
    names = ("attention.0:heads=0.5", "attention.2:heads=0.5", "mlp.1:width=0.5", "attention.3")
    pruned = prune(model, Architecture(DEPTH, frozenset(map(Choice.parse, names))), anatomy=anatomy)
    tokens = example(pruned)["input_ids"][:1, :6]
    decoded = pruned.generate(input_ids=tokens, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    for _ in range(5):
        with torch.no_grad():
            logits = pruned(input_ids=tokens, use_cache=False).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    assert decoded.tolist() == tokens.tolist()


@pytest.mark.parametrize("family", ["phi3"])
def test_attentions_that_would_compute_something_else_keep_their_heads(family: str) -> None:
    """Phi-3 takes the number of its queries from the config."""
    model = build(family)
    anatomy = read_anatomy(model)
    assert not any("heads" in str(choice) for choice in anatomy.choices)
    with pytest.raises(ArchitectureError, match=r"attention\.1:heads=0\.5: block 1 of .* cannot have it"):
        prune(model, architecture_of("attention.1:heads=0.5"), anatomy=anatomy)
