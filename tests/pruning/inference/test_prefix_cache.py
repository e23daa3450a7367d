"""Resumed passes against full ones: the same numbers, fewer blocks."""

import itertools
import random

import pytest
import torch
from families import FAMILIES, build, example, mark_rest_slow

from pruning.anatomy.anatomy import read_anatomy
from pruning.inference.prefix_cache import PrefixStore, list_prefixes, make_resumable
from pruning.surgery.prune import prune
from search_spaces import STRUCTURE, Architecture, Kind, Reduction, Scorer, Unit
from search_spaces.schedule import Source


def outputs(model, batches) -> list[torch.Tensor]:
    fixed = {"use_cache": False} if getattr(model.config, "use_cache", None) and model.can_generate() else {}
    with torch.inference_mode():
        return [model(**batch, **fixed)[0] for batch in batches]


def resumed(model, anatomy, architecture, store, batches) -> list[torch.Tensor]:
    candidate = prune(model, architecture, anatomy=anatomy, share_weights=True)
    merged = architecture.merge_blocks() if anatomy.merges_blocks else architecture
    make_resumable(candidate, anatomy, list_prefixes(merged), store)
    return outputs(candidate, batches)


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_resumed_equals_full_in_every_family(family: str) -> None:
    model = build(family)
    anatomy = read_anatomy(model)
    space = anatomy.build_space(tuple(STRUCTURE))
    batches = [example(model, seed=seed) for seed in (1, 2)]
    if "input_ids" in batches[0]:
        padded = torch.ones_like(batches[1]["input_ids"])
        padded[0, -3:] = 0
        batches[1]["attention_mask"] = padded
    store, rng = PrefixStore(), random.Random(0)
    for architecture in [space.parent, *(space.sample(rng, 0.3) for _ in range(8))]:
        plain = outputs(prune(model, architecture, anatomy=anatomy, share_weights=True), batches)
        again = resumed(model, anatomy, architecture, store, batches)
        for one, other in zip(plain, again, strict=True):
            assert torch.equal(one, other), architecture.words
    assert store.skipped > 0
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, batches), outputs(build(family), batches), strict=True))


SOURCES = list(itertools.product(["llama", "gpt2", "bert", "vit"], [Source.NEXT, Source.PREVIOUS]))
SOURCES_FAST = [("llama", Source.NEXT), ("gpt2", Source.PREVIOUS), ("bert", Source.PREVIOUS), ("vit", Source.NEXT)]


@pytest.mark.parametrize(("family", "source"), mark_rest_slow(SOURCES, SOURCES_FAST))
def test_candidates_with_fewer_tokens_resume_before_their_first_stage(family: str, source: Source) -> None:
    model = build(family)
    anatomy = read_anatomy(model)
    space = anatomy.build_space(tuple(STRUCTURE))
    space = space.allow_tokens(Reduction(Scorer.MEAN, source=source), (1, 2, 3), (0.5, 0.25))
    batches = [example(model, tokens=48, seed=seed) for seed in (1, 2)]
    store, rng = PrefixStore(), random.Random(0)
    resumed(model, anatomy, space.parent, store, batches)
    for architecture in (space.sample(rng, 0.2) for _ in range(12)):
        plain = outputs(prune(model, architecture, anatomy=anatomy, share_weights=True), batches)
        before = store.skipped
        again = resumed(model, anatomy, architecture, store, batches)
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True)), architecture.words
        indices = [stage.block for stage in architecture.tokens.stages]
        assert store.skipped - before <= 2 * min(indices, default=4)
    assert store.skipped > 0


def test_a_one_unit_sweep_runs_half_of_the_blocks() -> None:
    model = build("llama")
    anatomy, batches = read_anatomy(model), [example(model, seed=seed) for seed in (1, 2)]
    store, depth = PrefixStore(), read_anatomy(model).depth
    resumed(model, anatomy, Architecture.parent(depth), store, batches)
    assert (store.computed, store.skipped) == (2 * depth, 0)
    for layer in range(depth):
        resumed(model, anatomy, Architecture.parent(depth).drop(Unit(layer, Kind.MLP)), store, batches)
    below = sum(range(depth))  # blocks under the changed one, over all layers
    assert store.skipped == 2 * below
    # The parent again, from its last block on.
    resumed(model, anatomy, Architecture.parent(depth), store, batches)
    assert store.skipped == 2 * (below + depth)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 2.0])
def test_the_store_keeps_to_its_size_and_never_changes_a_result(share: float) -> None:
    model = build("gpt2")
    anatomy, batches = read_anatomy(model), [example(model, seed=seed) for seed in range(3)]
    everything = PrefixStore()
    resumed(model, anatomy, Architecture.parent(anatomy.depth), everything, batches)
    store, rng = PrefixStore(int(share * everything.nbytes)), random.Random(1)
    space = anatomy.build_space(tuple(STRUCTURE))
    for _ in range(12):
        architecture = space.sample(rng, 0.2)
        plain = outputs(prune(model, architecture, anatomy=anatomy, share_weights=True), batches)
        again = resumed(model, anatomy, architecture, store, batches)
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
        assert store.nbytes <= store.capacity
    assert (store.skipped > 0) == (share > 0)


def test_a_parent_too_large_for_the_store_still_helps() -> None:
    model = build("llama")
    anatomy, batches = read_anatomy(model), [example(model, seed=seed) for seed in range(4)]
    parent = Architecture.parent(anatomy.depth)
    everything = PrefixStore()
    resumed(model, anatomy, parent, everything, batches)
    store = PrefixStore(everything.nbytes // 2)
    for layer in reversed(range(anatomy.depth)):
        resumed(model, anatomy, parent, store, batches)
        before = store.skipped
        resumed(model, anatomy, parent.drop(Unit(layer, Kind.ATTENTION)), store, batches)
        assert store.skipped - before >= 2 * layer  # two of four batches


def test_a_prefix_is_what_is_kept_so_far() -> None:
    one = Architecture.from_words("attn+mlp removed mlp attn+mlp")
    other = Architecture.from_words("attn+mlp removed mlp removed")
    assert list_prefixes(one)[:2] == list_prefixes(other)
    assert len(list_prefixes(one)) == 3
    assert (
        list_prefixes(Architecture.from_words("mlp attn"))[0] != list_prefixes(Architecture.from_words("attn attn"))[0]
    )
