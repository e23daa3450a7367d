"""Architectures are pure data: they round-trip, compare by what they mean, and refuse nonsense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import STRUCTURE, Architecture, Kind, Stage, Unit
from search_spaces.architecture import drop_from_parent, make_stage_choice
from search_spaces.errors import ArchitectureError


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    depth = draw(st.integers(1, 12))
    parts = st.builds(Unit, st.integers(0, depth - 1), st.sampled_from(STRUCTURE)).map(lambda unit: unit.dropped)
    steps = st.builds(Stage, st.integers(0, depth - 1), st.integers(1, 999)).map(make_stage_choice)
    return Architecture(depth, draw(st.frozensets(parts)) | draw(st.frozensets(steps, max_size=4)))


@given(architectures())
def test_json_round_trip(architecture: Architecture) -> None:
    document = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(document) == architecture
    assert Architecture.from_json(document).digest == architecture.digest


@given(architectures())
def test_words_round_trip_and_have_one_word_per_block(architecture: Architecture) -> None:
    assert len(architecture.words.split()) == architecture.depth
    assert Architecture.from_words(architecture.words) == architecture


@given(architectures(), architectures())
def test_equal_digest_means_equal(one: Architecture, other: Architecture) -> None:
    assert (one.digest == other.digest) == (one == other)


@given(architectures(), st.data())
def test_drop_then_restore_is_the_same(architecture: Architecture, data: st.DataObject) -> None:
    kept = [
        Unit(layer, kind)
        for layer in range(architecture.depth)
        for kind in (Kind.ATTENTION, Kind.MLP)
        if architecture.keeps(layer, kind)
    ]
    if kept:
        unit = data.draw(st.sampled_from(kept))
        dropped = architecture.drop(unit)
        assert dropped.drops(unit)
        assert not architecture.drops(unit)
        assert dropped.restore(unit) == architecture


def test_a_removed_block_swallows_its_units() -> None:
    units = {Unit(1, Kind.ATTENTION), Unit(1, Kind.BLOCK), Unit(2, Kind.MLP)}
    architecture = drop_from_parent(3, units)
    assert architecture.words == "attn+mlp removed attn"
    assert architecture == drop_from_parent(3, {Unit(1, Kind.BLOCK), Unit(2, Kind.MLP)})
    assert architecture.list_removed_blocks() == (1,)
    assert not architecture.keeps(1, Kind.MLP)


def test_both_units_dropped_merge_into_a_removed_block() -> None:
    both = Architecture.parent(2).drop(Unit(0, Kind.ATTENTION), Unit(0, Kind.MLP))
    assert both.words == "none attn+mlp"
    assert both.merge_blocks().words == "removed attn+mlp"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: drop_from_parent(4, {Unit(4, Kind.MLP)}), "out of range"),
        (lambda: Architecture(0), "at least one block"),
        (lambda: Unit.parse("attention"), "KIND.LAYER"),
        (lambda: Unit.parse("attention.-1"), "KIND.LAYER"),
        (lambda: Architecture.from_words("attn+mlp mpl"), "block 1 reads 'mpl'"),
        (lambda: Architecture.from_json({"depth": 3}), "exactly the keys"),
        (lambda: Architecture.from_json({"schema_version": 9, "depth": 3, "dropped": []}), "schema_version 9"),
        (lambda: Architecture.from_json({"schema_version": 1, "depth": "3", "dropped": []}), "depth is an integer"),
    ],
)
def test_nonsense_is_refused_in_one_line(make, says: str) -> None:
    with pytest.raises(ArchitectureError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)
