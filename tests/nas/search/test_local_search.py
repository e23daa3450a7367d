"""Local search: measured changes around an architecture, and the combinations of them that add least to the loss."""

import itertools

from test_level_search import SPACE as LEVELS
from test_level_search import Landscape
from test_level_search import problem as level_problem
from test_methods import A0, A1, A2, LOSS, M0, M1, M2, SPACE, problem

from nas.quality.quality import Quality
from nas.search import Problem
from nas.search.library import score_library
from nas.search.local_search import measure_changes, propose_combined_changes
from nas.search.surrogate import Surrogate
from search_spaces import Architecture, Kind, Space, Unit
from search_spaces.space import is_empty


def evaluate_additive(architecture: Architecture, items: int | None = None) -> Quality:
    """Without pairs, so that the sum of changes is what they add together."""
    loss = sum(loss for unit, loss in LOSS.items() if architecture.drops(unit))
    return Quality("kl", loss, False, "validation", loss, items=items or 4)


def surrogate(asked: Problem) -> Surrogate:
    return Surrogate(asked.space.choices, score_library(asked, None))


def list_within(asked: Problem, changed: int, start: Architecture) -> list[Architecture]:
    """By brute force: what meets the budget and differs from the start in two to so many units."""
    units = list(LOSS)
    every = [SPACE.decode(chosen) for n in range(len(units)) for chosen in itertools.combinations(units, n)]
    differ = {each: sum(each.drops(unit) != start.drops(unit) for unit in units) for each in every}
    return [each for each in every if 2 <= differ[each] <= changed and asked.is_feasible(each)]


def test_a_change_is_measured_around_the_architecture() -> None:
    """With A1 gone A2 costs its own 0.2 and the pair's 1.0; A1 comes back for 1 ms."""
    asked = problem(9.0)
    changes = {change.unit: change for change in measure_changes(asked, SPACE.decode({A1}), surrogate(asked))}
    assert (round(changes[A2].loss, 9), changes[A2].ms) == (1.2, -1.0)
    assert (round(changes[A1].loss, 9), changes[A1].ms) == (-0.1, 1.0)
    assert (round(changes[M0].loss, 9), changes[M0].ms) == (0.9, -2.0)
    assert len(changes) == 6


def test_the_best_combination_is_the_best_of_all_where_changes_add_up() -> None:
    """From the worst within the budget: A0, A2 and M0 are gone for 4 ms."""
    asked = problem(6.5, evaluate=evaluate_additive)
    start = SPACE.decode({A0, A2, M0})
    proposed = propose_combined_changes(asked, start, surrogate(asked), 4)
    losses = sorted(evaluate_additive(each).loss for each in list_within(asked, 3, start))
    assert [evaluate_additive(each).loss for each in proposed] == losses[:4]


def test_a_part_of_a_removed_block_comes_back_alone() -> None:
    asked = problem(7.0)
    start = SPACE.decode({A1, M1})
    assert start.words == "attn+mlp removed attn+mlp"
    words = [each.words for each in propose_combined_changes(asked, start, surrogate(asked), 20)]
    assert "attn+mlp mlp attn" in words  # M1 for M2; A1 stays dropped
    assert "attn+mlp attn attn+mlp" not in words  # A1 for nothing is a single change, and 8 ms


def test_whole_blocks_are_changed_where_there_are_no_parts() -> None:
    space = Space.dropping(3, [Unit(layer, Kind.BLOCK) for layer in range(3)])
    asked = problem(7.5, space=space)
    proposed = propose_combined_changes(asked, space.decode({Unit(0, Kind.BLOCK)}), surrogate(asked), 5)
    words = ["attn+mlp removed attn+mlp", "attn+mlp attn+mlp removed", "attn+mlp removed removed"]  # 0.4, 0.45, both
    assert [each.words for each in proposed] == words


def test_a_unit_moves_to_any_of_its_levels() -> None:
    landscape = Landscape(0)
    asked = level_problem(landscape, 6.0)
    start = LEVELS.decode({A0, A1, M2})
    changes = measure_changes(asked, start, surrogate(asked))
    assert sum(change.unit == M2 for change in changes) == 4  # the parent's level and three widths
    assert sum(change.unit == M1 for change in changes) == 4  # dropped and three widths
    for each in propose_combined_changes(asked, start, surrogate(asked), 10):
        assert asked.is_feasible(each)
        assert LEVELS.contains(each)


def test_nothing_is_proposed_that_keeps_nothing_or_breaks_the_budget() -> None:
    for budget in (3.0, 4.5, 6.0, 9.0):
        asked = problem(budget)
        starts = [
            each for each in (SPACE.decode({A0, A1, A2, M1}), SPACE.decode({M0, M1, M2})) if asked.is_feasible(each)
        ]
        for start in starts:
            for each in propose_combined_changes(asked, start, surrogate(asked), 50):
                assert not is_empty(each)
                assert asked.is_feasible(each)
                assert each != start
