"""Rules of other engines: what they take out of a space."""

import pytest

from search_spaces import Architecture, Choice, Kind, Space, Unit
from search_spaces.errors import ArchitectureError, UsageError
from search_spaces.servable import Servable, parse_servable, restrict

PARTS = tuple(Unit(layer, kind) for layer in range(4) for kind in (Kind.ATTENTION, Kind.MLP))
BLOCKS = tuple(Unit(layer, Kind.BLOCK) for layer in range(4))
MERGING, POST_NORM = Space.dropping(4, PARTS), Space.dropping(4, PARTS + BLOCKS, merges_blocks=False)


@pytest.mark.parametrize("space", [MERGING, POST_NORM])
def test_any_forbids_nothing(space: Space) -> None:
    assert restrict(space, Servable.ANY) == space


@pytest.mark.parametrize("space", [MERGING, POST_NORM])
def test_decilm_keeps_the_first_attention_and_the_last_mlp(space: Space) -> None:
    left = restrict(space, Servable.DECILM)
    words = ("mlp attn+mlp attn+mlp attn+mlp", "removed attn+mlp attn+mlp attn+mlp", "attn+mlp attn+mlp attn+mlp attn",
             "attn+mlp attn+mlp attn+mlp removed")  # fmt: skip
    for refused in words:
        assert not left.contains(left.make_canonical(Architecture.from_words(refused)))
    assert left.contains(left.make_canonical(Architecture.from_words("attn removed attn mlp")))
    assert set(left.choices) < set(space.choices)


@pytest.mark.parametrize("space", [MERGING, POST_NORM])
def test_vanilla_removes_whole_blocks_only(space: Space) -> None:
    left = restrict(space, Servable.VANILLA)
    assert left.choices == tuple(block.dropped for block in BLOCKS)
    assert left.contains(Architecture.from_words("attn+mlp removed attn+mlp removed"))
    assert not left.contains(Architecture.from_words("attn+mlp removed attn attn+mlp"))


def test_uniform_leaves_numbers_that_engines_read_once_as_they_are() -> None:
    counted = ("attention.1:heads=0.5", "mlp.2:experts=0.5", "mlp.2:active=0.5")
    others = ("attention.1", "mlp.2:width=0.5", "mlp.3", "attention.2:window=64", "mlp.0:bits=w4")
    left = restrict(Space(4, tuple(map(Choice.parse, (*counted, *others)))), Servable.UNIFORM)
    assert {str(choice) for choice in left.choices} == set(others)
    with pytest.raises(ArchitectureError, match="servable uniform leaves nothing to drop"):
        restrict(Space(4, tuple(map(Choice.parse, counted))), Servable.UNIFORM)


def test_a_rule_that_leaves_nothing_says_so() -> None:
    attention_of_one_block = Space.dropping(1, (Unit(0, Kind.ATTENTION),))
    with pytest.raises(ArchitectureError, match="servable decilm leaves nothing to drop"):
        restrict(attention_of_one_block, Servable.DECILM)
    with pytest.raises(ArchitectureError, match="servable vanilla leaves nothing to drop"):
        restrict(Space.dropping(4, PARTS[::2]), Servable.VANILLA)  # attentions alone


def test_rules_are_read_by_name() -> None:
    assert parse_servable("decilm") is Servable.DECILM
    with pytest.raises(UsageError, match="servable 'vllm' is none of any, decilm, vanilla, uniform"):
        parse_servable("vllm")
