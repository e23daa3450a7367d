"""Training with fewer tokens: loss and every gradient against the method written out on the weights."""

from typing import Any

import published
import pytest
import sized
import torch
from families import IMAGE_ID, build
from torch.nn import functional as F  # noqa: N812

from pruning.reduction.labels import mark_before_answers
from pruning.surgery.prune import prune
from search_spaces import Architecture, Schedule
from search_spaces.errors import BadData
from search_spaces.presets import build_fastv, build_pyramiddrop, parse_preset

torch.set_num_threads(1)
ANSWERS = (((40, 42), (80, 82), (85, 88)), ((79, 80),), ((81, 89),))  # from, to; the first one between two images
STAGES = {1: 0.5, 2: 0.25, 3: 0.125}


def supervised() -> dict[str, torch.Tensor]:
    """Three rows: twice three words and an image of 36 tokens, then 11 words; some words are answers."""
    inputs = sized.prompt(3, 11, images=2, between=3)
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, spans in enumerate(ANSWERS):
        for begin, end in spans:
            labels[row, begin:end] = inputs["input_ids"][row, begin:end]
    return {**inputs, "labels": labels}


def asking(row: int) -> list[int]:
    return [begin - 1 for begin, _ in ANSWERS[row]]


def loss_by_hand(model: Any, inputs: dict[str, torch.Tensor], preset: str) -> torch.Tensor:
    """Mean over all learned tokens of all rows; a token is predicted from the one before it that is left."""
    llama = published.Llama(published.weights_of(model, "model.language_model."), model.lm_head.weight)
    image = inputs["input_ids"] == IMAGE_ID
    with torch.no_grad():  # the tower and the projector are the library's own and are not reduced
        pictures = torch.cat(list(model.model.get_image_features(inputs["pixel_values"]).pooler_output))
    losses = []
    for row in range(3):
        x = llama.embed(inputs["input_ids"][row]).clone()
        x[image[row]] = pictures[72 * row : 72 * row + 72]
        if preset == "pyramiddrop":
            logits, left = published.pyramiddrop(llama, x, image[row], STAGES, asking(row))
        else:
            logits, left = published.fastv(llama, x, image[row], {2: 0.5}, asking(row))
        labels = inputs["labels"][row, left]
        learned = labels[1:] != -100
        losses.append(F.cross_entropy(logits[:-1][learned], labels[1:][learned], reduction="none"))
    return torch.cat(losses).mean()


def frozen_tower() -> Any:
    model = sized.llava()
    model.model.vision_tower.requires_grad_(False), model.model.multi_modal_projector.requires_grad_(False)
    return model


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("preset", ["pyramiddrop", "fastv"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_written_out(preset: str, checkpointing: bool) -> None:
    model, inputs = frozen_tower(), supervised()
    expected = loss_by_hand(model, inputs, preset)
    wanted = gradients(model, expected)
    schedule = build_pyramiddrop(4) if preset == "pyramiddrop" else build_fastv(2, 0.5)
    reduced = prune(model, Architecture(4).replace_tokens(schedule)).train()
    if checkpointing:
        reduced.gradient_checkpointing_enable({"use_reentrant": False})
    loss = reduced(**inputs, use_cache=False).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    found = gradients(reduced, loss)
    assert found.keys() == wanted.keys()
    assert "model.language_model.embed_tokens.weight" in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=2e-5, rtol=1e-4, msg=name)
        assert gradient.abs().max() > 0


def test_who_asks_changes_what_is_left() -> None:
    """Labels ask before the answers; without them the last token asks, which is not the same here."""
    model = prune(sized.llava(), Architecture(4).replace_tokens(build_pyramiddrop(4)))
    inputs = supervised()
    labels = inputs.pop("labels")
    with torch.no_grad():
        asked = model(**inputs, labels=labels).logits
        assert not torch.allclose(model(**inputs).logits, asked, atol=1e-3)
        begin = ANSWERS[1][0][0]
        prompt = {name: inputs[name][1:2, :begin] for name in ("input_ids", "attention_mask")}
        alone = model(**prompt, pixel_values=inputs["pixel_values"][2:4]).logits[0]  # what inference sees of row 1
    torch.testing.assert_close(asked[1, : len(alone)], alone, atol=2e-5, rtol=1e-4)


def test_a_row_without_an_answer_is_asked_by_its_last_token() -> None:
    model, inputs = prune(sized.llava(), Architecture(4).replace_tokens(build_pyramiddrop(4))), supervised()
    inputs["labels"][1] = -100
    with torch.no_grad():
        asked = model(**inputs).logits[1]
        inputs.pop("labels")
        plain = model(**inputs).logits[1]
    torch.testing.assert_close(asked, plain, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing() -> None:
    model, inputs = prune(sized.llava(), Architecture(4).replace_tokens(build_pyramiddrop(4))), supervised()
    plain = model(**inputs).loss
    padded = dict(inputs)
    for name, value in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        padded[name] = torch.cat([inputs[name], torch.full((3, 5), value)], dim=1)
    torch.testing.assert_close(model(**padded).loss, plain, atol=1e-5, rtol=1e-5)


def test_losses_of_accumulated_batches_and_shifted_labels_are_cut_along() -> None:
    model, inputs = prune(sized.llava(), Architecture(4).replace_tokens(build_pyramiddrop(4))), supervised()
    number = int((inputs["labels"] != -100).sum())
    plain = model(**inputs).loss
    torch.testing.assert_close(model(**inputs, num_items_in_batch=2 * number).loss, plain / 2)
    moved = torch.nn.functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
    learned = (moved != -100).sum()
    assert model(**inputs, shift_labels=moved).loss.isfinite()
    assert learned == number


def test_tokens_that_may_be_dropped_are_not_learned() -> None:
    model = prune(build("llama"), Architecture(4).replace_tokens(parse_preset("pyramiddrop", 4, causal=True)))
    ids = torch.randint(3, 96, (2, 50), generator=torch.Generator().manual_seed(3))
    with pytest.raises(BadData, match=r"token 4 of row 0 has the label .* may be dropped"):
        model(input_ids=ids, labels=ids)
    labels = ids.clone()
    labels[:, :18] = -100  # the last 32 always stay
    assert model(input_ids=ids, labels=labels).loss.isfinite()


def test_an_encoder_is_trained_on_all_its_tokens() -> None:
    """Its sequence has its length again after the last block, and so have its labels."""
    schedule = Schedule.parse("2=0.5")
    model = prune(build("bert"), Architecture(4).replace_tokens(schedule))
    ids = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(3))
    found = model(input_ids=ids, labels=ids)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits.flatten(0, 1), ids.flatten()))
    found.loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum(1)[ids].min() > 0


@pytest.mark.parametrize(
    ("labels", "indices"),
    [
        ([-100, -100, 5, 6, -100, 7], [1, 4]),
        ([5, 6, -100, -100], []),
        ([5, -100, 6], [1]),
        ([-100, -100, -100], []),
    ],
)
def test_answers_begin_where_labels_do(labels: list[int], indices: list[int]) -> None:
    assert mark_before_answers(torch.tensor([labels]))[0].nonzero().flatten().tolist() == indices
