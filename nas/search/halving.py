"""Growing token budgets: a candidate is judged on few items first, and on more while it may still be the best.

Successive halving with paired differences: candidate and incumbent are compared item by item on the items both have
seen, so that what makes an item hard cancels out. One that is clearly worse stops; its loss is then estimated as the
incumbent's plus the mean difference.
"""

import statistics
from dataclasses import dataclass, replace

from nas.quality.quality import Quality
from nas.search.problem import Problem
from search_spaces.architecture import Architecture

CLEARLY = 1.5  # standard errors beyond the margin


@dataclass(frozen=True)
class Bar:
    """What a candidate has to reach: the incumbent, and how much worse one may be and still be of interest."""

    incumbent: Architecture
    margin: float


def judge(problem: Problem, architecture: Architecture, bar: Bar | None) -> Quality:
    """The quality on all items, or an estimate of it where fewer show that it does not reach the bar.

    `Quality.items` says how many were used.
    """
    if bar is None or architecture == bar.incumbent or not architecture.dropped:
        return problem.evaluate(architecture, problem.rungs[-1])
    best = problem.evaluate(bar.incumbent, problem.rungs[-1])
    for rung in problem.rungs[:-1]:
        quality = problem.evaluate(architecture, rung)
        estimate, error = _paired(quality, problem.evaluate(bar.incumbent, rung), best.loss)
        if estimate - CLEARLY * error > best.loss + bar.margin:
            return replace(quality, loss=estimate)
    return problem.evaluate(architecture, problem.rungs[-1])


def _paired(quality: Quality, best: Quality, level: float) -> tuple[float, float]:
    """The loss on all items as the incumbent's `level` plus the mean difference, and the standard error of that.

    Both were judged on the same few items in the same arithmetic.
    """
    differences = [one - other for one, other in zip(quality.per_item, best.per_item, strict=True)]
    if len(differences) < 2:
        return level + quality.loss - best.loss, 0.0
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return max(level + statistics.fmean(differences), 0.0), error
