"""A token schedule in plain words."""

from fractions import Fraction

from search_spaces.level import THOUSAND
from search_spaces.schedule import Reducer, Reduction, Schedule, Scorer, Source

_SHARES = {
    Fraction(1, 8): "an eighth",
    Fraction(1, 4): "a quarter",
    Fraction(1, 3): "a third",
    Fraction(1, 2): "half",
    Fraction(2, 3): "two thirds",
    Fraction(3, 4): "three quarters",
}
_PAST = {Reducer.DROP: "dropped", Reducer.MERGE: "merged into them", Reducer.RECYCLE: "gathered into a few"}
_CHOSEN = {
    Scorer.LAST: "attention of the last token",
    Scorer.CLASS: "attention of the class token",
    Scorer.MEAN: "attention of all tokens",
    Scorer.KEYS: "how dissimilar their keys are to the mean key",
    Scorer.NORM: "the norm of their states",
    Scorer.RANDOM: "random scores",
}


def describe_schedule(schedule: Schedule, tokens: int, noun: str) -> str:
    """What a person reads: `from block 4 on half (128) of the 256 image tokens are left; ...`.

    Args:
        tokens: that may be dropped of a sequence.
        noun: what they are, in the plural.
    """
    if not schedule.stages:
        return f"all {noun}"
    stages = [
        f"from block {stage.block} on {_format_share(stage.permille)} ({stage.count_kept(tokens)})"
        for stage in schedule.stages
    ]
    first, *more = stages
    words = ", ".join([f"{first} of the {tokens} {noun}", *more])
    return f"{words}; selected by {describe_reduction(schedule.reduction)}"


def describe_reduction(reduction: Reduction) -> str:
    """What ranks the tokens, and what becomes of those that are not kept."""
    where = " in the vision tower" if reduction.source is Source.TOWER else ""
    return f"{_CHOSEN[reduction.scorer]}{where}, the others are {_PAST[reduction.reducer]}"


def _format_share(permille: int) -> str:
    near = next((name for share, name in _SHARES.items() if abs(permille - THOUSAND * share) < 1), None)
    return near or f"{permille / 10:g} %"
