"""Presets compute what was published: hooks on a model against the method written out on its weights."""

from functools import cache
from typing import Any

import published
import pytest
import sized
import torch
from families import IMAGE_ID
from test_merge import merged_by_hand
from test_recycle import recycled_by_hand

from pruning.surgery.prune import prune
from search_spaces import Architecture, Positions, Reducer, Reduction, Schedule, Scorer, Source
from search_spaces.errors import ArchitectureError, BadData
from search_spaces.presets import build_fastv, build_pyramiddrop, build_tome, build_visionzip, parse_preset

torch.set_num_threads(1)
STAGES = {1: 0.5, 2: 0.25, 3: 0.125}


@cache
def llava() -> Any:
    return sized.llava()


@cache
def vit() -> Any:
    return sized.vit()


def reduced(model: Any, schedule: Schedule) -> Any:
    return prune(model, Architecture(4).replace_tokens(schedule))


def language(model: Any) -> published.Llama:
    return published.Llama(published.weights_of(model, "model.language_model."), model.lm_head.weight)


def embedded(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, N, H) with the projected images in their places, and which tokens are of an image."""
    image = inputs["input_ids"] == IMAGE_ID
    states = language(model).embed(inputs["input_ids"]).clone()
    states[image] = projected(model, inputs["pixel_values"]).flatten(0, 1)
    return states, image


def tower(model: Any) -> published.Encoder:
    return published.Encoder(published.weights_of(model, "model.vision_tower.encoder."), published.CLIP, 2, 1e-5)


def seen(model: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """States (37, 16) of one image that enter each block of the tower."""
    w = published.weights_of(model, "model.vision_tower.")
    patches = torch.nn.functional.conv2d(pixels[None], w["embeddings.patch_embedding.weight"], stride=4)[0]
    x = torch.cat([w["embeddings.class_embedding"][None], patches.flatten(1).T])
    x = x + w["embeddings.position_embedding.weight"]
    x = torch.nn.functional.layer_norm(x, (16,), w["pre_layrnorm.weight"], w["pre_layrnorm.bias"], 1e-5)
    states = [x]
    for block in range(4):
        states.append(tower(model).block(block, states[-1], torch.ones(37)))
    return states


def projected(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    w = published.weights_of(model, "model.multi_modal_projector.")
    patches = torch.stack([seen(model, image)[3][1:] for image in pixels])  # what the third of four blocks gives
    inner = torch.nn.functional.gelu(patches @ w["linear_1.weight"].T + w["linear_1.bias"])
    return inner @ w["linear_2.weight"].T + w["linear_2.bias"]


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_what_is_written_out_is_the_model() -> None:
    """Without any schedule, so that the other tests compare reductions and nothing else."""
    inputs = sized.prompt(2, 7, images=2)
    states, image = embedded(llava(), inputs)
    dense = llava()(**inputs).logits
    for row in range(2):
        close(dense[row], published.pyramiddrop(language(llava()), states[row], image[row], {})[0])


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 2])
def test_pyramiddrop(images: int) -> None:
    inputs = sized.prompt(3, 7, images)
    states, image = embedded(llava(), inputs)
    model = reduced(llava(), build_pyramiddrop(4))
    logits = model(**inputs).logits
    for row in range(3):
        expected, _ = published.pyramiddrop(language(llava()), states[row], image[row], STAGES)
        assert len(expected) == images + 7 + 36 * images // 8
        close(logits[row], expected)


@torch.no_grad()
def test_pyramiddrop_decodes_on_the_caches_that_the_prompt_left() -> None:
    """The first word asks which tokens stay; later words see the same ones, numbered on in each stage."""
    inputs = sized.prompt(2, 5)
    model = reduced(llava(), build_pyramiddrop(4))
    answer = torch.randint(8, 96, (2, 4), generator=torch.Generator().manual_seed(0))
    found = model(**inputs, use_cache=True)
    past, length = found.past_key_values, inputs["input_ids"].shape[1]
    for step in range(4):
        given = {"input_ids": answer[:, step : step + 1]}
        given["attention_mask"] = torch.ones(2, length + step + 1, dtype=torch.long)
        found = model(**given, past_key_values=past, use_cache=True)
        states, image = embedded(llava(), inputs)
        for row in range(2):
            said = language(llava()).embed(answer[row, : step + 1])
            whole = torch.cat([states[row], said])
            droppable = torch.cat([image[row], torch.zeros(step + 1, dtype=torch.bool)])
            expected, _ = published.pyramiddrop(language(llava()), whole, droppable, STAGES, [length - 1])
            close(found.logits[row, -1], expected[-1])


@torch.no_grad()
@pytest.mark.parametrize("after", [1, 2])
def test_fastv(after: int) -> None:
    inputs = sized.prompt(3, 7)
    states, image = embedded(llava(), inputs)
    logits = reduced(llava(), build_fastv(after, 0.5))(**inputs).logits
    for row in range(3):
        expected, _ = published.fastv(language(llava()), states[row], image[row], {after: 0.5})
        assert len(expected) == 8 + 18
        close(logits[row], expected)


@torch.no_grad()
def test_a_decoders_prompt_loses_words_between_its_sinks_and_what_is_recent() -> None:
    from families import build

    model = build("llama")
    ids = torch.randint(3, 96, (2, 60), generator=torch.Generator().manual_seed(3))
    droppable = (torch.arange(60) >= 4) & (torch.arange(60) < 60 - 32)
    llama = published.Llama(published.weights_of(model, "model."), model.lm_head.weight)
    logits = reduced(model, parse_preset("pyramiddrop:1=0.5,3=0.25", 4, causal=True))(input_ids=ids).logits
    for row in range(2):
        expected, _ = published.pyramiddrop(llama, llama.embed(ids[row]), droppable, {1: 0.5, 3: 0.25})
        close(logits[row], expected)


def tome_by_hand(model: Any, pixels: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """Class logits of one image: after each block its keys, averaged over heads, say which tokens merge."""
    w = published.weights_of(model, "vit.")
    encoder = published.Encoder(w, published.VIT, 4, 1e-12)
    weight, bias = (w[f"embeddings.patch_embeddings.projection.{name}"] for name in ("weight", "bias"))
    patches = torch.nn.functional.conv2d(pixels[None], weight, bias, stride=4)[0].flatten(1).T
    x = torch.cat([w["embeddings.cls_token"][0], patches]) + w["embeddings.position_embeddings"][0]
    sizes, keys = torch.ones(37), torch.zeros(37, 8)
    for block in range(4):
        for stage in schedule.stages:
            if stage.block == block:
                x, sizes = merged_with_sizes(x, keys, sizes, stage.count_kept(36))
        keys = encoder.split(block, "k", x).mean(0)
        x = encoder.block(block, x, sizes)
    return encoder.norm("layernorm", x)[0] @ model.classifier.weight.T + model.classifier.bias


def merged_with_sizes(
    x: torch.Tensor, keys: torch.Tensor, sizes: torch.Tensor, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = merged_by_hand(x, keys, 1, keep, sizes.tolist())
    return torch.stack([t["state"] for t in tokens]), torch.tensor([t["size"] for t in tokens])


@torch.no_grad()
@pytest.mark.parametrize("text", ["tome", "tome:0.1", "tome:0.5"])
def test_tome(text: str) -> None:
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(5))
    schedule = parse_preset(text, 4, causal=False)
    assert len(build_tome(4).stages) == 3
    logits = reduced(vit(), schedule)(pixel_values=pixels).logits
    for row in range(3):
        close(logits[row], tome_by_hand(vit(), pixels[row], schedule))


@torch.no_grad()
def test_visionzip() -> None:
    """18 of 36: the 16 that the class token attends to most, 2 means of the others, numbered anew."""
    inputs = sized.prompt(3, 7)
    states, image = embedded(llava(), inputs)
    logits = reduced(llava(), build_visionzip(0.5))(**inputs).logits
    for row in range(3):
        entering = seen(llava(), inputs["pixel_values"][row])[2]  # the third of four blocks is the last but one
        attention = tower(llava()).attention(2, entering, torch.ones(37)).mean(0)[0, 1:]
        keys = tower(llava()).split(2, "k", entering).mean(0)[1:]
        dominant = attention.topk(16).indices.tolist()
        first = int(image[row].nonzero()[0])
        groups = recycled_by_hand(states[row, image[row]], keys, dominant, 2)
        shorter = torch.stack([states[row, first:][group].mean(0) for group in groups.values()])
        whole = torch.cat([states[row, :first], shorter, states[row, first + 36 :]])
        expected, _ = published.pyramiddrop(language(llava()), whole, torch.zeros(len(whole)).bool(), {})
        close(logits[row], expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["random", "keys", "norm"])
def test_controls_leave_as_many_tokens(name: str) -> None:
    inputs = sized.prompt(2, 7)
    logits = reduced(llava(), parse_preset(name, 4, causal=True))(**inputs).logits
    ranked = reduced(llava(), build_pyramiddrop(4))(**inputs).logits
    assert logits.shape == ranked.shape
    assert not torch.allclose(logits, ranked, atol=1e-3)


@torch.no_grad()
def test_several_stages_ranked_by_the_blocks_that_just_ran() -> None:
    """FastV's ranking at PyramidDrop's stages: a later stage ranks what the block before it worked on."""
    inputs = sized.prompt(2, 7)
    states, image = embedded(llava(), inputs)
    schedule = Schedule.parse("1=0.5,2=0.25,3=0.125", build_fastv().reduction)
    logits = reduced(llava(), schedule)(**inputs).logits
    for row in range(2):
        expected, _ = published.fastv(language(llava()), states[row], image[row], STAGES)
        close(logits[row], expected)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("schedule", [build_pyramiddrop(4), build_visionzip(0.5)], ids=["pyramiddrop", "visionzip"])
def test_generation_encodes_images_beforehand_and_drops_their_tokens_all_the_same(
    schedule: Schedule, beams: int
) -> None:
    model, inputs = reduced(llava(), schedule), sized.prompt(2, 5, images=2)
    said = model.generate(
        **inputs, max_new_tokens=3, num_beams=beams, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    held = [layer.keys.shape[2] for layer in said.past_key_values.layers]
    assert held == [5 + 2 + 2 + int(72 * share) for share in schedule.compute_shares(4)]
    plain = model(**inputs).logits[:, -1]
    close(said.logits[0][::beams], plain)


def test_a_tower_is_asked_where_there_is_one() -> None:
    from families import build

    for family, message in (("llama", "no vision tower"), ("qwen2_vl", "no vision tower with a class token")):
        positions = Reduction(Scorer.CLASS, Reducer.RECYCLE, Positions.KEPT, Source.TOWER)
        with pytest.raises(ArchitectureError, match=message):
            reduced(build(family), Schedule.parse("0=0.5", positions))
    with pytest.raises(ArchitectureError, match="asked by its class token, not by last"):
        reduced(llava(), Schedule.parse("0=0.5", Reduction(Scorer.LAST, source=Source.TOWER)))


@torch.no_grad()
def test_a_tower_that_saw_other_images_does_not_rank() -> None:
    inputs = sized.prompt(2, 5)
    features = llava().model.get_image_features(inputs["pixel_values"])
    inputs.pop("pixel_values")
    with pytest.raises(BadData, match="saw 0 patches and a prompt has 36 image tokens"):
        reduced(llava(), build_visionzip(0.5))(**inputs, mm_encoder_outputs={"image": features})


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "dinov2", "clip", "siglip", "bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("reducer", [Reducer.MERGE, Reducer.RECYCLE])
def test_every_encoder_merges_and_recycles(family: str, reducer: Reducer) -> None:
    """Every output has its original length."""
    from families import build, example

    model = build(family)
    inputs = example(model)
    whole, cut = (one(**inputs)[0] for one in (model, reduced(model, joining("1=0.7,2=0.4", reducer))))
    assert whole.shape == cut.shape
    assert not torch.allclose(whole, cut, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("reducer", [Reducer.MERGE, Reducer.RECYCLE])
def test_padding_goes_first_and_has_no_weight(family: str, reducer: Reducer) -> None:
    """7 of 10 are left, and 7 are no padding: that row is what the dense model makes of it alone."""
    from families import build, example

    model = build(family)
    ids = example(model)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    small = reduced(model, joining("1=0.7", reducer))
    both = small(input_ids=ids, attention_mask=mask)[0]
    close(both[1, :8], model(input_ids=ids[1:, :8])[0][0])
    close(both[0], small(input_ids=ids)[0][0])


def joining(text: str, reducer: Reducer) -> Schedule:
    return Schedule.parse(text, Reduction(Scorer.KEYS, reducer, Positions.KEPT, Source.PREVIOUS))
