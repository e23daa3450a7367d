"""`--goal draft`: at which budget the best model is the best draft of its parent, and how the winner is used as one.

Of two drafts that take as long the one that is accepted more often is the better. So the best draft is the best model
by acceptance at some latency: a search at several latencies finds it, and the latency becomes the budget.
"""

import json
from dataclasses import replace
from typing import Any

from nas.certification.run import CertificationRun
from nas.certification.search_context import SearchContext
from nas.pipeline.delivery import Delivery
from nas.pipeline.problem import build_problem
from nas.progress import Progress
from nas.request.quantities import Budget
from nas.search.speculation import Draft
from pruning.analysis.redundancy import Redundancy

FILE = "draft.json"
FRACTIONS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of the parent's latency, at which drafts are looked for


def settle_budget(context: SearchContext, redundancy: Redundancy, progress: Progress) -> SearchContext:
    """The search with the latency of the best draft as its budget; what was asked for is the most that it may be.

    Raises:
        NoFeasibleCandidate: nothing meets what was asked for.
    """
    problem = build_problem(context, redundancy)
    parent_ms = problem.predict_ms(problem.space.parent)
    fractions = [fraction for fraction in FRACTIONS if fraction * parent_ms < context.budget_ms]
    problem = replace(problem, front=tuple(fraction * parent_ms for fraction in fractions))
    outcome = CertificationRun(context, progress).search(problem)
    drafts = {
        candidate.architecture: Draft.of(1 - candidate.quality.loss, candidate.predicted_ms / parent_ms)
        for candidate in outcome.candidates
        if problem.is_feasible(candidate.architecture)
    }
    best = max(drafts.values(), key=lambda draft: draft.speedup)
    # A thousandth more: rounding must not refuse the one that was found.
    budget = Budget.parse(f"{min(1.0, 1.001 * best.cost):.4f}x")
    progress.show_message(f"draft: {_describe(best)}; the budget is {budget.text}")
    return replace(context, request=replace(context.request, budget=budget), budget_ms=budget.resolve(parent_ms))


def describe_draft(delivery: Delivery) -> Draft:
    """The winner as a draft: its acceptance on the test split, and its step over the parent's."""
    winner, parent = delivery.outcome.winner, delivery.outcome.parent
    cost = delivery.predict_ms(winner.architecture) / delivery.predict_ms(parent.architecture)
    return Draft.of(delivery.get_tested(winner).value, cost)


def write_draft(delivery: Delivery, draft: Draft, progress: Progress) -> None:
    """Write how the winner is used beside it: for people, and for the `generate` of Transformers."""
    from transformers import GenerationConfig

    folder = delivery.winner_folder
    (folder / FILE).write_text(json.dumps(draft.to_json(), indent=2) + "\n")
    settings: Any = delivery.winner.generation_config or GenerationConfig()
    settings.num_assistant_tokens = max(1, draft.tokens)
    settings.num_assistant_tokens_schedule = "constant"
    settings.assistant_confidence_threshold = 0.0  # as many as that, however sure it is
    settings.save_pretrained(folder)
    progress.show_message(f"draft: {_describe(draft)} on the test split")


def _describe(draft: Draft) -> str:
    return (
        f"{draft.acceptance:.1%} of its tokens are the parent's, a step takes {draft.cost:.2f} of the parent's, "
        f"{draft.tokens} tokens ahead give {draft.speedup:.2f} times the tokens a second"
    )
