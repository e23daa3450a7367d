"""The survivors that are read out are those with most attention, and the ones whose states reach the output."""

import pytest
import torch
from families import IMAGE_ID, build, example

from pruning.anatomy.anatomy import read_anatomy
from pruning.reduction.kept_tokens import find_survivors
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Positions, Reduction, Schedule, Scorer, Unit


def reduced(model, text: str, scorer: Scorer, *removed: Unit):
    schedule = Schedule.parse(text, Reduction(scorer, positions=Positions.KEPT))
    return prune(model, Architecture.parent(4).drop(*removed).replace_tokens(schedule))


@torch.no_grad()
def attention(model, inputs: dict, layer: int, asks: int) -> torch.Tensor:
    """(B, N), what each token of the parent receives at a block."""
    model.set_attn_implementation("eager")
    return model(**inputs, output_attentions=True).attentions[layer].mean(1)[:, asks]


def chosen(weights: torch.Tensor, keep: int) -> torch.Tensor:
    return torch.stack([row >= row.sort(descending=True).values[keep - 1] for row in weights])


def test_patches_with_most_attention_of_the_class_token_are_left() -> None:
    model = build("vit")
    inputs = example(model, batch=3)
    first, second = find_survivors(reduced(model, "1=0.5,3=0.25", Scorer.CLASS), inputs)
    weights = attention(model, inputs, 1, 0)[:, 1:]  # of 9 patches int(4.5) and int(2.25) stay
    assert torch.equal(first.kept, chosen(weights, 4))
    assert (first.stage.block, second.stage.block) == (1, 3)
    assert second.kept.sum(1).tolist() == [2, 2, 2]
    assert not (second.kept & ~first.kept).any()


def test_image_tokens_of_two_images_and_padding() -> None:
    model = build("llava")
    inputs = example(model, images=2)
    inputs["input_ids"] = torch.cat([torch.zeros(2, 2, dtype=torch.long), inputs["input_ids"]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][:, :2] = 0
    (only,) = find_survivors(reduced(model, "2=0.5", Scorer.LAST), inputs)
    image = inputs["input_ids"] == IMAGE_ID
    weights = attention(model, inputs, 2, -1)[image].reshape(2, 18)
    assert torch.equal(only.kept, chosen(weights, 9))


def test_a_stage_of_a_removed_block_is_read_at_the_next_one() -> None:
    model = build("vit")
    assert read_anatomy(model).merges_blocks
    found = find_survivors(reduced(model, "1=0.5", Scorer.RANDOM, Unit(1, Kind.BLOCK)), example(model))
    assert [stage.kept.sum(1).tolist() for stage in found] == [[4, 4]]


def test_too_few_tokens_to_drop_all_stay() -> None:
    model = build("llama")
    (only,) = find_survivors(reduced(model, "1=0.5", Scorer.LAST), example(model, tokens=4 + 1 + 32))
    assert only.kept.tolist() == [[True], [True]]


def test_the_model_is_left_as_it_was_and_others_have_none() -> None:
    model = build("vit")
    less = reduced(model, "1=0.5", Scorer.CLASS)
    before = [len(module._forward_hooks) for module in less.modules()]
    find_survivors(less, example(model))
    assert [len(module._forward_hooks) for module in less.modules()] == before
    assert find_survivors(model, example(model)) == ()


@pytest.mark.parametrize("family", ["vit", "llava"])
def test_what_is_not_among_them_does_not_matter_any_more(family: str) -> None:
    """Noise on a dropped token's state before the stage changes nothing; on a survivor's it does."""
    model = build(family)
    inputs = example(model, batch=1)
    less = reduced(model, "3=0.5", Scorer.NORM)
    kept = find_survivors(less, inputs)[0].kept[0]
    indices = (inputs["input_ids"][0] == IMAGE_ID).nonzero().flatten() if family == "llava" else torch.arange(1, 10)
    block = less.get_submodule(read_anatomy(model).stack)[2]

    def last(noisy: int | None) -> torch.Tensor:
        def turn(module, args, output):
            states = (output[0] if isinstance(output, tuple) else output).clone()
            if noisy is not None:
                states[0, noisy] = states[0, noisy].flip(-1)  # another state of the same norm
            return (states, *output[1:]) if isinstance(output, tuple) else states

        handle = block.register_forward_hook(turn)
        with torch.no_grad():
            logits = less(**inputs).logits
        handle.remove()
        return logits if logits.ndim == 2 else logits[:, -1]

    usual = last(None)
    changes = torch.tensor([float((last(int(index)) - usual).abs().max()) for index in indices])
    assert (changes[~kept] < 1e-6).all()
    assert (changes[kept] > 1e-4).all()
