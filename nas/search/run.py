"""Running a search by the method that was asked for."""

import time

from nas.request.choices import ADD_BACK
from nas.search.engine import Engine
from nas.search.journal import Journal
from nas.search.methods import METHODS, TOKEN_METHODS, WIDTH_METHODS, add_back, drop_as_published
from nas.search.outcome import Candidate, SearchOutcome, build_infeasible_error
from nas.search.problem import ENGINE, Problem
from search_spaces.architecture import Architecture


def run_search(problem: Problem) -> SearchOutcome:
    """Search; continue when the problem's study exists already.

    Raises:
        NoFeasibleCandidate: nothing that was tried meets the budget.
    """
    return Engine(problem).run() if problem.method == ENGINE else _run_published(problem)


def _run_published(problem: Problem) -> SearchOutcome:
    """One published method to the budget; its own choice is the winner."""
    began, journal = time.monotonic(), Journal(problem)
    winner = problem.space.start if problem.is_feasible(problem.space.start) else _choose(problem)
    if winner is None:
        name = problem.method.removesuffix(ADD_BACK)
        raise build_infeasible_error(problem, journal.list_candidates(), f"{name} cannot get there: ")

    def evaluate_order(architecture: Architecture, origin: str) -> Candidate:
        quality = problem.evaluate(architecture, None)
        journal.add(architecture, quality, origin)
        return Candidate(
            architecture, quality, problem.predict_ms(architecture), origin, len(journal.list_candidates()) - 1, True
        )

    parent, best = evaluate_order(problem.space.parent, "parent"), evaluate_order(winner, problem.method)
    candidates = (parent,) if best.architecture == parent.architecture else (parent, best)
    return SearchOutcome(parent, (best,), candidates, {}, len(candidates), time.monotonic() - began)


def _choose(problem: Problem) -> Architecture | None:
    """What the method makes of the problem; None where it cannot meet the budget."""
    if problem.method in TOKEN_METHODS:
        return TOKEN_METHODS[problem.method].choose_architecture(problem)
    if problem.method in WIDTH_METHODS:
        return WIDTH_METHODS[problem.method].choose_architecture(problem)
    order = METHODS[problem.method.removesuffix(ADD_BACK)].find_removal_order(problem)
    if order is None:
        return None
    return add_back(problem, order) if problem.method.endswith(ADD_BACK) else drop_as_published(problem, order)
