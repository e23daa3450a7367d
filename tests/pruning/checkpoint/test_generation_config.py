"""What a parent's generation config asks for, a pruned model does or goes without; it does not break by it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, example, mark_rest_slow

from pruning.checkpoint import load, load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture

PARTS = Architecture.from_words("mlp attn+mlp removed attn")
BLOCKS = Architecture.from_words("attn+mlp removed attn+mlp attn+mlp")
STATIC = ("static", "hybrid", "sliding_window")
STEPS = 6


@torch.no_grad()
def greedy(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Written out, recomputing everything at every step."""
    for _ in range(STEPS):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids


def parent_with(folder: Path, family: str, **settings: Any) -> Any:
    build(family).save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return load_parent(folder)


CACHES = (
    *((PARTS, name) for name in (*STATIC, "offloaded_static", "offloaded", "quantized")),
    *((BLOCKS, name) for name in STATIC),
)
CASES = [(family, *case) for family in ("llama", "gemma3") for case in CACHES]
FAST = [*(("llama", *case) for case in CACHES), ("gemma3", PARTS, "static"), ("gemma3", BLOCKS, "static")]


@pytest.mark.parametrize(("family", "architecture", "cache"), mark_rest_slow(CASES, FAST))
def test_another_cache_that_is_asked_for(family: str, architecture: Architecture, cache: str, tmp_path: Path) -> None:
    parent = parent_with(tmp_path / "parent", family, cache_implementation=cache)
    ids = example(parent, tokens=6)["input_ids"]
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    pruned = prune(parent, architecture)
    expected = greedy(pruned, ids)
    assert torch.equal(pruned.generate(input_ids=ids, **settings), expected)
    save(pruned, tmp_path / "once")
    assert torch.equal(load(tmp_path / "once").generate(input_ids=ids, **settings), expected)
    assert parent.generation_config.cache_implementation == cache


@pytest.mark.parametrize("architecture", [PARTS, BLOCKS])
def test_one_that_the_library_would_not_save_is_saved(architecture: Architecture, tmp_path: Path) -> None:
    asked = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "cache_implementation": "static"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruned = prune(parent_with(tmp_path / "parent", "llama", **asked), architecture)
        save(pruned, tmp_path / "once")
        assert load(tmp_path / "once").generation_config.temperature == 0.6
