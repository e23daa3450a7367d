"""The search: score library, exact solve, and one Optuna study that decides on the real loss."""

from nas.search.outcome import Candidate, SearchOutcome
from nas.search.problem import Problem
from nas.search.study import run_search

__all__ = ["Candidate", "Problem", "SearchOutcome", "run_search"]
