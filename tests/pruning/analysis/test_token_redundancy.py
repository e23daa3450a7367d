"""The streamed measures equal a slow computation from all attentions and hidden states, on every family."""

import json

import pytest
import torch
from families import DECODERS, ENCODERS, FAMILIES, IMAGE_ID, VISION_LANGUAGE, build, example, mark_rest_slow
from torch.nn.functional import cosine_similarity

from pruning.analysis.token_redundancy import MEASURES, TokenRedundancy, measure_token_redundancy
from search_spaces import Scorer
from search_spaces.errors import BadData

PROMPT, SINKS, RECENT = 48, 4, 32


def batches_of(family: str, model) -> list[dict]:
    """Two batches; text has padding: on the left of a decoder's second row, on the right of an encoder's."""
    tokens = PROMPT if family in DECODERS else 11
    batches = [example(model, tokens=tokens, seed=seed) for seed in (1, 2)]
    for batch in batches:
        if "input_ids" in batch:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if family in DECODERS:
        batches[0]["attention_mask"][1, :3] = 0
    if family in ENCODERS:
        batches[0]["attention_mask"][1, -3:] = 0
    return batches


def groups_by_hand(family: str, batch: dict, row: int, tokens: int) -> dict[str, list[int]]:
    """The indices of the tokens of one item."""
    valid = batch.get("attention_mask", torch.ones(row + 1, tokens))[row].nonzero().flatten().tolist()
    if family in VISION_LANGUAGE:
        image = (batch["input_ids"][row] == IMAGE_ID).tolist()
        return {
            "image tokens": [index for index in valid if image[index]],
            "text tokens": [index for index in valid if not image[index]],
        }
    if family in DECODERS:
        return {"prompt tokens": valid[SINKS:-RECENT]}
    if family in ENCODERS:
        return {"text tokens": valid[1:]}
    return {"patches": valid[-9:]}  # 3 x 3 of them, behind what else there is


def measures_by_hand(states: torch.Tensor, weights: torch.Tensor, indices: list[int]) -> dict[str, list[float]]:
    """Of one item and one group; states (N, H), weights (N,)."""

    def cosine(one: int, other: int) -> float:
        return float(cosine_similarity(states[one], states[other], dim=0))

    given = sorted((float(weights[index]) for index in indices), reverse=True)
    count = 0
    while sum(given[:count]) < 0.9 * sum(given) * (1 - 1e-7):
        count += 1
    return {
        "neighbour": [cosine(one, one + 1) for one in indices if one + 1 in indices],
        "nearest": [max(cosine(one, other) for other in indices if other != one) for one in indices],
        "mass": [sum(given)],
        "holding": [float(count)],
    }


@torch.no_grad()
def slow(family: str, model, batches: list[dict]) -> dict[str, dict[str, list[float]]]:
    """Group -> measure -> one mean per block, with eager attention that tells what it does."""
    model.set_attn_implementation("eager")
    found: dict[str, dict[str, list[list[float]]]] = {}
    for batch in batches:
        reported = model(**batch, output_attentions=True, output_hidden_states=True)
        for layer in range(4):
            states, attention = reported.hidden_states[layer], reported.attentions[layer].mean(1)
            for row, (item, weights) in enumerate(zip(states, attention, strict=True)):
                groups = groups_by_hand(family, batch, row, len(item))
                valid = batch["attention_mask"][row].nonzero().flatten() if "attention_mask" in batch else [0]
                asks = int(valid[-1]) if family in DECODERS + VISION_LANGUAGE else 0
                for group, indices in groups.items():
                    for measure, values in measures_by_hand(item, weights[asks], indices).items():
                        found.setdefault(group, {}).setdefault(measure, [[], [], [], []])[layer] += values
    return {
        group: {measure: [sum(values) / len(values) for values in layers] for measure, layers in measures.items()}
        for group, measures in found.items()
    }


@pytest.mark.parametrize("family", mark_rest_slow(family for family in FAMILIES if family != "siglip"))
def test_equal_to_looking_at_all_attentions(family: str) -> None:
    model = build(family)
    batches = batches_of(family, model)
    actual = measure_token_redundancy(model, batches)
    assert actual.query == ("last token" if family in DECODERS + VISION_LANGUAGE else "class token")
    expected = slow(family, model, batches)
    assert [group.name for group in actual.groups] == list(expected)
    for group in actual.groups:
        for measure in MEASURES:
            assert getattr(group, measure) == pytest.approx(expected[group.name][measure], abs=2e-5), measure


@torch.no_grad()
def test_without_a_class_token_the_mean_query_asks() -> None:
    model = build("siglip")
    batches = [example(model, seed=seed) for seed in (1, 2)]
    masses, heard = [[] for _ in range(4)], {}
    layers = [module for name, module in model.named_modules() if name.endswith("self_attn")]
    assert len(layers) == 4
    for layer in layers:
        for name in ("q_proj", "k_proj"):
            layer.get_submodule(name).register_forward_hook(
                lambda module, args, out, key=(layer, name): heard.__setitem__(key, out)
            )
    actual = measure_token_redundancy(model, batches)
    for batch in batches:
        model(**batch)
        for number, layer in enumerate(layers):
            query, key = (heard[layer, name].unflatten(-1, (4, 8)) for name in ("q_proj", "k_proj"))
            logits = torch.einsum("bhd,bnhd->bhn", query.mean(1), key) / 8**0.5
            masses[number].append(logits.softmax(-1).mean(1).sort(descending=True).values)
    assert actual.query == "mean of all tokens"
    assert actual.groups[0].mass == pytest.approx([1.0] * 4)  # there is nothing beside the patches
    needed = [((torch.cat(rows).cumsum(1) < 0.9).sum(1) + 1).float().mean().item() for rows in masses]
    assert actual.groups[0].holding == pytest.approx(needed)


@pytest.mark.parametrize("scorer", [Scorer.LAST, Scorer.MEAN])
def test_padding_changes_nothing(scorer: Scorer) -> None:
    model = build("llama")
    alone = example(model, batch=1, tokens=PROMPT)
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 5, dtype=torch.long), alone["input_ids"]], 1),
        "attention_mask": torch.tensor([[0] * 5 + [1] * PROMPT]),
        "position_ids": torch.tensor([[0] * 5 + list(range(PROMPT))]),
    }
    one, other = (measure_token_redundancy(model, [batch], scorer=scorer).groups[0] for batch in (alone, padded))
    assert one.tokens == other.tokens == PROMPT - SINKS - RECENT
    for measure in MEASURES:
        assert getattr(other, measure) == pytest.approx(getattr(one, measure), abs=1e-5)


def test_it_round_trips_and_leaves_the_model_as_it_was() -> None:
    model = build("vit")
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    found = measure_token_redundancy(model, [example(model)])
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before
    assert TokenRedundancy.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_cannot_be_measured_is_said() -> None:
    model = build("llama")
    with pytest.raises(BadData, match="2 items have 0 prompt tokens that may be dropped"):
        measure_token_redundancy(model, [example(model, tokens=SINKS + RECENT)])
    with pytest.raises(ValueError, match="scorer keys asks no token"):
        measure_token_redundancy(model, [], scorer=Scorer.KEYS)
