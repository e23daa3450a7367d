"""Growing token budgets: a candidate is judged on few items first, and on more while it may still be the best.

Trials end on the last rung but one; all items are for the few that a budget is left with (`Engine`).

Successive halving with paired differences: candidate and incumbent are compared item by item on the items both have
seen, so that what makes an item hard cancels out. One that is clearly worse stops; its loss is then estimated as the
incumbent's plus the mean difference.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from nas.quality.quality import Quality
from nas.search.outcome import Candidate
from nas.search.problem import Problem
from search_spaces.architecture import Architecture

CLEARLY = 1.5  # standard errors beyond the margin
CLOSE = 0.05  # a difference that matters, relative to the best


@dataclass(frozen=True)
class IncumbentThreshold:
    """What a candidate has to reach: the incumbent, and how much worse one may be and still be of interest."""

    incumbent: Architecture
    margin: float


def judge(problem: Problem, architecture: Architecture, threshold: IncumbentThreshold | None) -> Quality:
    """The quality on `fidelity` items, or an estimate of it where fewer show that it does not reach the threshold.

    `Quality.items` says how many were used.
    """
    return judge_all(problem, [architecture], threshold)[0]


def judge_all(
    problem: Problem, architectures: Sequence[Architecture], threshold: IncumbentThreshold | None
) -> list[Quality]:
    """Each judged against the same bar; those that are left at a rung go on together."""
    judged: dict[Architecture, Quality] = {}
    left = list(dict.fromkeys(architectures))
    for rung in problem.rungs[:-2] if threshold is not None else ():
        assert threshold is not None
        problem.prefetch([(architecture, rung) for architecture in left if _is_judged_by(threshold, architecture)])
        judged |= {a: quality for a in left if (quality := _estimate_if_worse(problem, a, threshold, rung)) is not None}
        left = [architecture for architecture in left if architecture not in judged]
    problem.prefetch([(architecture, problem.fidelity) for architecture in left])
    judged |= {architecture: problem.evaluate(architecture, problem.fidelity) for architecture in left}
    return [judged[architecture] for architecture in architectures]


def _estimate_if_worse(
    problem: Problem, architecture: Architecture, threshold: IncumbentThreshold, rung: int | None
) -> Quality | None:
    """An estimate for one that does not reach the threshold, as the items of a rung show; None for the others."""
    if not _is_judged_by(threshold, architecture):
        return None
    estimate, error = compute_paired_difference(problem, architecture, threshold.incumbent, rung)
    if estimate - CLEARLY * error <= problem.evaluate(threshold.incumbent, problem.fidelity).loss + threshold.margin:
        return None
    return replace(problem.evaluate(architecture, rung), loss=estimate)


def _is_judged_by(threshold: IncumbentThreshold, architecture: Architecture) -> bool:
    return architecture != threshold.incumbent and bool(architecture.choices)


def compute_paired_difference(
    problem: Problem, architecture: Architecture, incumbent: Architecture, items: int | None
) -> tuple[float, float]:
    """The expected loss on `fidelity` items, and its standard error, from the first `items`.

    It is the incumbent's loss and the mean difference between the two on the items that both have seen.
    """
    level = problem.evaluate(incumbent, problem.fidelity).loss
    one, other = problem.evaluate(architecture, items), problem.evaluate(incumbent, items)
    if len(one.per_item) < 2:
        return level + one.loss - other.loss, 0.0
    difference, error = _compute_paired(one.per_item, other.per_item)
    return max(level + difference, 0.0), error


def is_significantly_worse(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether losses of the same items are more on average, beyond what these items leave to chance."""
    difference, error = _compute_paired(losses, others)
    return difference > CLEARLY * error


def _compute_paired(losses: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The mean difference and its standard error; 0 where a single item leaves that open."""
    differences = [mine - its for mine, its in zip(losses, others, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.fmean(differences), spread / len(differences) ** 0.5


def find_statistically_tied(problem: Problem, candidates: Sequence[Candidate], sure: int) -> list[Candidate]:
    """Who is worth all items: the first `sure`, and those behind them that may well be better than the first.

    Where a few items carry most of a loss, the best of many trials is best by luck, and others are not known to be
    worse: all whose loss may be less by a difference that matters are taken, `problem.max_tied` in all at most.

    Args:
        candidates: best first, as trials saw them.
    """
    behind = (c for c in candidates[sure:] if _can_be_better(problem, c, candidates[0]))
    return [*candidates[:sure], *islice(behind, max(0, problem.max_tied - sure))]


def _can_be_better(problem: Problem, candidate: Candidate, first: Candidate) -> bool:
    seen = problem.evaluate(first.architecture, problem.fidelity)
    if candidate.quality.items < seen.items:  # clearly worse on fewer
        return False
    estimate, error = compute_paired_difference(problem, candidate.architecture, first.architecture, problem.fidelity)
    return estimate - CLEARLY * error < (1 - CLOSE) * seen.loss
