"""Orders of channels on a parent's modules: found out on tokens that are no padding, and carried along."""

import copy
import pickle

import pytest
import torch
from families import build, example

from pruning.analysis import compute_orders_digest, copy_channel_orders, find_cut_modules, order_channels
from pruning.analysis.criteria import CRITERIA, ActivationNorm
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.surgery.channel_order import get_channel_order
from pruning.surgery.linear import get_weight_matrix


def list_orders(model, anatomy: Anatomy) -> list[list[int]]:
    cut = find_cut_modules(model, anatomy, anatomy.choices)
    orders = [get_channel_order(module) for module, _ in cut.values()]
    return [order.groups.tolist() for order in orders if order is not None]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_projections_are_ordered_by_what_they_are_given(criterion: str) -> None:
    model = build("bert")
    anatomy, inputs, seen = read_anatomy(model), example(model, batch=6), dict[str, torch.Tensor]()
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][:, -2:] = 0
    order_channels(model, anatomy, inputs, criterion)
    down = model.bert.encoder.layer[2].output.dense
    with torch.no_grad():
        handle = down.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
        model(**inputs)
        handle.remove()
    rows = seen["x"][inputs["attention_mask"].bool()]
    expected = CRITERIA[criterion].rank(rows, get_weight_matrix(down), 1)
    order = get_channel_order(down)
    assert order is not None
    assert order.groups.tolist() == expected.tolist()
    assert order.criterion == criterion


def test_inputs_too_wide_for_a_gram_matrix_are_ordered_by_their_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    anatomy = read_anatomy(model)
    monkeypatch.setattr("pruning.analysis.channel_orders.LARGEST_GRAM", 8)
    order_channels(model, anatomy, example(model))
    order = get_channel_order(model.model.layers[0].mlp.down_proj)
    assert order is not None
    assert order.criterion == ActivationNorm().name


def test_orders_go_with_copies_and_to_other_processes() -> None:
    model = build("gpt2")
    anatomy = read_anatomy(model)
    assert compute_orders_digest(model) == ""
    other = copy.deepcopy(model)
    order_channels(model, anatomy, example(model, batch=4))
    orders, digest = list_orders(model, anatomy), compute_orders_digest(model)
    assert len(orders) >= anatomy.depth
    copy_channel_orders(model, other)
    for each in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list_orders(each, anatomy) == orders
        assert compute_orders_digest(each) == digest
    order_channels(other, anatomy, example(model, batch=4, seed=9))
    assert compute_orders_digest(other) != digest
