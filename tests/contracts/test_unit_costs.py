"""The cost of every kind of unit keeps the contract."""

from dataclasses import replace

from unit_cost import CASES, DECODER, DEPTH, UnitCostContract

from latency_models.block_shape import CrossAttentionShape
from search_spaces import KINDS, Choice, Level
from search_spaces.level import DROP, KEEP

_CROSS = CrossAttentionShape(2 * 1024 * 1024, 2 * 1024 * 1024, heads=16, pair=2 * 1024, cached=2 * 1024)
WITH_SOURCE = replace(DECODER.alike, cross_attention=_CROSS)


class TestAttention(UnitCostContract):
    name, levels = "attention", (DROP,)


class TestCrossAttention(UnitCostContract):
    name, levels = "cross-attention", (DROP,)
    cases = tuple((replace(DECODER, blocks=(WITH_SOURCE,) * DEPTH), workload) for _, workload in CASES[:3])


class TestMlp(UnitCostContract):
    name, levels = "mlp", (DROP,)


class TestBlock(UnitCostContract):
    name, levels = "block", (DROP,)


class TestTokens(UnitCostContract):
    name, levels = "tokens", [Level.on(KEEP, permille) for permille in (125, 250, 500, 750)]


class TestMlpWidth(UnitCostContract):
    name, levels = "mlp-width", (DROP, *(Level.on("width", permille) for permille in (250, 500, 750)))


class TestMlpExperts(UnitCostContract):
    name, levels = "mlp-experts", (DROP, *(Level.on("experts", permille) for permille in (250, 500, 750)))
    cases = tuple((replace(DECODER, experts=8, active_experts=2), workload) for _, workload in CASES[:3])


class TestMlpActiveExperts(UnitCostContract):
    name, levels = "mlp-active-experts", (DROP, *(Level.on("active", permille) for permille in (250, 500, 750)))
    cases = tuple((replace(DECODER, experts=8, active_experts=4), workload) for _, workload in CASES[:3])


class TestAttentionHeads(UnitCostContract):
    name, levels = "attention-heads", (DROP, *(Level.on("heads", permille) for permille in (250, 500, 750)))


class TestAttentionWindow(UnitCostContract):
    name, levels = "attention-window", (DROP, *(Level.on("window", tokens) for tokens in (64, 512, 2048)))
    cases = (CASES[2],)


class TestAttentionLinear(UnitCostContract):
    name, levels = "attention-linear", (DROP, Level.on("form", 1))


class TestMlpLinear(UnitCostContract):
    name, levels = "mlp-linear", (DROP, Level.on("form", 1))


class TestAttentionBits(UnitCostContract):
    name, levels = "attention-bits", (DROP, Choice.parse("attention.0:bits=w4").level)


class TestMlpBits(UnitCostContract):
    name, levels = "mlp-bits", (DROP, Choice.parse("mlp.0:bits=w4").level)


class TestHeadBits(UnitCostContract):
    name, levels = "head-bits", (Choice.parse("head:bits=w4").level,)


def test_every_kind_is_tested() -> None:
    tested = (
        TestAttention,
        TestCrossAttention,
        TestMlp,
        TestBlock,
        TestTokens,
        TestMlpWidth,
        TestMlpExperts,
        TestMlpActiveExperts,
        TestAttentionHeads,
        TestAttentionWindow,
        TestAttentionLinear,
        TestMlpLinear,
        TestAttentionBits,
        TestMlpBits,
        TestHeadBits,
    )
    assert {each.name for each in tested} == KINDS.keys()
