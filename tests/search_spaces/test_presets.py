"""Presets give the published numbers, and refuse what no model or paper has."""

import pytest

from search_spaces import Positions, Reducer, Reduction, Scorer, Source
from search_spaces.errors import UsageError
from search_spaces.presets import (
    PRESETS,
    build_pyramiddrop,
    build_tome,
    build_visionzip,
    parse_preset,
    space_blocks_evenly,
)


def test_pyramiddrop_of_32_blocks_is_the_published_one() -> None:
    schedule = build_pyramiddrop(32)
    assert str(schedule) == "8=0.5,16=0.25,24=0.125"
    assert schedule.reduction == Reduction(Scorer.LAST, Reducer.DROP, Positions.COMPACTED, Source.NEXT)
    assert [stage.count_kept(576) for stage in schedule.stages] == [288, 144, 72]


@pytest.mark.parametrize(("depth", "blocks"), [(40, (10, 20, 30)), (6, (1, 3, 4)), (4, (1, 2, 3))])
def test_quarter_points_of_other_depths(depth: int, blocks: tuple[int, ...]) -> None:
    assert space_blocks_evenly(depth, 3) == blocks


def test_an_encoder_asks_its_class_token_and_numbers_nothing_anew() -> None:
    reduction = parse_preset("pyramiddrop", 12, causal=False).reduction
    assert reduction == Reduction(Scorer.CLASS, Reducer.DROP, Positions.KEPT, Source.NEXT)
    assert parse_preset("fastv", 12, causal=False, scorer=Scorer.MEAN).reduction.scorer is Scorer.MEAN


def test_fastv_ranks_by_the_block_that_just_ran() -> None:
    schedule = parse_preset("fastv", 32, causal=True)
    assert str(schedule) == "2=0.5"
    assert schedule.reduction == Reduction(Scorer.LAST, Reducer.DROP, Positions.KEPT, Source.PREVIOUS)
    assert parse_preset("fastv:3=0.25", 32, causal=True).compute_shares(5) == (1, 1, 1, 0.25, 0.25)


def left_by_tome(tokens: int, merged: int, depth: int) -> list[int]:
    """What blocks 1, 2, ... work on when each merges r tokens, at most half of what it has."""
    left = [tokens]
    for _ in range(depth - 1):
        left.append(left[-1] - min(merged, left[-1] // 2))
    return left[1:]


@pytest.mark.parametrize(("depth", "merged"), [(12, 16), (24, 8), (12, 60)])
def test_tome_leaves_what_r_tokens_a_block_leave(depth: int, merged: int) -> None:
    shares = build_tome(depth, merged / 196).compute_shares(depth)[1:]
    expected = left_by_tome(196, merged, depth)
    assert all(abs(196 * share - left) <= 1.2 for share, left in zip(shares, expected, strict=True))


def test_tome_usually_leaves_a_tenth_as_the_papers_settings_do() -> None:
    assert build_tome(12).compute_shares(12)[-1] == 0.1
    assert left_by_tome(196, 16, 12)[-1] / 196 == pytest.approx(0.1, abs=0.01)
    assert left_by_tome(196, 8, 24)[-1] / 196 == pytest.approx(0.1, abs=0.05)
    assert build_tome(12).reduction == Reduction(Scorer.KEYS, Reducer.MERGE, Positions.KEPT, Source.PREVIOUS)


def test_visionzip_gives_the_language_model_64_of_576() -> None:
    schedule = build_visionzip()
    assert [stage.count_kept(576) for stage in schedule.stages] == [64]
    assert schedule.stages[0].block == 0
    assert schedule.reduction == Reduction(Scorer.CLASS, Reducer.RECYCLE, Positions.COMPACTED, Source.TOWER)


@pytest.mark.parametrize("name", ["random", "keys", "norm"])
@pytest.mark.parametrize("settings", ["", ":2=0.5,4=0.25"])
def test_controls_differ_from_pyramiddrop_in_the_scorer_alone(name: str, settings: str) -> None:
    control = parse_preset(name + settings, 8, causal=True)
    model = parse_preset("pyramiddrop" + settings, 8, causal=True)
    assert control.stages == model.stages
    assert control.reduction == Reduction(
        Scorer(name), model.reduction.reducer, model.reduction.positions, model.reduction.source
    )


@pytest.mark.parametrize("name", PRESETS)
def test_the_help_shows_forms_that_are_read(name: str) -> None:
    plain, _, rest = PRESETS[name].partition(" or ")
    full = rest.partition(" (")[0]
    assert parse_preset(plain, 32, causal=False).reduction == parse_preset(full, 32, causal=False).reduction


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("piramid", "'piramid' is none of pyramiddrop"),
        ("", "'' is none of"),
        ("tome", "causal"),
        ("pyramiddrop:8=2", "outside"),
        ("pyramiddrop:3=0.5,2=0.25", "blocks must rise"),
        ("pyramiddrop:", "0 stages"),
        ("keys:99=0.5", "there is no block 99; name blocks from 0 to 7"),
        ("fastv:1=0.5,2=0.25", "2 stages; fastv has one"),
        ("visionzip:x", "could not convert"),
        ("visionzip:0", "outside"),
        ("norm:0.5", "not BLOCK=RATIO"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_preset(text, 8, causal=True)


@pytest.mark.parametrize("text", ["tome:0", "tome:1.5", "tome:x", "tome:nan"])
def test_shares_that_tome_cannot_merge_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_preset(text, 8, causal=False)


def test_models_that_are_too_shallow_are_told_so() -> None:
    with pytest.raises(UsageError, match=r"3 stages .* more than 3 blocks"):
        parse_preset("pyramiddrop", 3, causal=True)
    with pytest.raises(UsageError, match="the model has one"):
        parse_preset("tome", 1, causal=False)
