"""Token schedules are data: what they leave to each block, how they nest, and what they refuse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Choice,
    Encoding,
    Kind,
    Positions,
    Reducer,
    Reduction,
    Schedule,
    Scorer,
    Space,
    Stage,
    Unit,
)
from search_spaces.architecture import drop_from_parent, make_stage_choice
from search_spaces.errors import ArchitectureError

BLOCKS, RATIOS = range(1, 6), (0.75, 0.5, 0.25)


def step(block: int, permille: int) -> Choice:
    return make_stage_choice(Stage(block, permille))


@st.composite
def steps(draw: st.DrawFn) -> frozenset[Choice]:
    unit = st.builds(step, st.integers(0, 5), st.sampled_from([750, 500, 250]))
    return draw(st.frozensets(unit, max_size=6))


def shares_by_hand(units: frozenset[Choice], depth: int) -> tuple[float, ...]:
    """The least of all steps taken at a block or before it."""
    return tuple(
        min([1.0, *(u.level.get_value("keep") / 1000 for u in units if u.layer <= block)]) for block in range(depth)
    )


@given(steps())
def test_shares_are_the_running_minimum_of_the_steps(units: frozenset[Choice]) -> None:
    assert Architecture(6, units).tokens.compute_shares(6) == shares_by_hand(units, 6)


@given(steps(), steps())
def test_architectures_are_equal_exactly_where_every_block_sees_as_many_tokens(
    one: frozenset[Choice], other: frozenset[Choice]
) -> None:
    same = shares_by_hand(one, 6) == shares_by_hand(other, 6)
    assert (Architecture(6, one) == Architecture(6, other)) == same


@given(steps())
def test_a_step_is_dropped_where_no_block_sees_more_tokens_than_it_leaves(units: frozenset[Choice]) -> None:
    architecture, shares = Architecture(6, units), shares_by_hand(units, 6)
    for block in range(6):
        for permille in (750, 500, 250):
            assert architecture.drops(step(block, permille)) == (shares[block] <= permille / 1000)


@given(steps())
def test_an_encoding_decodes_what_it_encodes(units: frozenset[Choice]) -> None:
    reduction = Reduction(Scorer.CLASS, Reducer.MERGE, Positions.KEPT)
    space = Space.dropping(6, (Unit(2, Kind.MLP), Unit(3, Kind.ATTENTION))).allow_tokens(reduction, range(6), RATIOS)
    architecture = space.decode(units | {Unit(2, Kind.MLP).dropped})
    encoding = Encoding(space.choices)
    assert space.decode(encoding.decode(encoding.encode_rows([architecture]))[0]) == architecture
    assert space.contains(architecture)
    assert architecture.reduction == (reduction if units else None)


def test_schedule_and_back() -> None:
    schedule = Schedule.parse("2=0.5, 4=0.25,6=0.125", Reduction(Scorer.NORM))
    architecture = Architecture(8).drop(Unit(1, Kind.ATTENTION)).replace_tokens(schedule)
    assert architecture.tokens == schedule
    assert str(schedule) == "2=0.5,4=0.25,6=0.125"
    assert architecture.structure == Architecture(8).drop(Unit(1, Kind.ATTENTION))
    document = json.loads(json.dumps(architecture.to_json()))
    assert document["schema_version"] == 2
    assert Architecture.from_json(document) == architecture
    assert schedule.compute_shares(8) == (1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125)
    assert architecture.words.split()[1:3] == ["mlp", "attn+mlp@0.5"]


def test_without_tokens_the_file_is_as_it_always_was() -> None:
    assert drop_from_parent(3, {Unit(1, Kind.MLP)}).to_json() == {
        "schema_version": 1,
        "depth": 3,
        "dropped": ["mlp.1"],
    }


@pytest.mark.parametrize(("tokens", "kept"), [(576, 288), (1, 1), (3, 1), (2880, 1440)])
def test_kept_counts_as_pyramid_drop_does(tokens: int, kept: int) -> None:
    assert Stage(8, 500).count_kept(tokens) == kept


@pytest.mark.parametrize(
    "text", ["2=0", "2=1.2", "2=-0.5", "2", "a=0.5", "2=x", "2=0.5,2=0.4", "4=0.5,2=0.4", "2=0.4,4=0.5"]
)
def test_schedules_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ArchitectureError):
        Schedule.parse(text)


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"3 stages .* more than the 2 blocks"):
        Architecture(2).replace_tokens(Schedule.parse("0=0.75,1=0.5,2=0.25"))
    with pytest.raises(ArchitectureError, match="out of range"):
        Architecture(2).replace_tokens(Schedule.parse("2=0.5"))


@pytest.mark.parametrize("name", ["tokens.3", "tokens.3=0", "tokens.3=1", "tokens.3=x", "mlp.3=0.5"])
def test_units_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ArchitectureError):
        Choice.parse(name)
