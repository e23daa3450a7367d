"""Greedy removal: conditional scores, one path through all budgets."""

from test_methods import A1, A2, M1, M2, SPACE, problem

from nas.search.greedy_removal import GreedyRemoval
from nas.search.library import score_library
from nas.search.methods import METHODS


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
