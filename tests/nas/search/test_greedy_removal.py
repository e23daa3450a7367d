"""Greedy removal: conditional scores, one path through all budgets."""

from types import SimpleNamespace

from test_methods import A0, A1, A2, M0, M1, M2, SPACE, problem

from nas.quality import Quality
from nas.search.greedy_removal import GreedyRemoval
from nas.search.library import score_library
from nas.search.methods import METHODS
from search_spaces import Architecture, Choice


def descent(budget_ms: float) -> GreedyRemoval:
    asked = problem(budget_ms)
    removal = GreedyRemoval(asked, score_library(asked, None))
    removal.run(budget_ms)
    return removal


def test_the_path_is_greedy_removal_by_loss_per_millisecond() -> None:
    """Six candidates a round are all there are: the narrowed rounds equal the published method's."""
    published = METHODS["finercut-per-ms"].find_removal_order(problem(5.0))
    assert published is not None
    path = descent(5.0).path
    assert [SPACE.decode(set(published[: n + 1])) for n in range(len(published))] == path


def test_a_step_is_scored_given_what_is_gone() -> None:
    """A2 alone costs 0.2 and M1 0.15 per ms; once A1 is gone A2 would cost 1.2."""
    removal = descent(6.5)
    assert removal.path[-1] == SPACE.decode({A1, M1, M2})
    assert removal.scored[SPACE.decode({A1, A2})] == 0.1 + 0.2 + 1.0


def test_every_budget_on_the_way_is_met_with_what_still_fits_restored() -> None:
    removal = descent(5.0)
    for budget in (9.5, 9.0, 8.0, 7.0, 6.0, 5.0):
        asked = problem(budget)
        found = removal.find_first_within_budget(budget)
        assert found is not None
        assert asked.is_feasible(found)
    assert removal.find_first_within_budget(0.5) is None
    assert removal.find_first_within_budget(10.0) == SPACE.parent
    assert removal.find_first_within_budget(7.5) == SPACE.decode({A1, M2})


def test_a_step_may_be_a_whole_block_whose_parts_are_dear_alone() -> None:
    """M2 costs 0.25 for 2 ms; A1 and M1 cost 0.4 and 0.5 alone, and 0.2 for 3 ms together."""

    def evaluate(architecture: Architecture, items: int | None = None) -> Quality:
        loss = {A0: 0.9, A1: 0.4, A2: 0.9, M0: 2.0, M1: 0.5, M2: 0.25}
        dropped = {unit for unit in loss if architecture.drops(unit)}
        total = sum(loss[unit] for unit in dropped) - 0.7 * (dropped >= {A1, M1})
        return Quality("kl", total, False, "validation", total, items=items or 4)

    for removes_blocks, first in ((True, {A1, M1}), (False, {M2})):
        asked = problem(7.0, evaluate=evaluate, removes_blocks=removes_blocks)
        removal = GreedyRemoval(asked, score_library(asked, None))
        removal.run(7.0)
        assert removal.path[0] == SPACE.decode(first)
    assert removal.find_first_within_budget(7.0) == SPACE.decode({M2, M1})  # 0.75, where the block is 0.2


def test_small_steps_that_are_about_as_cheap_are_made_together() -> None:
    """Until they save three percent of the start; a drop goes alone, and so does a token step."""
    asked = SimpleNamespace(predict_ms=lambda architecture: 100.0, space=SimpleNamespace(start=None))
    removal = GreedyRemoval(asked, {})
    vars(removal)["_negligible_rate"] = 0.01
    widths = [Choice.parse(f"mlp.{layer}:width=0.5") for layer in range(5)]
    drop, rates = Choice.parse("attention.0"), [0.10, 0.11, 0.12, 0.13, 0.3]
    saved = dict.fromkeys((*widths, drop), 1.0)
    small = dict(zip(widths, rates, strict=True))
    assert removal._select_small_steps(small, saved) == widths[:3]
    assert removal._select_small_steps({widths[0]: 0.10, widths[4]: 0.3}, saved) == widths[:1]
    assert removal._select_small_steps({drop: 0.05, **small}, saved) == []
    free = {drop: 0.001, **dict.fromkeys(widths, 0.005)}
    assert removal._select_small_steps(free, saved) == widths
