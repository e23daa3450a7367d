"""Vision-language models that drop image tokens: several images, padding on either side, numbers along three axes."""

from typing import Any

import pytest
import torch
from families import IMAGE_ID, build, example
from torch import Tensor

from pruning.anatomy.anatomy import read_anatomy
from pruning.reduction.hooks import BlockEntry
from pruning.surgery.prune import prune
from search_spaces import Architecture, Positions, Reduction, Schedule, Scorer
from search_spaces.errors import ArchitectureError, BadData

WORDS = 9


def reduced(model: Any, text: str = "1=0.5,3=0.25", **choices: Any) -> Any:
    return prune(model, Architecture(4).replace_tokens(Schedule.parse(text, Reduction(**choices))))


def places_of(model: Any, stack: str) -> dict[int, Tensor]:
    """Filled by the next pass that drops: for every block the indices of the tokens that it works on."""
    found: dict[int, Tensor] = {}
    for index, block in enumerate(model.get_submodule(stack)):
        entry = next((hook for hook in block._forward_pre_hooks.values() if isinstance(hook, BlockEntry)), None)
        if entry is not None:

            def note(_: Any, __: Any, ___: Any, index: int = index, entry: BlockEntry = entry) -> None:
                if entry.hooks.now is not None:
                    found[index] = entry.hooks.now.indices

            block.register_forward_hook(note)
    return found


@torch.no_grad()
def looking_past(model: Any, stack: str, indices: dict[int, Tensor], given: dict[str, Tensor]) -> Tensor:
    """Last logits of the parent, whose blocks are told not to look at the image tokens that are gone there."""
    ids, valid = given["input_ids"], given["attention_mask"].bool()
    handles = []
    for index, block in enumerate(model.get_submodule(stack)):
        kept = torch.ones_like(valid)
        if index in indices:
            width = given["prompt"]
            kept[:, :width] = torch.zeros_like(kept[:, :width]).scatter(1, indices[index], True)
        seen = (kept & valid)[:, None, None, :] & torch.ones(2, 1, *2 * ids.shape[1:], dtype=torch.bool).tril()
        seen = seen | torch.eye(ids.shape[1], dtype=torch.bool)

        def change(module: Any, args: Any, kwargs: Any, seen: Tensor = seen) -> Any:
            return args, {**kwargs, "attention_mask": seen}

        handles.append(block.register_forward_pre_hook(change, with_kwargs=True))
    logits = model(**{name: value for name, value in given.items() if name != "prompt"}, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits[:, -1]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@torch.no_grad()
def test_generation_is_that_of_the_parent_looking_past_the_dropped(family: str, images: int) -> None:
    """One row is padded on the left; every step of the truth computes everything anew."""
    model = build(family)
    stack = read_anatomy(model).stack
    small = reduced(model)
    given = example(model, 2, WORDS, images=images)
    padding = torch.full((2, 3), 7)
    given["input_ids"] = torch.cat((padding, given["input_ids"]), 1)
    mask = torch.ones_like(given["input_ids"])
    mask[1, :3] = 0
    given["attention_mask"] = mask
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = (given["input_ids"] == IMAGE_ID).int()
    indices = places_of(small, stack)
    settings = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [*range(8)], "pad_token_id": 0}
    out = small.generate(**given, output_logits=True, return_dict_in_generate=True, **settings)
    count, prompt = 9 * images, mask.shape[1]
    assert [indices[block].shape[1] for block in (1, 2, 3)] == [
        prompt - count + kept for kept in (count // 2, count // 2, count // 4)
    ]
    given["prompt"] = prompt
    for step, logits in enumerate(out.logits):
        if family == "llava":  # as generate numbers them; Qwen2-VL does so by itself
            given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        expected = looking_past(model, stack, indices, given)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-5)
        new = out.sequences[:, prompt + step : prompt + step + 1]
        given["input_ids"] = torch.cat((given["input_ids"], new), 1)
        given["attention_mask"] = torch.cat((given["attention_mask"], torch.ones_like(new)), 1)
        if "mm_token_type_ids" in given:
            given["mm_token_type_ids"] = (given["input_ids"] == IMAGE_ID).int()


@torch.no_grad()
def test_text_and_padding_on_the_right_always_stay() -> None:
    model = build("llava")
    stack = read_anatomy(model).stack
    small = reduced(model, scorer=Scorer.RANDOM)
    given = example(model, 2, WORDS)
    alone = small(**{name: tensor[:1] for name, tensor in given.items()}).logits
    padded = {
        name: torch.cat((given[name], torch.zeros(2, 4, dtype=torch.long)), 1)
        for name in ("input_ids", "attention_mask")
    }
    indices = places_of(small, stack)
    logits = small(**{**given, **padded}).logits
    assert logits.shape[1] == alone.shape[1] + 4
    torch.testing.assert_close(logits[0, :-4], alone[0], rtol=1e-4, atol=2e-5)
    text = (padded["input_ids"][0] != IMAGE_ID).nonzero().flatten()
    assert set(text.tolist()) <= set(indices[3][0].tolist())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="three axes"):
        reduced(build("qwen2_vl"), positions=Positions.COMPACTED)
    model = build("llava")
    small, given = reduced(model), example(model, 2, WORDS, images=2)
    ids = given["input_ids"]
    unlike = ids.clone()
    unlike[1, 1:10] = 50
    with pytest.raises(BadData, match="rows with 9 and 18 image tokens"):
        small(input_ids=unlike, pixel_values=given["pixel_values"][:3])
    with pytest.raises(BadData, match="pass input_ids"):
        small(inputs_embeds=model.get_input_embeddings()(ids), pixel_values=given["pixel_values"])


@torch.no_grad()
def test_a_prompt_without_images_loses_nothing() -> None:
    model = build("llava")
    words = torch.randint(10, 90, (2, 60), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reduced(model)(input_ids=words).logits, model(input_ids=words).logits)
