"""Architectures as rows: what is written as a row is read from it again, however it was written."""

import itertools
import random

import numpy as np
import pytest

from search_spaces import Encoding, Kind, Space, Unit
from search_spaces.presets import parse_preset
from search_spaces.schedule import Reduction

DEPTH = 4
KINDS = [
    (Kind.ATTENTION, Kind.MLP), (Kind.ATTENTION, Kind.MLP, Kind.BLOCK), (Kind.ATTENTION, Kind.BLOCK), (Kind.BLOCK,),
]  # fmt: skip


def space_of(kinds: tuple[Kind, ...], merges: bool, tokens: str) -> Space:
    space = Space.dropping(DEPTH, tuple(Unit(layer, kind) for layer in range(DEPTH) for kind in kinds), merges)
    if tokens == "searched":
        return space.allow_tokens(Reduction(), (1, 3), (0.75, 0.5))
    if tokens == "fixed":
        return Space.dropping(DEPTH, space.choices, merges, fixed=parse_preset("pyramiddrop:2=0.5", DEPTH, causal=True))
    return space


@pytest.mark.parametrize("tokens", ["none", "searched", "fixed"])
@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("kinds", KINDS)
def test_a_canonical_row_is_that_of_the_architecture_it_drops(kinds, merges: bool, tokens: str) -> None:
    space, rng = space_of(kinds, merges, tokens), random.Random(0)
    encoding = Encoding(space.choices)
    pairs = itertools.chain(itertools.combinations(range(len(space.choices)), 2), [()])
    more = (tuple(rng.sample(range(len(space.choices)), rng.randint(3, len(space.choices)))) for _ in range(200))
    for positions in [*pairs, *more]:
        row = np.isin(np.arange(len(space.choices)), positions)
        expected = encoding.encode_rows([space.decode({space.choices[position] for position in positions})])
        assert np.array_equal(encoding.make_canonical(row[None], merges), expected)
