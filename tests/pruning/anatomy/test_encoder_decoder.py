"""Encoder-decoders: each stack is read, pruned, decoded and saved as a parent of its own."""

import itertools
import random

import pytest
import torch
from families import ENCODER_DECODERS, build, example, mark_rest_slow
from prefix_states import evaluate_through_store

from pruning import prune, read_anatomy
from pruning.analysis.redundancy import Redundancy, measure_redundancy
from pruning.anatomy.part import select_part
from pruning.checkpoint import load, load_parent, save
from search_spaces import Architecture, Choice, Kind, Unit
from search_spaces.errors import ArchitectureError, UnreadableModel, UsageError
from search_spaces.space import is_empty

PARTS = ("encoder", "decoder")
CASES = list(itertools.product(ENCODER_DECODERS, PARTS))
FAST = [("t5", "decoder"), ("bart", "encoder"), ("whisper", "decoder")]
# Where the output projections of a block's parts are, written by hand.
PROJECTIONS = {
    ("t5", "encoder"): ("encoder.block", "layer.0.SelfAttention.o", None, "layer.1.DenseReluDense.wo"),
    ("t5", "decoder"): (
        "decoder.block",
        "layer.0.SelfAttention.o",
        "layer.1.EncDecAttention.o",
        "layer.2.DenseReluDense.wo",
    ),
    **{
        (family, "encoder"): ("model.encoder.layers", "self_attn.out_proj", None, "fc2")
        for family in ENCODER_DECODERS[1:]
    },
    **{
        (family, "decoder"): ("model.decoder.layers", "self_attn.out_proj", "encoder_attn.out_proj", "fc2")
        for family in ENCODER_DECODERS[1:]
    },
}
PROJECTIONS |= {("umt5", part): PROJECTIONS["t5", part] for part in PARTS}
PROJECTIONS |= {
    ("bert2bert", "encoder"): ("encoder.encoder.layer", "attention.output.dense", None, "output.dense"),
    ("bert2bert", "decoder"): (
        "decoder.bert.encoder.layer",
        "attention.output.dense",
        "crossattention.output.dense",
        "output.dense",
    ),
}
KINDS = (Kind.ATTENTION, Kind.CROSS_ATTENTION, Kind.MLP)


def read(family, part):
    model = build(family)
    select_part(model, part)
    return model, read_anatomy(model)


def draw(anatomy, count=6, seed=0):
    """Every part of one kind dropped wherever it may be, then random architectures without removed post-norm blocks."""
    dropped = [choice for choice in anatomy.choices if str(choice) == str(choice.unit)]
    if not anatomy.merges_blocks:
        dropped = [choice for choice in dropped if choice.unit.kind is not Kind.BLOCK]
    sets = [[choice for choice in dropped if choice.unit.kind is kind] for kind in anatomy.parts]
    rng = random.Random(seed)
    sets += [rng.sample(dropped, rng.randint(1, len(dropped) - 1)) for _ in range(count)]
    made = [Architecture(anatomy.depth, frozenset(each)) for each in sets]
    return [anatomy.merge_blocks(each) for each in made if not is_empty(each)]


@torch.no_grad()
def run_with_hooks(model, place, architecture, inputs):
    """The intact model, in which the output projections of what is dropped give zeros."""
    stack, *paths = place
    handles = [
        block.get_submodule(path).register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        for layer, block in enumerate(model.get_submodule(stack))
        for kind, path in zip(KINDS, paths, strict=True)
        if path and architecture.drops(Unit(layer, kind))
    ]
    try:
        return model(**inputs, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("family", "part"), mark_rest_slow(PROJECTIONS, [*FAST, ("umt5", "encoder")]))
@torch.no_grad()
def test_a_pruned_stack_computes_what_the_intact_model_does_with_zeros(family, part):
    model, anatomy = read(family, part)
    inputs = example(model)
    whole = model(**inputs).logits
    for architecture in draw(anatomy):
        expected = run_with_hooks(model, PROJECTIONS[family, part], architecture, inputs)
        pruned = prune(model, architecture, anatomy=anatomy)
        torch.testing.assert_close(pruned(**inputs, use_cache=False).logits, expected, rtol=0, atol=2e-5)
        assert not torch.allclose(whole, expected, atol=1e-4)


@pytest.mark.parametrize(("family", "part"), mark_rest_slow(CASES, FAST))
@torch.no_grad()
def test_cached_decoding_is_that_without_a_cache(family, part):
    model, anatomy = read(family, part)
    inputs = example(model, tokens=10)
    target = inputs.pop("decoder_input_ids")
    for architecture in draw(anatomy, count=4, seed=1):
        pruned = prune(model, architecture, anatomy=anatomy)
        states = pruned.get_encoder()(**inputs)
        expected = pruned(encoder_outputs=states, decoder_input_ids=target, use_cache=False).logits
        output = pruned(encoder_outputs=states, decoder_input_ids=target[:, :3], use_cache=True)
        logits = [output.logits]
        for at in range(3, target.shape[1]):
            output = pruned(
                encoder_outputs=states,
                decoder_input_ids=target[:, at : at + 1],
                past_key_values=output.past_key_values,
                use_cache=True,
            )
            logits.append(output.logits)
        torch.testing.assert_close(torch.cat(logits, 1), expected, rtol=0, atol=2e-5)
        settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        for beams in (1, 3):
            with_cache, without = (
                pruned.generate(**inputs, **settings, num_beams=beams, use_cache=cached) for cached in (True, False)
            )
            assert torch.equal(with_cache, without)


@pytest.mark.parametrize(("family", "part"), mark_rest_slow(CASES, FAST))
@torch.no_grad()
def test_a_saved_stack_comes_back_and_generates_the_same(family, part, tmp_path):
    model, anatomy = read(family, part)
    inputs = example(model)
    source = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    mixed = [Unit(2, kind) for kind in anatomy.parts if kind is not Kind.ATTENTION]
    for name, units in {"block": [Unit(1, Kind.BLOCK)], "parts": [Unit(1, Kind.ATTENTION), *mixed]}.items():
        pruned = prune(model, Architecture.parent(anatomy.depth).drop(*units), anatomy=anatomy)
        save(pruned, tmp_path / name)
        again = load(tmp_path / name)
        assert torch.equal(again(**inputs).logits, pruned(**inputs).logits)
        assert again.num_parameters() == pruned.num_parameters()
        settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        assert torch.equal(again.generate(**source, **settings), pruned.generate(**source, **settings))


def test_a_decoder_without_whole_blocks_is_an_ordinary_folder(tmp_path):
    """The config of a T5 counts both stacks; a shorter encoder is ours, as the library's cache counts its blocks."""
    for part, kind in (("decoder", "t5"), ("encoder", "nas_t5")):
        model, anatomy = read("t5", part)
        save(prune(model, Architecture.parent(4).drop(Unit(2, Kind.BLOCK)), anatomy=anatomy), tmp_path / part)
        assert f'"model_type": "{kind}"' in (tmp_path / part / "config.json").read_text()
    plain = load_parent(tmp_path / "decoder")
    assert (len(plain.encoder.block), len(plain.decoder.block)) == (4, 3)
    assert not hasattr(plain.config, "nas_part")


def test_what_other_blocks_need_is_not_dropped():
    """The first attention of a T5 makes the position bias of all; BART has none."""
    for family, kept in (("t5", True), ("bart", False)):
        for part in PARTS:
            _, anatomy = read(family, part)
            offered = {choice.unit for choice in anatomy.choices}
            assert (Unit(0, Kind.ATTENTION) not in offered) is kept
            assert (Unit(0, Kind.BLOCK) not in offered) is kept
            assert {Unit(0, Kind.MLP), Unit(1, Kind.ATTENTION), Unit(1, Kind.BLOCK)} <= offered


def test_without_a_part_the_message_says_what_to_do():
    model = build("bart")
    del model.config.nas_part
    with pytest.raises(UnreadableModel, match="--part encoder or --part decoder"):
        read_anatomy(model)
    with pytest.raises(UsageError, match="none of encoder, decoder"):
        select_part(model, "middle")
    with pytest.raises(UsageError, match="one stack of blocks"):
        select_part(build("llama"), "decoder")


@pytest.mark.parametrize("part", PARTS)
def test_tokens_are_not_dropped(part):
    model, anatomy = read("bart", part)
    with pytest.raises(ArchitectureError, match=f"the {part} stack of a .* drops no tokens"):
        prune(model, Architecture.parent(anatomy.depth).drop(Choice.parse("tokens.1=0.5")), anatomy=anatomy)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_states_that_candidates_share_change_nothing(family):
    """A block that is skipped hands on the position bias as well."""
    for part in PARTS:
        model, anatomy = read(family, part)
        inputs = example(model)
        for architecture in draw(anatomy, count=3, seed=2):
            expected, resumed, skipped = evaluate_through_store(model, anatomy, architecture, inputs)
            assert torch.equal(resumed, expected)
            assert skipped


@pytest.mark.parametrize(("family", "part"), CASES)
@torch.no_grad()
def test_similarities_are_those_of_the_stream_before_and_after_each_part(family, part):
    model, anatomy = read(family, part)
    inputs = example(model)
    inputs |= {"decoder_attention_mask": torch.ones_like(inputs["decoder_input_ids"])}
    if part == "decoder":
        inputs["decoder_attention_mask"][0, 5:] = 0
    measured = measure_redundancy(model, [inputs], anatomy)
    assert measured.kinds == (*anatomy.parts, Kind.BLOCK)
    assert Redundancy.from_json(measured.to_json()) == measured
    expected = compute_similarities(model, PROJECTIONS[family, part], anatomy, inputs, part)
    for kind, scores in expected.items():
        torch.testing.assert_close(torch.tensor(measured.get_scores(kind)), scores, rtol=0, atol=1e-5)


def compute_similarities(model, place, anatomy, inputs, part):
    """From recorded streams: what a part adds is what its projection gives; post-norm has the norm behind it."""
    stack, *paths = place
    blocks = model.get_submodule(stack)
    entries, added, handles = {}, {}, []
    for layer, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(lambda m, args, layer=layer: entries.update({layer: args[0]})))
        for kind, path in zip(KINDS, paths, strict=True):
            if path:
                handles.append(
                    block.get_submodule(path).register_forward_hook(
                        lambda m, args, output, key=(layer, kind): added.update({key: output})
                    )
                )
    model(**inputs)
    for handle in handles:
        handle.remove()
    keep = inputs["decoder_attention_mask"].bool() if part == "decoder" else torch.ones(entries[0].shape[:2]).bool()
    scores = {kind: torch.zeros(len(blocks)) for kind in anatomy.parts}
    for layer, block in enumerate(blocks):
        stream = entries[layer]
        for kind in anatomy.parts:
            after = stream + added[layer, kind]
            closes = anatomy.blocks[layer].get_contribution(kind).closes
            after = block.get_submodule(closes)(after) if closes else after
            scores[kind][layer] = torch.nn.functional.cosine_similarity(stream[keep], after[keep], dim=-1).mean()
            stream = after
    return scores
