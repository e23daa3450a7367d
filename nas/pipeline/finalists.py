"""The best candidates of a search, side by side."""

from collections.abc import Sequence

from nas.certification.search_context import SearchContext
from nas.certification.trained import FINALISTS
from nas.healing.tournament import Standing
from nas.results.finalists import Finalist
from nas.search import Candidate, Problem, SearchOutcome
from nas.search.outcome import evaluate_in_full
from pruning.surgery.prune import prune


def choose_finalists(problem: Problem, outcome: SearchOutcome) -> tuple[Candidate, ...]:
    """The candidates with the lowest losses within the budget, judged on all items, best first; not the parent itself.

    Where the target was measured, they are those that were measured within the budget.
    """
    ranked = [each for each in outcome.measured or outcome.ranked if each.architecture.choices]
    judged = evaluate_in_full(problem, ranked[:FINALISTS])
    return tuple(sorted(judged, key=lambda each: each.quality.loss))


def describe_finalists(
    context: SearchContext, candidates: Sequence[Candidate], standing: Standing | None
) -> tuple[Finalist, ...]:
    """What each loses as dropped, compensated and healed.

    Args:
        candidates: best first, as the search judged them.
        standing: of their healing, where they were healed.
    """
    return tuple(_describe(context, candidate, place, standing) for place, candidate in enumerate(candidates))


def _describe(context: SearchContext, candidate: Candidate, place: int, standing: Standing | None) -> Finalist:
    loss, adjusts = candidate.quality.loss, context.builder.plan is not None
    rungs = () if standing is None else tuple(each.get_loss(place) for each in standing.rungs if place in each.limits)
    return Finalist(
        number=place + 1,
        architecture=candidate.architecture,
        predicted_ms=candidate.predicted_ms,
        as_dropped=_judge_as_dropped(context, candidate) if adjusts else loss,
        compensated=loss if adjusts else None,
        rungs=rungs,
        healed=None if standing is None else standing.states[place].best_loss,
    )


def _judge_as_dropped(context: SearchContext, candidate: Candidate) -> float:
    """The validation loss with the parent's weights."""
    parent = context.parent
    model = prune(parent.model, candidate.architecture, anatomy=parent.anatomy, share_weights=True)
    return context.cached_evaluator.evaluator.evaluate(model).loss
