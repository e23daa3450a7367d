"""What parts are by what they do, against what is known of each family."""

import pytest
from families import build as build_plain
from families import filled
from other_families import READ, SUMS

from nas.families.tiny_config import build_tiny_config
from nas.families.trials import build_tiny_model
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent

# By hand, from the papers: what mixes tokens in each block, and what follows.
KNOWN = {
    "llama": ["attention mlp"] * 4,
    "bert": ["attention mlp"] * 4,
    "vit": ["attention mlp"] * 4,
    "deepseek_v3": ["attention mlp", *["attention moe"] * 3],
    "gpt_oss": ["attention moe"] * 4,
    "lfm2": ["convolution mlp", "attention mlp"] * 2,
    "qwen3_next": [*["linear_attention moe"] * 3, "attention moe"],
    "bamba": ["state_space mlp", "attention mlp"] * 2,
    "falcon_h1": ["state_space+attention mlp"] * 4,
    "mamba2": ["state_space"] * 4,
    "nemotron_h": ["state_space", "mlp", "attention", "moe"],
    "jamba": ["state_space mlp", "attention moe"] * 2,
}


@pytest.mark.parametrize("family", KNOWN)
def test_parts_are_named_by_what_they_do(family: str) -> None:
    if family in READ:
        model = filled(READ[family])
    else:
        model = filled(SUMS[family][0]) if family in SUMS else build_plain(family)
    anatomy = read_anatomy(model)
    assert [" ".join("+".join(part.natures) for part in block.parts.values()) for block in anatomy.blocks] == KNOWN[
        family
    ]


@pytest.mark.parametrize(
    ("family", "name", "nature"),
    [
        ("recurrent_gemma", "RecurrentGemmaForCausalLM", "recurrence"),  # an RG-LRU behind a short convolution
        ("lfm3", "Lfm3ForCausalLM", "convolution"),  # as long as the probe
        ("xlstm", "xLSTMForCausalLM", "linear_attention"),
    ],
)
def test_what_mixes_tokens_first_is_told_apart(family: str, name: str, nature: str) -> None:
    anatomy = read_anatomy(build_tiny_model(name, build_tiny_config(family)))
    assert anatomy.blocks[0].attention.natures == (nature,)


def test_parts_are_counted_by_nature() -> None:
    anatomy = read_anatomy(filled(READ["qwen3_next"]))
    assert anatomy.count_natures() == {"linear_attention": 3, "attention": 1, "moe": 4}
    smaller = drop_from_parent(4, {Unit(0, Kind.ATTENTION), Unit(3, Kind.MLP), Unit(1, Kind.BLOCK)})
    assert anatomy.count_natures(smaller) == {"linear_attention": 1, "attention": 1, "moe": 2}
