"""Memory against real models and by hand."""

import pytest
import torch
from families import build

from latency_models.footprint import compute_memory
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from nas.parent.shape import read_shape
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Architecture, Kind, Unit

SHAPE = ModelShape(2, 8, 2, 1, 4, 16, True, 10, True, True, 100, (None, 4))
PARENT = Architecture.parent(2)


def test_weights_and_cache_are_those_of_a_real_model() -> None:
    model = build("llama")
    shape = read_shape(model, read_anatomy(model))
    held = compute_memory(shape, Architecture.parent(shape.depth), Workload(Phase.DECODE, 2, 1, 6), "fp32")
    assert held.weights == pytest.approx(4 * model.num_parameters(), rel=0.02)  # norms are left out
    cache = model(input_ids=torch.ones((2, 7), dtype=torch.long), use_cache=True).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held.cache == real


def test_by_hand() -> None:
    # Weights: 100 outside the blocks; per attention 192 (Q and O 8x8, K and V 8x4); per MLP 3 x 8 x 16.
    # Cache: keys and values of 4 numbers for 11 tokens in block 0 and 4 (its window) in block 1.
    held = compute_memory(SHAPE, PARENT, Workload(Phase.DECODE, 1, 1, 10), "fp16")
    assert held.weights == 2 * (100 + 2 * 192 + 2 * 384)
    assert held.cache == 2 * 2 * 4 * (11 + 4)
    # Two residual streams of 8, and the widest part: attention 24 + 2 x 11 scores, MLP 32, head 10.
    assert held.activations == 2 * (16 + 46)
    assert held.total == held.weights + held.cache + held.activations


def test_a_dropped_attention_has_neither_weights_nor_cache() -> None:
    workload = Workload(Phase.DECODE, 1, 1, 10)
    whole, less = (compute_memory(SHAPE, a, workload, "int8") for a in (PARENT, PARENT.drop(Unit(0, Kind.ATTENTION))))
    assert whole.weights - less.weights == 192
    assert whole.cache - less.cache == 2 * 4 * 11
    bare = compute_memory(SHAPE, PARENT.drop(Unit(0, Kind.BLOCK), Unit(1, Kind.BLOCK)), workload, "int8")
    assert (bare.weights, bare.cache, bare.activations) == (100, 0, 16 + 10)


def test_forward_has_no_cache_and_every_expert_is_held() -> None:
    experts = ModelShape(1, 8, 2, 2, 4, 16, True, 0, True, True, 0, (None,), experts=8, active_experts=2)
    held = compute_memory(experts, Architecture.parent(1), Workload(Phase.FORWARD, 1, 3), "int8")
    assert held.cache == 0
    assert held.weights == 256 + 8 * 384
