"""What judges the drafts of a decoder: how many of their tokens are their parent's."""

from latency_models.workload import Phase, Workload
from nas.parent.parent import ParentModel
from nas.quality.acceptance import AcceptanceEvaluator
from nas.request.choices import DRAFT, OFF
from nas.request.search_request import SearchRequest
from search_spaces.errors import UsageError


def build_draft_evaluator(request: SearchRequest, parent: ParentModel, workload: Workload) -> AcceptanceEvaluator:
    """Who judges drafts.

    Raises:
        UsageError: a model that writes no text, a workload that is no decoding step, or what a draft is not given.
    """
    if not parent.is_language_model:
        raise UsageError(f"--goal {DRAFT}: {parent.id} writes no text token by token; give a decoder")
    if workload.phase is not Phase.DECODE:
        raise UsageError(
            f"--goal {DRAFT}: a draft writes token by token, and {workload} is no such step; "
            "take --workload decode:batch=1,past=256"
        )
    given = {"--tokens": request.tokens != OFF, "--heal": request.heal_s is not None, "--pareto": request.pareto}
    for flag, asked in given.items():
        if asked:
            raise UsageError(f"--goal {DRAFT} and {flag}: a draft is searched without it; leave one of the two out")
    return AcceptanceEvaluator(parent.placed, parent.dataset)
