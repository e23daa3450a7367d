"""Ways of choosing tokens, and which of them suits a model: they are compared before a search."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from latency_models.work import count_flops
from latency_models.workload import Workload
from nas.parent.parent import ParentModel
from nas.quality.quality import Quality
from nas.search.halving import is_significantly_worse
from nas.tokens.space import choose_default_reduction
from pruning.reduction.install import has_axes
from search_spaces.architecture import Architecture
from search_spaces.level import THOUSAND
from search_spaces.schedule import Positions, Reducer, Reduction, Schedule, Scorer, Source, Stage

MIDDLE = 0.6  # of the parent's arithmetic, where the budget does not say
ITEMS = 32  # on which strategies are compared first
LEFT = 2  # at least, on all items: few may happen to be easy ones
MIN_MS = 1e-6  # where nothing saves time, the least loss decides
SAVES = 0.85  # of what the quickest strategy saves under the same schedule

Judge = Callable[[Architecture, int | None], Quality]
Measure = Callable[[list[Architecture]], list[float]]


def list_reductions(parent: ParentModel) -> tuple[Reduction, ...]:
    """Ways to choose tokens that are tried before a search, the usual one first; chance is one of them.

    Those of the published methods are among them: what the block that just ran looked at (FastV), positions numbered
    anew (PyramidDrop), merging by keys (ToMe).
    """
    usual = choose_default_reduction(parent)
    others = [replace(usual, scorer=scorer) for scorer in (Scorer.MEAN, Scorer.KEYS, Scorer.NORM, Scorer.RANDOM)]
    if not parent.anatomy.is_decoder:
        return tuple(dict.fromkeys([usual, *others, replace(usual, scorer=Scorer.KEYS, reducer=Reducer.MERGE)]))
    published = [replace(usual, source=Source.PREVIOUS)]
    if not has_axes(parent.model):
        anew = replace(usual, positions=Positions.COMPACTED)
        published += [anew, replace(anew, scorer=Scorer.RANDOM)]
    return tuple(dict.fromkeys([usual, *published, *others]))


def find_best_reduction(
    parent: ParentModel, judge: Judge, workload: Workload, fraction: float | None, measure: Measure | None = None
) -> Reduction:
    """The token selection strategy that loses least for the time it saves.

    Some strategies are best little by little, others all at once, so each is tried with all of `list_forms` and has
    the one that suits it. As losses grow with the square of a disturbance, to second order, and a slower one needs a
    stronger schedule for the same time, what counts is the loss over the square of the time saved. The best two on few
    items, and strategies that are not significantly worse there, are compared on all: where a few items carry most of
    a loss, few items leave it to chance.

    Args:
        judge: validation quality on the first items, or on all with None.
        fraction: the budget as one of the parent's latency, where it says so; taken as one of its arithmetic.
        measure: milliseconds of some architectures on the target, where it is at hand; without it all save the same.
    """
    dense, schedules = Architecture(parent.anatomy.depth), list_forms(parent, workload, fraction or MIDDLE)
    saved = _predict_saved(dense, list_reductions(parent), schedules, measure)

    def evaluate_for_time(strategy: Reduction, items: int | None) -> list[float]:
        """Of every item, with the schedule that suits the strategy."""
        each = [
            [
                loss / max(ms, MIN_MS) ** 2
                for loss in judge(dense.replace_tokens(Schedule(stages, strategy)), items).per_item
            ]
            for stages, ms in saved[strategy].items()
        ]
        return min(each, key=fmean)

    max_saved = max(ms[schedules[0]] for ms in saved.values())
    enough = min(SAVES * max_saved, max_saved)  # where all are slower than the parent, the quickest is left
    few = {each: evaluate_for_time(each, ITEMS) for each, ms in saved.items() if ms[schedules[0]] >= enough}
    ranked = sorted(few, key=lambda each: fmean(few[each]))
    left = [*ranked[:LEFT], *(each for each in ranked[LEFT:] if not is_significantly_worse(few[each], few[ranked[0]]))]
    return min(left, key=lambda each: fmean(evaluate_for_time(each, None)))


def _predict_saved(
    parent: Architecture,
    strategies: Sequence[Reduction],
    schedules: Sequence[tuple[Stage, ...]],
    measure: Measure | None,
) -> dict[Reduction, dict[tuple[Stage, ...], float]]:
    """The time that each strategy saves with each schedule.

    Ranking and merging cost time of their own at every stage. All are timed under the first schedule, where one that
    takes longer than the quickest does so by as much at each of its stages.
    """
    if measure is None:
        return {strategy: dict.fromkeys(schedules, 1.0) for strategy in strategies}
    whole, *reduced = measure(
        [parent, *(parent.replace_tokens(Schedule(schedules[0], strategy)) for strategy in strategies)]
    )
    quickest_ms = min(reduced)

    def predict_ms(ms: float, stages: Sequence[Stage]) -> float:
        return whole - quickest_ms - (ms - quickest_ms) * len(stages) / len(schedules[0])

    return {
        strategy: {stages: predict_ms(ms, stages) for stages in schedules}
        for strategy, ms in zip(strategies, reduced, strict=True)
    }


def list_forms(parent: ParentModel, workload: Workload, fraction: float) -> list[tuple[Stage, ...]]:
    """Schedules that leave that share of the arithmetic: little by little first, then all at once.

    Powers of one ratio at the quarter points, as PyramidDrop has them; one stage at the first of these or in the
    middle, as FastV has it, where that can leave so little.
    """
    depth = parent.anatomy.depth
    quarters = sorted({max(1, part * depth // 4) for part in (1, 2, 3)} & set(range(depth)))
    whole = count_flops(parent.shape, Architecture(depth), workload)

    def find_mildest(blocks: Sequence[int]) -> tuple[Stage, ...] | None:
        for permille in range(950, 150, -25):
            stages = _build_powers(blocks, permille)
            reduced = Architecture(depth).replace_tokens(Schedule(stages))
            if count_flops(parent.shape, reduced, workload) <= fraction * whole:
                return stages
        return None

    little_by_little = find_mildest(quarters) or _build_powers(quarters, 200)
    at_once = (find_mildest([block]) for block in (quarters[0], max(1, depth // 2)))
    return list(dict.fromkeys([little_by_little, *(stages for stages in at_once if stages)]))


def _build_powers(blocks: Sequence[int], permille: int) -> tuple[Stage, ...]:
    shares = ((permille / THOUSAND) ** power for power in range(1, len(blocks) + 1))
    return tuple(Stage(block, max(1, round(THOUSAND * share))) for block, share in zip(blocks, shares, strict=True))
