"""Qualities on the test split: of what a result names, each judged on as many items as it takes to place it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nas.execution.evaluation_cache import CachedEvaluator
from nas.quality.comparison import compare
from nas.quality.evaluations import Evaluations
from nas.quality.precision import Precision
from nas.quality.quality import Quality
from nas.search import SearchOutcome
from search_spaces.architecture import Architecture

TEST = "test"
FIRST_LOOK = (1 / 4, 8)  # of the test items: this share, and at least so many


def _ignore(done: float, total: float) -> None:
    """Nobody is told."""


def judge_held_out(
    outcome: SearchOutcome,
    cached_evaluator: CachedEvaluator,
    known: Evaluations,
    on_items: Callable[[float, float], None] = _ignore,
) -> dict[str, Quality]:
    """Test-split quality of parent, winner, runner-up and every baseline, by architecture digest; fp32.

    A baseline that is significantly worse than the winner on a quarter of the items (paired t, 95 %) stays at those:
    `Quality.items` says how many they were. What another search had judged is not judged again; no search reads what
    is known of the test split.

    Args:
        on_items: told how many items were judged, of all architectures together, and how many there are at most.
    """
    every = len(cached_evaluator.evaluator.dataset.get_split(TEST))
    few = min(every, max(FIRST_LOOK[1], round(FIRST_LOOK[0] * every)))
    judge = _Judge(cached_evaluator, known)
    leaders = dict.fromkeys(candidate.architecture for candidate in [outcome.parent, *outcome.ranked[:2]])
    baselines = dict.fromkeys(candidate.architecture for candidate in outcome.baselines.values())
    others = [each for each in baselines if each not in leaders]
    max_evaluations = every * (len(leaders) + len(others))
    on_items(0, max_evaluations)
    qualities = judge.evaluate(leaders, every)
    on_items(every * len(leaders), max_evaluations)
    winner = qualities[outcome.winner.architecture]
    glimpsed = judge.evaluate(others, few)
    on_items(every * len(leaders) + few * len(others), max_evaluations)
    close = [each for each, quality in glimpsed.items() if compare(winner, quality, "").verdict != "better"]
    qualities |= glimpsed | judge.evaluate(close, every)
    on_items(max_evaluations, max_evaluations)
    return {architecture.digest: quality for architecture, quality in qualities.items()}


@dataclass(frozen=True)
class _Judge:
    """Judges on the test split and keeps all of it."""

    cached_evaluator: CachedEvaluator
    known: Evaluations

    def evaluate(self, architectures: Iterable[Architecture], items: int) -> dict[Architecture, Quality]:
        """Each on the first `items`, in one piece."""
        keys = {each: (each, items, Precision.FP32) for each in architectures}
        new = [each for each, key in keys.items() if key not in self.known]
        for architecture, quality in self.cached_evaluator.evaluate_all_in_full(new, TEST, items).items():
            self.known.add(keys[architecture], quality)
        return {architecture: self.known[key] for architecture, key in keys.items()}
