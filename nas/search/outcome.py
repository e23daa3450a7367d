"""What a search found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nas.quality.quality import Quality
from nas.search.problem import IN_FULL, Problem
from search_spaces.architecture import Architecture
from search_spaces.errors import NoFeasibleCandidate


@dataclass(frozen=True)
class Candidate:
    """An architecture that was evaluated: its quality on validation data and its predicted latency.

    `full` says that all validation items were used; the final comparisons are only made among those.

    Example:
        >>> candidate = Candidate(architecture, quality, predicted_ms=8.2, origin="evolution", trial=12)
    """

    architecture: Architecture
    quality: Quality
    predicted_ms: float
    origin: str
    trial: int
    full: bool = False


@dataclass(frozen=True)
class SearchOutcome:
    """Every candidate, the order of the feasible ones, and how much work it took.

    Example:
        >>> outcome = run_search(problem)
        >>> winner = outcome.winner.architecture
    """

    parent: Candidate
    ranked: tuple[Candidate, ...]  # feasible, judged on all items, best first
    candidates: tuple[Candidate, ...]
    baselines: dict[str, Candidate]
    trials: int
    seconds: float
    measured: tuple[Candidate, ...] = ()  # inside the budget on the target, where that was measured; best first

    def lead_with(self, winner: Candidate) -> "SearchOutcome":
        """The outcome with this winner, and those that were as good before behind it."""
        others = tuple(each for each in self.ranked if each.architecture != winner.architecture)
        return replace(self, ranked=(winner, *others))

    @property
    def winner(self) -> Candidate:
        """The best feasible candidate."""
        return self.ranked[0]

    @property
    def pareto(self) -> tuple[Candidate, ...]:
        """Candidates judged on all items that no other such one beats in both latency and loss, fastest first."""
        return find_front(candidate for candidate in self.candidates if candidate.full)


def find_front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in both latency and loss, fastest first."""
    best: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.predicted_ms, c.quality.loss)):
        if not best or candidate.quality.loss < best[-1].quality.loss:
            best.append(candidate)
    return tuple(best)


def evaluate_whole_front(problem: Problem, outcome: SearchOutcome) -> SearchOutcome:
    """The outcome with every member of the front judged on all items, until nobody in it rests on fewer."""
    candidates = outcome.candidates
    while True:
        front = {candidate.architecture for candidate in find_front(candidates) if not candidate.full}
        if not front:
            return replace(outcome, candidates=candidates)
        chosen = iter(evaluate_in_full(problem, [c for c in candidates if c.architecture in front]))
        candidates = tuple(next(chosen) if c.architecture in front else c for c in candidates)


def evaluate_in_full(problem: Problem, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates judged on all items.

    Those that begin with the same blocks one after another: they share the work up to where they differ.
    """
    chosen = list(candidates)
    open_to = sorted((c.architecture for c in chosen if not c.full), key=lambda a: a.words.split())
    problem.prefetch([(architecture, None) for architecture in open_to])
    qualities = {}
    for done, architecture in enumerate(open_to):
        problem.on_phase(IN_FULL, done, len(open_to))
        qualities[architecture] = problem.evaluate(architecture, None)
    return [replace(c, quality=qualities.get(c.architecture, c.quality), full=True) for c in chosen]


def build_infeasible_error(problem: Problem, candidates: Sequence[Candidate], message: str = "") -> NoFeasibleCandidate:
    """The error for a budget that nothing meets: a `message` before it, and the fastest that was tried."""
    closest_ms = min((candidate.predicted_ms for candidate in candidates), default=None)
    return NoFeasibleCandidate(message + _describe_closest(problem, candidates), problem.budget_ms, closest_ms)


def _describe_closest(problem: Problem, candidates: Sequence[Candidate]) -> str:
    limits = "".join(f" with at most {limit.maximum:,.0f} {limit.name}" for limit in problem.limits)
    message = f"no candidate meets {problem.budget_ms:.2f} ms (p{problem.percentile}){limits}"
    if not candidates:
        return f"{message}; raise the budget"
    fastest = min(candidates, key=lambda c: c.predicted_ms)
    return (
        f"{message}; the closest takes {fastest.predicted_ms:.2f} ms ({fastest.architecture.words}); raise the budget"
    )
