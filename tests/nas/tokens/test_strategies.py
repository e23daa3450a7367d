"""Which token selection strategy suits a model: by its loss for the time it saves, with the schedule that suits it."""

from types import SimpleNamespace

import pytest
from families import build

from latency_models.work import count_flops
from latency_models.workload import Phase, Workload
from nas.parent.shape import read_shape
from nas.quality.quality import Quality
from nas.tokens.strategies import LEFT, MIDDLE, find_best_reduction, list_forms, list_reductions
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Architecture, Reducer, Reduction, Schedule, Scorer

IMAGES = Workload(Phase.FORWARD, 8, 10)


def parent(family: str) -> SimpleNamespace:
    """What of a parent is asked for here; each has four blocks."""
    model = build(family)
    anatomy = read_anatomy(model)
    return SimpleNamespace(id=family, model=model, anatomy=anatomy, shape=read_shape(model, anatomy))


@pytest.fixture(scope="module")
def vit() -> SimpleNamespace:
    return parent("vit")


def quality(loss: float) -> Quality:
    return Quality("kl", loss, False, "validation", loss, items=32, per_item=(loss,) * 32)


def test_tokens_merge_only_where_no_order_is_kept(vit) -> None:
    assert Reducer.MERGE not in {each.reducer for each in list_reductions(parent("llama"))}
    assert Reducer.MERGE in {each.reducer for each in list_reductions(vit)}


@pytest.mark.parametrize("fraction", [0.9, 0.7, 0.6])
def test_forms_are_the_mildest_of_their_kind_within_the_share(fraction: float, vit) -> None:
    """Little by little before blocks 1, 2 and 3; at once before block 1, or 2 where that leaves as little."""
    found = list_forms(vit, IMAGES, fraction)
    assert [tuple(stage.block for stage in stages) for stages in found][:2] == [(1, 2, 3), (1,)]
    assert {tuple(stage.block for stage in stages) for stages in found[2:]} <= {(2,)}

    def share(ratio: float, blocks: list[int]) -> float:
        stages = ",".join(f"{block}={round(ratio**power, 3)}" for power, block in enumerate(blocks, 1))
        reduced = Architecture(4).replace_tokens(Schedule.parse(stages))
        whole = count_flops(vit.shape, Architecture(4), IMAGES)
        return count_flops(vit.shape, reduced, IMAGES) / whole

    for stages in found:
        ratio, blocks = stages[0].ratio, [stage.block for stage in stages]
        assert share(ratio, blocks) <= fraction < share(ratio + 0.025, blocks)


def test_where_no_form_gets_there_one_is_tried_all_the_same(vit) -> None:
    (only,) = list_forms(vit, IMAGES, 0.01)
    assert [(stage.block, stage.permille) for stage in only] == [(1, 200), (2, 40), (3, 8)]


@pytest.mark.parametrize("fraction", [0.8, 0.5, None])
def test_the_strategy_that_loses_least_is_taken(fraction: float | None, vit) -> None:
    asked: list[Architecture] = []
    losses = {Scorer.CLASS: 0.3, Scorer.MEAN: 0.4, Scorer.KEYS: 0.2, Scorer.NORM: 0.5, Scorer.RANDOM: 0.6}

    def judge(architecture: Architecture, items: int | None) -> Quality:
        asked.append(architecture)
        loss = losses[architecture.reduction.scorer] + 0.1 * (architecture.reduction.reducer is Reducer.MERGE)
        return quality(loss)

    assert find_best_reduction(vit, judge, IMAGES, fraction) == Reduction(Scorer.KEYS)
    schedules = {architecture.tokens.stages for architecture in asked}
    assert schedules == set(list_forms(vit, IMAGES, fraction or MIDDLE))
    assert len(set(asked)) == len(schedules) * len(list_reductions(vit))
    assert len(asked) == len(schedules) * (len(list_reductions(vit)) + LEFT)  # the best two on all items, too


def test_a_strategy_that_saves_little_time_is_not_taken(vit) -> None:
    """Merging loses nothing here and takes as long as it saves; keys save less than chance, but nearly as much."""
    slow = {Reducer.MERGE: 9.5}
    ms = {Scorer.CLASS: 6.2, Scorer.MEAN: 6.2, Scorer.KEYS: 6.4, Scorer.NORM: 6.1, Scorer.RANDOM: 6.0}
    losses = {Scorer.CLASS: 0.3, Scorer.MEAN: 0.4, Scorer.KEYS: 0.2, Scorer.NORM: 0.5, Scorer.RANDOM: 0.6}

    def measure(architectures: list[Architecture]) -> list[float]:
        strategies = [architecture.reduction for architecture in architectures]
        return [
            10.0 if strategy is None else slow.get(strategy.reducer, ms[strategy.scorer]) for strategy in strategies
        ]

    def judge(architecture: Architecture, items: int | None) -> Quality:
        strategy = architecture.reduction
        loss = 0.0 if strategy.reducer is Reducer.MERGE else losses[strategy.scorer]
        return quality(loss)

    assert find_best_reduction(vit, judge, IMAGES, 0.6).reducer is Reducer.MERGE
    assert find_best_reduction(vit, judge, IMAGES, 0.6, measure) == Reduction(Scorer.KEYS)


def test_a_strategy_that_saves_more_may_lose_more(vit) -> None:
    """At equal time the slower strategy needs the stronger schedule: 0.17 for 3.5 ms is more than 0.20 for 4 ms.

    All at once, both lose everything.
    """
    ms = {Scorer.CLASS: 6.5, Scorer.KEYS: 6.0}
    losses = {Scorer.CLASS: 0.17, Scorer.KEYS: 0.2}

    def measure(architectures: list[Architecture]) -> list[float]:
        strategies = [architecture.reduction for architecture in architectures]
        return [
            10.0 if strategy is None or strategy.reducer is Reducer.MERGE else ms.get(strategy.scorer, 9.0)
            for strategy in strategies
        ]

    def judge(architecture: Architecture, items: int | None) -> Quality:
        return quality(losses[architecture.reduction.scorer] if len(architecture.tokens.stages) > 1 else 9.0)

    assert find_best_reduction(vit, judge, IMAGES, 0.6, measure) == Reduction(Scorer.KEYS)


def test_a_strategy_is_judged_with_the_schedule_that_suits_it(vit) -> None:
    """Norms are best of all little by little; keys lose still less all at once."""
    several, once = {Scorer.NORM: 0.2, Scorer.KEYS: 0.3}, {Scorer.KEYS: 0.1}

    def judge(architecture: Architecture, items: int | None) -> Quality:
        losses = several if len(architecture.tokens.stages) > 1 else once
        merges = architecture.reduction.reducer is Reducer.MERGE
        return quality(1.0 if merges else losses.get(architecture.reduction.scorer, 1.0))

    assert find_best_reduction(vit, judge, IMAGES, 0.6) == Reduction(Scorer.KEYS)


@pytest.mark.parametrize(("loss", "chosen"), [(0.198, Scorer.NORM), (0.202, Scorer.KEYS)])
def test_what_a_strategy_takes_of_its_own_it_takes_at_every_stage(loss: float, chosen: Scorer, vit) -> None:
    """Chance saves 4.0 ms with three stages, keys 3.7: a tenth less at each, so 3.9 with one stage.

    Keys lose 0.19 with one, norms `loss` with three in 4.0 ms less: 0.19 / 3.9^2 = 0.01249 and 0.01249 x 4^2 = 0.1999;
    were keys priced as with three stages, 0.19 / 3.7^2 = 0.01388, that bound would be at 0.222.
    """
    ms = {Scorer.KEYS: 6.3, Scorer.NORM: 6.0, Scorer.RANDOM: 6.0}

    def measure(architectures: list[Architecture]) -> list[float]:
        strategies = [architecture.reduction for architecture in architectures]
        return [
            10.0 if strategy is None or strategy.reducer is Reducer.MERGE else ms.get(strategy.scorer, 9.0)
            for strategy in strategies
        ]

    def judge(architecture: Architecture, items: int | None) -> Quality:
        one = len(architecture.tokens.stages) == 1
        losses = {Scorer.KEYS: 0.19 if one else 9.0, Scorer.NORM: 9.0 if one else loss}
        return quality(losses.get(architecture.reduction.scorer, 9.0))

    assert find_best_reduction(vit, judge, IMAGES, 0.6, measure).scorer is chosen


def test_where_no_strategy_saves_time_the_quickest_is_taken(vit) -> None:
    """A model so small that a stage costs more than fewer tokens save."""
    ms = {Scorer.NORM: 1.1}

    def measure(architectures: list[Architecture]) -> list[float]:
        strategies = [architecture.reduction for architecture in architectures]
        return [1.0 if strategy is None else ms.get(strategy.scorer, 1.5) for strategy in strategies]

    assert (
        find_best_reduction(vit, lambda architecture, items: quality(0.1), IMAGES, 0.6, measure).scorer is Scorer.NORM
    )


def test_strategies_that_few_items_do_not_tell_apart_are_compared_on_all(vit) -> None:
    """Of the first 32 items one more is heavy for norms than for keys; of all 240 keys lose twice as much.

    Chance loses plainly more on every item: nobody asks for more of them.
    """
    asked: list[tuple[Scorer, int | None]] = []
    heavy = {Scorer.KEYS: {3, 40, 50, 60, 70, 80, 90, 100}, Scorer.NORM: {3, 5, 40, 41}}

    def judge(architecture: Architecture, items: int | None) -> Quality:
        strategy = architecture.reduction
        asked.append((strategy.scorer, items))
        plainly = 1.0 if strategy.scorer not in heavy or strategy.reducer is Reducer.MERGE else 0.01
        every = [plainly + 6.0 * (position in heavy.get(strategy.scorer, ())) for position in range(240)][:items]
        mean = sum(every) / len(every)
        return Quality("kl", mean, False, "validation", mean, items=len(every), per_item=tuple(every))

    assert find_best_reduction(vit, judge, IMAGES, 0.6) == Reduction(Scorer.NORM)
    assert {scorer for scorer, items in asked if items is None} == {Scorer.KEYS, Scorer.NORM}
