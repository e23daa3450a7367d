"""A model that drops tokens comes back from its folder as it was: stages, rankers and all."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, example, mark_rest_slow

from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces import Architecture, Positions, Reducer, Reduction, Schedule, Scorer
from search_spaces.schedule import Source

TOKENS = 52


def outputs(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**example(model, 2, TOKENS))[0]


WORDS = (
    "attn+mlp attn+mlp attn+mlp attn+mlp",
    "attn+mlp mlp attn attn+mlp",  # the attention that ranks is dropped, its norm stays or goes
    "attn+mlp removed attn+mlp mlp",  # its block is removed
    "removed attn+mlp removed removed",  # one stage moves, one never acts
)
CASES = itertools.product(["llama", "gemma3", "gpt2", "gpt_neox", "phi3", "bert", "vit", "llava"], WORDS)
FAST = [
    *itertools.product(["llama"], WORDS),
    *itertools.product(["gemma3", "gpt2", "bert", "vit", "llava"], WORDS[1:2]),
]


@pytest.mark.parametrize(("family", "words"), mark_rest_slow(CASES, FAST))
def test_what_is_saved_is_what_was_pruned(family: str, words: str, tmp_path: Path) -> None:
    model = build(family)
    structure = Architecture.from_words(words)
    reduction = Reduction(Scorer.CLASS if family == "vit" else Scorer.LAST)
    pruned = prune(model, structure.replace_tokens(Schedule.parse("1=0.5,3=0.25", reduction)))
    save(pruned, tmp_path / "winner")
    again = load(tmp_path / "winner")
    assert torch.equal(outputs(again), outputs(pruned))
    assert again.config.nas_architecture == pruned.config.nas_architecture
    assert not torch.equal(outputs(pruned), outputs(prune(model, structure))) or "removed removed" in words


@pytest.mark.parametrize(
    ("family", "reduction"),
    [
        ("llama", Reduction(Scorer.KEYS, source=Source.PREVIOUS)),
        ("llama", Reduction(Scorer.RANDOM, positions=Positions.COMPACTED)),
        ("qwen3", Reduction(Scorer.MEAN, Reducer.RECYCLE)),
        ("bert", Reduction(Scorer.CLASS, Reducer.MERGE, source=Source.PREVIOUS)),
        ("llava", Reduction(Scorer.CLASS, source=Source.TOWER)),
    ],
)
def test_every_way_of_choosing_is_saved(family: str, reduction: Reduction, tmp_path: Path) -> None:
    stages = "0=0.5" if reduction.source is Source.TOWER else "2=0.5,3=0.25"
    architecture = Architecture.from_words("attn+mlp mlp removed mlp").replace_tokens(Schedule.parse(stages, reduction))
    pruned = prune(build(family), architecture)
    save(pruned, tmp_path / "winner")
    assert torch.equal(outputs(load(tmp_path / "winner")), outputs(pruned))


def test_a_dropped_attention_that_ranks_costs_its_queries_and_keys_only() -> None:
    model = build("llama")
    parts = Architecture.from_words("attn+mlp mlp attn+mlp attn+mlp")
    plain = prune(model, parts)
    for scorer, matrices in ((Scorer.LAST, 32 * 32 + 32 * 16), (Scorer.KEYS, 32 * 16), (Scorer.NORM, 0)):
        reduced = prune(model, parts.replace_tokens(Schedule.parse("1=0.5", Reduction(scorer))))
        norm = 32 if matrices else 0
        assert reduced.num_parameters() - plain.num_parameters() == matrices + norm
