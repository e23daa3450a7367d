"""The cost of every kind of unit keeps the contract."""

from unit_cost import UnitCostContract

from search_spaces import KINDS, Choice, Level
from search_spaces.level import DROP, KEEP


class TestAttention(UnitCostContract):
    name, levels = "attention", (DROP,)


class TestMlp(UnitCostContract):
    name, levels = "mlp", (DROP,)


class TestBlock(UnitCostContract):
    name, levels = "block", (DROP,)


class TestTokens(UnitCostContract):
    name, levels = "tokens", [Level.on(KEEP, permille) for permille in (125, 250, 500, 750)]


class TestMlpWidth(UnitCostContract):
    name, levels = "mlp-width", (DROP, *(Level.on("width", permille) for permille in (250, 500, 750)))


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
        TestMlp,
        TestBlock,
        TestTokens,
        TestMlpWidth,
        TestAttentionLinear,
        TestMlpLinear,
        TestAttentionBits,
        TestMlpBits,
        TestHeadBits,
    )
    assert {each.name for each in tested} == KINDS.keys()
