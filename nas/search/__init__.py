"""The search: our engine, and the published methods it is compared with."""

from nas.search.outcome import Candidate, SearchOutcome
from nas.search.problem import Problem
from nas.search.run import run_search

__all__ = ["Candidate", "Problem", "SearchOutcome", "run_search"]
