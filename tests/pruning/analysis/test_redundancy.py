"""The streaming scores equal a naive computation that stores every tensor, on every family and layout."""

import json
import math

import pytest
import torch
from families import DECODERS, FAMILIES, VISION_LANGUAGE, build, example, mark_rest_slow
from torch.nn.functional import cosine_similarity

from pruning.analysis.redundancy import Redundancy, measure_redundancy
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import STRUCTURE, Kind, Unit
from search_spaces.errors import BadData

SANDWICH, PARALLEL = {"gemma2", "gemma3"}, {"gpt_neox", "phi"}
GENERATE = {*DECODERS, *VISION_LANGUAGE}
BERTS, DISTIL = {"bert", "roberta", "electra"}, {"distilbert"}
ATTENTIONS = {"gpt2": "attn", "gpt_neox": "attention", "vit": "attention", "dinov2": "layer_scale1"}
MLPS = {"opt": "fc2", "dinov2": "layer_scale2"}


def stored(model, family: str, batches: list[dict]) -> list[list[dict[str, torch.Tensor]]]:
    """Per batch and block: the stream in, after the attention, after the MLP alone, and out. Written by hand."""
    stack = model.get_submodule(read_anatomy(model).stack)
    kept: list[dict[str, torch.Tensor]] = [{} for _ in stack]

    def first(value):
        return (value[0] if isinstance(value, tuple) else value).detach().clone().flatten(0, -2)

    def keep(index: int, name: str):
        return lambda module, args, out: kept[index].__setitem__(name, first(out))

    def enter(index: int):
        def hook(module, args, kwargs):
            kept[index]["in"] = first(args[0] if args else kwargs["hidden_states"])

        return hook

    handles = []
    for index, block in enumerate(stack):
        handles.append(block.register_forward_pre_hook(enter(index), with_kwargs=True))
        handles.append(block.register_forward_hook(keep(index, "out")))
        attention, mlp = ATTENTIONS.get(family, "self_attn"), MLPS.get(family, "mlp")
        if family in SANDWICH:
            attention, mlp = "post_attention_layernorm", "post_feedforward_layernorm"
        if family in BERTS:
            attention, mlp = "attention.output", "output"
        if family in DISTIL:
            attention, mlp = "sa_layer_norm", "output_layer_norm"
        handles.append(block.get_submodule(attention).register_forward_hook(keep(index, "attention")))
        handles.append(block.get_submodule(mlp).register_forward_hook(keep(index, "mlp")))
    runs = []
    for batch in batches:
        with torch.no_grad():
            model(**batch)
        runs.append([dict(tensors) for tensors in kept])
    for handle in handles:
        handle.remove()
    return runs


def naive(model, family: str, batches: list[dict]) -> dict[str, list[float]]:
    totals = {"attention": [0.0] * 4, "mlp": [0.0] * 4, "block": [0.0] * 4}
    tokens = 0
    for batch, blocks in zip(batches, stored(model, family, batches), strict=True):
        mask = batch.get("attention_mask")
        for layer, seen in enumerate(blocks):
            keep = torch.ones(len(seen["in"]), dtype=torch.bool) if mask is None else mask.flatten().bool()
            x = seen["in"]
            after = seen["attention"] if family in BERTS | DISTIL else x + seen["attention"]
            pairs = {"attention": (x, after), "block": (x, seen["out"])}
            pairs["mlp"] = (x, x + seen["mlp"]) if family in PARALLEL else (after, seen["out"])
            for name, (one, other) in pairs.items():
                totals[name][layer] += float(cosine_similarity(one[keep], other[keep], dim=-1).double().sum())
        tokens += int(keep.sum())
    return {name: [value / tokens for value in values] for name, values in totals.items()}


def batches_of(model, padded: bool) -> list[dict]:
    batches = [example(model, batch=2, seed=seed) for seed in (1, 2, 3)]
    if padded:
        for batch in batches:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            batch["attention_mask"][0, :4] = 0
    return batches


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_equal_to_storing_everything(family: str) -> None:
    model = build(family)
    batches = batches_of(model, padded=model.main_input_name == "input_ids" and family not in GENERATE)
    expected, actual = naive(model, family, batches), measure_redundancy(model, batches)
    for kind in STRUCTURE:
        assert actual.get_scores(kind) == pytest.approx(expected[str(kind)], abs=1e-5), kind
    compare_table(model, family, batches, actual)


def test_left_padding_is_left_out() -> None:
    model = build("llama")
    batches = batches_of(model, padded=True)
    actual = measure_redundancy(model, batches)
    assert actual.tokens == 3 * (22 - 4)
    expected = naive(model, "llama", batches)
    assert actual.attention == pytest.approx(expected["attention"], abs=1e-5)


def compare_table(model, family: str, batches: list[dict], actual: Redundancy) -> None:
    masks = [batch.get("attention_mask") for batch in batches]
    runs = stored(model, family, batches)
    for first in range(4):
        for last in range(first, 5):
            cosines = []
            for run, mask in zip(runs, masks, strict=True):
                other = run[3]["out"] if last == 4 else run[last]["in"]
                cosine = cosine_similarity(run[first]["in"], other, dim=-1)
                cosines.append(cosine if mask is None else cosine[mask.flatten().bool()])
            assert actual.between[first][last] == pytest.approx(float(torch.cat(cosines).mean()), abs=1e-5)


def test_no_tokens_is_one_clear_error() -> None:
    with pytest.raises(BadData, match="0 tokens"):
        measure_redundancy(build("llama"), [])


def by_hand() -> Redundancy:
    between = ((1.0, 0.9, 0.5, 0.2), (0.9, 1.0, 0.6, 0.8), (0.5, 0.6, 1.0, 0.7), (0.2, 0.8, 0.7, 1.0))
    return Redundancy("llama", "pre_norm", 10, (0.7, 0.99, 0.9), (0.8, 0.9, 0.5), (0.9, 0.6, 0.7), between)


def test_it_round_trips() -> None:
    assert Redundancy.from_json(json.loads(json.dumps(by_hand().to_json()))) == by_hand()


def test_rankings_and_windows_worked_by_hand() -> None:
    redundancy = by_hand()
    assert redundancy.rank(Kind.ATTENTION) == tuple(Unit(layer, Kind.ATTENTION) for layer in (1, 2, 0))
    joint = redundancy.rank(Kind.ATTENTION, Kind.MLP)
    assert [str(unit) for unit in joint[:3]] == ["attention.1", "attention.2", "mlp.1"]
    # Two blocks: windows (0, 1) compare inputs 0 and 2: 0.5; windows (1, 2) compare 1 and 3: 0.8.
    assert redundancy.find_best_window(2) == (1, 2)
    assert redundancy.find_best_window(1) == (0,)
    assert redundancy.compute_angular_distance(0, 2) == pytest.approx(math.acos(0.5) / math.pi)
    with pytest.raises(ValueError, match="does not fit"):
        redundancy.find_best_window(4)
