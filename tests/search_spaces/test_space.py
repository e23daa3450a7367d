"""A space proposes only what it may, and writes equal models the same way."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Architecture, Encoding, Kind, Space, Unit
from search_spaces.errors import ArchitectureError

BOTH = tuple(Unit(layer, kind) for layer in range(3) for kind in (Kind.ATTENTION, Kind.MLP))
BLOCKS = tuple(Unit(layer, Kind.BLOCK) for layer in range(3))


def test_merging_space_writes_both_dropped_as_a_removed_block() -> None:
    space = Space.dropping(3, BOTH)
    architecture = space.decode({Unit(1, Kind.ATTENTION), Unit(1, Kind.MLP)})
    assert architecture.words == "attn+mlp removed attn+mlp"
    assert space.contains(architecture)
    assert architecture.drops(Unit(1, Kind.MLP))


def test_a_post_norm_space_tells_a_removed_block_from_both_units_dropped() -> None:
    space = Space.dropping(3, BOTH + BLOCKS, merges_blocks=False)
    both = space.decode({Unit(1, Kind.ATTENTION), Unit(1, Kind.MLP)})
    block = space.decode({Unit(1, Kind.BLOCK)})
    assert both != block
    assert space.contains(both)
    assert space.contains(block)
    assert not Space.dropping(3, BOTH, merges_blocks=False).contains(block)


@pytest.mark.parametrize("merges", [True, False])
def test_every_subset_but_the_empty_models_is_contained_and_encoded_faithfully(merges: bool) -> None:
    space = Space.dropping(3, BOTH, merges)
    seen = set()
    for size in range(len(BOTH) + 1):
        for units in itertools.combinations(BOTH, size):
            architecture = space.decode(set(units))
            assert space.contains(architecture) == (size < len(BOTH))
            row = Encoding(space.choices).encode_rows([architecture])[0]
            assert {choice.unit for choice, made in zip(space.choices, row, strict=True) if made} == set(units)
            seen.add(architecture)
    assert len(seen) == 2 ** len(BOTH)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_samples_lie_in_the_space(seed: int, fraction: float) -> None:
    space = Space.dropping(3, BOTH)
    assert space.contains(space.sample(random.Random(seed), fraction))


def test_a_space_refuses_no_units_and_units_out_of_range() -> None:
    with pytest.raises(ArchitectureError, match="--units"):
        Space.dropping(3, ())
    with pytest.raises(ArchitectureError, match="out of range"):
        Space.dropping(3, (Unit(3, Kind.MLP),))
    assert not Space.dropping(3, BOTH).contains(Architecture.parent(4))
