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

CLEARLY = 1.0  # standard errors beyond the margin


@dataclass(frozen=True)
class Bar:
    """What a candidate has to reach: the incumbent, and how much worse one may be and still be of interest."""

    incumbent: Architecture
    margin: float


def judge(problem: Problem, architecture: Architecture, bar: Bar | None) -> Quality:
    """The quality on all items, or an estimate of it where fewer show that it does not reach the bar.

    `Quality.items` says how many were used.
    """
    quality = problem.evaluate(architecture, problem.rungs[0])
    if bar is None or architecture == bar.incumbent or not architecture.dropped:
        return problem.evaluate(architecture, problem.rungs[-1])
    best = problem.evaluate(bar.incumbent, problem.rungs[-1])
    for rung in problem.rungs[1:]:
        estimate, error = _paired(quality, best)
        if estimate - CLEARLY * error > best.loss + bar.margin:
            return replace(quality, loss=estimate)
        quality = problem.evaluate(architecture, rung)
    return quality


def _paired(quality: Quality, best: Quality) -> tuple[float, float]:
    """The loss on all items as the incumbent's plus the mean difference on common ones; its standard error."""
    common = list(zip(quality.per_item, best.per_item, strict=False))
    if len(common) < 2:
        return quality.loss, 0.0
    differences = [one - other for one, other in common]
    estimate = best.loss + statistics.fmean(differences)
    return max(estimate, 0.0), statistics.stdev(differences) / len(differences) ** 0.5
