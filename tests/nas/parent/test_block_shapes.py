"""The shape of every block: arithmetic as torch counts it on the model itself, whatever a config calls things."""

import dataclasses
from typing import Any

import pytest
import torch
import transformers as hf
from families import FAMILIES
from families import build as build_known
from other_families import READ
from other_families import build as build_other
from torch.utils.flop_counter import FlopCounterMode

from latency_models.block_shape import AttentionShape, BlockShape, MlpShape
from latency_models.datasheet_model import DataSheetModel
from latency_models.footprint import compute_memory
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.terms import Terms
from latency_models.work import compute_unit_work, count_flops
from latency_models.workload import Phase, Workload
from nas.parent.block_shapes import run_plain_experts
from nas.parent.shape import read_shape
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Architecture, Kind, Unit

TOKENS = 48
RECURRENT = ("qwen3_5", "qwen3_next", "bamba")  # torch counts whole chunks of tokens, the shape a token's share
PARENT = Architecture.parent(4)


def sized(model: Any) -> ModelShape:
    return read_shape(model, read_anatomy(model))


def counted(model: Any, tokens: int, **more: Any) -> int:
    """Of the model with all pairs of tokens, as torch's counter knows no masks."""
    ids = torch.randint(3, 96, (1, tokens), generator=torch.Generator().manual_seed(0))
    model.set_attn_implementation("eager")
    with torch.no_grad(), run_plain_experts(model), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, **more)
    return counter.get_total_flops()


def message(shape: ModelShape, workload: Workload) -> float:
    everything = dataclasses.replace(shape, causal=False, window=(None,) * shape.depth)
    return count_flops(everything, PARENT, workload)


@pytest.mark.parametrize("family", [name for name in READ if name != "falcon, two norms"])
def test_arithmetic_is_what_torch_counts(family: str) -> None:
    model = build_other(family)
    shape = sized(model)
    ratio = message(shape, Workload(Phase.FORWARD, 1, TOKENS)) / counted(model, TOKENS, use_cache=False)
    assert ratio == pytest.approx(1, rel=0.1 if family in RECURRENT else 0.005)


def test_latent_attention_makes_the_keys_of_the_past_again_for_every_new_token() -> None:
    model = build_other("deepseek_v3")
    shape = sized(model)
    with torch.no_grad():
        cache = model(input_ids=torch.randint(3, 96, (1, TOKENS)), use_cache=True).past_key_values
    step = counted(model, 1, past_key_values=cache, use_cache=True)
    assert message(shape, Workload(Phase.DECODE, 1, 1, TOKENS)) == pytest.approx(step, rel=0.005)
    assert shape.get_block(0).attention.cached == 16 + 8  # latent and rotated part, not 4 heads' keys and values


def test_experts_are_read_whatever_their_config_calls_them() -> None:
    shape = sized(build_other("deepseek_v3"))
    dense, mixture = shape.get_block(0).mlp, shape.get_block(1).mlp
    assert dense == MlpShape(dense=3 * 32 * 48, inner=96)
    shared = 3 * 32 * 12
    assert (mixture.dense, mixture.expert) == (shared + 8 * 32, 3 * 32 * 12)  # the router is dense
    assert (mixture.experts, mixture.active) == (8, 2)
    llama4 = sized(build_other("llama4"))
    assert [block.mlp.experts for block in llama4.blocks or ()] == [0, 2, 0, 2]
    assert llama4.get_block(1).mlp.active == 2  # it runs all of them, and weights one


def test_a_head_size_of_its_own_in_each_block_is_read() -> None:
    shape = sized(build_other("gemma4"))
    model = build_other("gemma4")
    sizes = [model.config.per_layer_config[layer].head_dim for layer in range(4)]
    assert [block.attention.pair for block in shape.blocks or ()] == [2 * 4 * size for size in sizes]


@pytest.mark.parametrize("family", FAMILIES)
def test_like_blocks_are_described_by_plain_numbers_as_before(family: str) -> None:
    shape = sized(build_known(family))
    if family == "mixtral":  # its router counts
        assert {block.mlp.dense for block in shape.blocks or ()} == {4 * 32}
    else:
        assert shape.blocks is None
        assert "blocks" not in shape.to_json()


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_next"])
def test_a_shape_with_blocks_is_read_back_from_its_json(family: str) -> None:
    import json

    shape = sized(build_other(family))
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


ATTENTION = AttentionShape(weights=4096, heads=4, pair=64, cached=32)
DENSE, MIXTURE = MlpShape(dense=9600, inner=200), MlpShape(dense=1000, inner=60, experts=8, expert=300, active=2)
STATE = AttentionShape(weights=4096, heads=0, pair=0, cached=0, state=128, extra=256)
UNLIKE = ModelShape(
    3, 32, 4, 2, 8, 100, True, 0, False, True, 0, (None,) * 3,
    blocks=(BlockShape(ATTENTION, DENSE), BlockShape(ATTENTION, MIXTURE), BlockShape(STATE, MIXTURE)),
)  # fmt: skip


def test_units_of_unlike_blocks_cost_what_their_own_block_does() -> None:
    """Worked by hand: 5 tokens, two operations for each multiply-add, pairs of a causal attention."""
    workload = Workload(Phase.FORWARD, 1, 5)
    work = {unit: compute_unit_work(UNLIKE, unit, workload, "int8") for layer in range(3) for unit in map_units(layer)}
    assert work[Unit(0, Kind.MLP)].flops == 2 * 5 * 9600
    assert work[Unit(1, Kind.MLP)].flops == 2 * 5 * (1000 + 2 * 300)
    assert work[Unit(1, Kind.MLP)].weight_bytes == 1000 + 8 * 300  # 10 choices among 8 experts: all are read
    assert work[Unit(1, Kind.ATTENTION)].flops == 2 * 5 * 4096 + 2 * 15 * 64
    assert work[Unit(2, Kind.ATTENTION)].flops == 2 * 5 * (4096 + 256)
    assert (
        compute_unit_work(UNLIKE, Unit(1, Kind.MLP), Workload(Phase.DECODE, 1, 1, 9), "int8").weight_bytes
        == 1000 + 2 * 300
    )
    held = compute_memory(UNLIKE, Architecture.parent(3), Workload(Phase.DECODE, 2, 1, 9), "fp16")
    assert held.cache == 2 * 2 * (2 * 10 * 32 + 128)
    assert held.weights == 2 * (3 * 4096 + 9600 + 2 * (1000 + 8 * 300))


def map_units(layer: int) -> tuple[Unit, Unit]:
    return Unit(layer, Kind.ATTENTION), Unit(layer, Kind.MLP)


def test_units_that_do_unlike_work_are_unlike_terms() -> None:
    terms = Terms(UNLIKE, Workload(Phase.FORWARD, 1, 5))
    assert set(terms.classes) == {
        "attention, over pairs",
        "attention, recurrent",
        "mlp, dense",
        "mlp, 2 of 8 experts",
    }
    alike = dataclasses.replace(UNLIKE, blocks=None)
    assert set(Terms(alike, terms.workload).classes) == {"attention", "mlp"}


def test_a_dense_first_block_is_not_taken_for_all_of_them() -> None:
    sheet = DataSheetModel(
        find_target("jetson-orin"), sized(build_other("deepseek_v3")), Workload(Phase.FORWARD, 32, 64)
    )
    saved = [sheet.predict_unit_ms(Unit(layer, Kind.MLP)) for layer in range(4)]
    assert saved[1] == saved[2] == saved[3] != saved[0]
    assert sheet.predict(PARENT).ms > sum(saved)


def test_a_mixture_of_which_all_run_and_a_list_of_modules_are_counted() -> None:
    config = hf.PhimoeConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
        vocab_size=96, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    shape = sized(hf.PhimoeForCausalLM(config).eval())
    assert {(b.mlp.experts, b.mlp.active, b.mlp.expert) for b in shape.blocks or ()} == {(4, 2, 3 * 32 * 24)}
