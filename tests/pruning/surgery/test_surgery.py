"""A pruned model computes what the parent computes with those contributions zeroed; nothing is left of them."""

import itertools
import random
from functools import cache

import pytest
import torch
from families import FAMILIES, build, example, mark_rest_slow
from torch import nn

from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.contribution import Layout
from pruning.surgery.prune import prune
from search_spaces import STRUCTURE, Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import ArchitectureError

# The independent truth: where each family adds to the residual stream, written by hand.
# (attention output, its last module before the residual), (MLP output likewise), and the block list.
BY_HAND = {
    "llama": ("model.layers", "self_attn", "mlp"),
    "gemma2": ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gpt2": ("transformer.h", "attn", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention", "mlp"),
    "opt": ("model.decoder.layers", "self_attn", "fc2"),
    "bert": ("bert.encoder.layer", "attention.output.dense", "output.dense"),
    "roberta": ("encoder.layer", "attention.output.dense", "output.dense"),
    "distilbert": ("distilbert.transformer.layer", "attention", "ffn"),
    "vit": ("vit.layers", "attention", "mlp"),
    "dinov2": ("encoder.layer", "layer_scale1", "layer_scale2"),
    "clip": ("encoder.layers", "self_attn", "mlp"),
    "llava": ("model.language_model.layers", "self_attn", "mlp"),
}
ALIASES = dict.fromkeys(("mistral", "qwen2", "qwen3", "phi3", "mixtral", "phi"), "llama")
ALIASES |= {"gemma3": "gemma2", "electra": "roberta", "siglip": "clip", "qwen2_vl": "llava"}
PARALLEL, POST_NORM = {"gpt_neox", "phi"}, {"bert", "roberta", "distilbert", "electra"}


@pytest.fixture(scope="module")
def parents():
    return cache(build)


def outputs(model: nn.Module, inputs: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def zeroed(model: nn.Module, family: str, architecture: Architecture, inputs: dict) -> torch.Tensor:
    """The parent's output with hooks that zero the dropped contributions and pass removed blocks by."""
    stack, attention, mlp = BY_HAND[ALIASES.get(family, family)]
    handles = []
    for layer, block in enumerate(model.get_submodule(stack)):
        if layer in architecture.list_removed_blocks():
            handles.append(block.register_forward_hook(lambda _, args, out: args[0]))
            continue
        for kind, path in ((Kind.ATTENTION, attention), (Kind.MLP, mlp)):
            if not architecture.keeps(layer, kind):
                handles.append(block.get_submodule(path).register_forward_hook(zero))
    try:
        return outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def zero(module: nn.Module, args: tuple, output):
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def patterns(depth: int = 4) -> list[Architecture]:
    """Every single unit, pairs, all attention, all MLP, blocks, and random mixtures."""
    kinds = list(STRUCTURE)
    units = [Unit(layer, kind) for layer in range(depth) for kind in kinds]
    chosen = [{unit} for unit in units]
    chosen += [{Unit(layer, kind) for layer in range(depth)} for kind in (Kind.ATTENTION, Kind.MLP)]
    chosen += [set(pair) for pair in itertools.islice(itertools.combinations(units, 2), 0, None, 5)]
    rng = random.Random(0)
    chosen += [set(rng.sample(units, rng.randint(3, 6))) for _ in range(10)]
    architectures = [drop_from_parent(depth, units) for units in chosen]
    return [a for a in architectures if any(a.keeps(i, k) for i in range(depth) for k in (Kind.ATTENTION, Kind.MLP))]


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_pruned_equals_the_parent_with_the_contribution_zeroed(family: str, parents) -> None:
    parent = parents(family)
    anatomy, inputs = read_anatomy(parent), example(parent)
    for architecture in patterns():
        expected = zeroed(parent, family, architecture, inputs)
        for share in (True, False):
            actual = outputs(prune(parent, architecture, anatomy=anatomy, share_weights=share), inputs)
            assert float((actual - expected).abs().max()) <= 1e-5, architecture.words


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_parents_are_pruned_alike(family: str) -> None:
    parent = build(family).to(torch.bfloat16)
    inputs = {name: v.bfloat16() if v.is_floating_point() else v for name, v in example(parent).items()}
    architecture = Architecture.from_words("mlp attn removed attn+mlp")
    assert torch.equal(outputs(prune(parent, architecture), inputs), zeroed(parent, family, architecture, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_layout_is_the_family_s(family: str, parents) -> None:
    layout = read_anatomy(parents(family)).layout
    expected = Layout.SANDWICH if family in ("gemma2", "gemma3") else Layout.PRE_NORM
    expected = Layout.PARALLEL if family in PARALLEL else expected
    assert layout == (Layout.POST_NORM if family in POST_NORM else expected)


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_dropped_parameters_are_gone_and_the_parent_is_untouched(family: str, parents) -> None:
    parent = parents(family)
    anatomy = read_anatomy(parent)
    before = {name: parameter.clone() for name, parameter in parent.named_parameters()}
    config = parent.config.to_dict()
    total = parent.num_parameters()
    for choice in anatomy.choices:
        pruned = prune(parent, Architecture.parent(4).drop(choice), anatomy=anatomy)
        fewer = anatomy.count_parameters(choice)
        assert total - pruned.num_parameters() == fewer, choice
        kept = any(choice.level.get_value(axis) is not None for axis in ("bits", "active", "window"))
        assert fewer > 0 or kept, choice  # fewer bits, fewer that run, or fewer tokens in sight
    everything = [Unit(layer, kind) for layer in (1, 2) for kind in (Kind.ATTENTION, Kind.MLP)]
    both = prune(parent, Architecture.parent(4).drop(*everything), anatomy=anatomy)
    blocks = sum(anatomy.count_parameters(Unit(layer, Kind.BLOCK)) for layer in (1, 2))
    kept_norms = 0 if anatomy.merges_blocks else 2 * 2 * 2 * anatomy.hidden_size
    assert total - both.num_parameters() == blocks - kept_norms
    after = dict(parent.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert parent.config.to_dict() == config


def test_shared_weights_are_the_parent_s_own(parents) -> None:
    parent = parents("llama")
    pruned = prune(parent, Architecture.parent(4).drop(Unit(1, Kind.MLP)), share_weights=True)
    own = {parameter.data_ptr() for parameter in parent.parameters()}
    assert all(parameter.data_ptr() in own for parameter in pruned.parameters())


def test_a_shared_norm_goes_with_its_last_user(parents) -> None:
    parent = parents("phi")
    attention, mlp = Unit(1, Kind.ATTENTION), Unit(1, Kind.MLP)
    one = prune(parent, Architecture.parent(4).drop(attention))
    assert list(one.model.layers[1].input_layernorm.parameters())
    two = prune(parent, Architecture.parent(4).drop(attention, mlp))
    assert len(two.model.layers) == 3


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        (lambda: Architecture.parent(5), "5 blocks and the parent 4"),
        (lambda: Architecture.parent(4).drop(*(Unit(layer, Kind.BLOCK) for layer in range(4))), "drops all 4"),
        (lambda: Architecture.parent(4).drop(Unit(7, Kind.MLP)), "out of range"),
    ],
)
def test_wrong_architectures_are_refused(architecture, says: str, parents) -> None:
    with pytest.raises(ArchitectureError, match=says):
        prune(parents("llama"), architecture())
