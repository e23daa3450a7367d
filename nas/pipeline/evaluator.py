"""What judges the candidates of a search: the evaluator with what is known, here or on a cluster."""

from nas.execution.cluster import Cluster
from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.worker import Bench, LocalExecutor, Worker
from nas.parent.parent import ParentModel
from nas.quality import Evaluator
from nas.quality.evaluations import Evaluations, open_evaluations
from nas.quality.precision import choose_precision
from nas.request.search_request import SearchRequest
from pruning.analysis.channel_orders import compute_orders_digest
from pruning.compensation.candidate_builder import CompensationPlan
from pruning.inference.device import CPU
from pruning.inference.prefix_cache import GIB

RUNGS = ((1 / 8, 4), (3 / 8, 8))  # shares of the validation items that a trial is judged on, and how many at least


def build_evaluator(
    parent: ParentModel,
    evaluator: Evaluator,
    cache_bytes: int = GIB,
    verify: bool = False,
    precision: str = "auto",
    items: int | None = None,
    storage: str | None = None,
    cluster: Cluster | None = None,
    compensation: CompensationPlan | None = None,
) -> CachedEvaluator:
    """The evaluator of a parent's candidates, with the evaluations that other searches made of them.

    Args:
        items: of the validation split, where not all will be used.
        storage: where the study is kept; evaluations are kept there too where machines share it.
        cluster: who evaluates; this process where there is none.
        compensation: how candidates are adjusted; None leaves them as pruned.
    """
    draft, final = ("", "") if compensation is None else (compensation.build_key(False), compensation.build_key(True))
    known = load_evaluations(parent, evaluator, "validation", storage, draft)
    finals = None if compensation is None else load_evaluations(parent, evaluator, "validation", storage, final)
    chosen, cuts = choose_precision(precision, parent.device), list_rungs(items or len(evaluator.dataset.validation))
    bench = Bench(parent.placed, parent.anatomy, evaluator, chosen, cache_bytes, verify, compensation)
    executor = LocalExecutor(Worker(bench)) if cluster is None else cluster.open_executor(bench)
    return CachedEvaluator(evaluator, known, executor, chosen, cuts, finals)


def load_evaluations(
    parent: ParentModel, evaluator: Evaluator, split: str, storage: str | None, compensation: str = ""
) -> Evaluations:
    """The evaluations that other searches made of a parent's candidates on a split.

    Args:
        compensation: names how the candidates were adjusted (`CompensationPlan.key`); empty where they were not.
    """
    content = f"{parent.digest}/{evaluator.dataset.get_split(split).digest}/{evaluator.metric}"
    content += f"/{compensation}" if compensation else ""
    orders = compute_orders_digest(parent.model)
    content += f"/{orders}" if orders else ""
    content += "" if parent.device.type == CPU else f"/{parent.device.type}"  # where sums are rounded otherwise
    return open_evaluations(parent.cache / f"evaluations-{content.replace('/', '-')}.jsonl", content, storage)


def list_rungs(items: int) -> tuple[int, ...]:
    """How many of the validation items a trial is judged on, growing; all of them are for the last few."""
    return tuple(sorted({*(min(items, max(min_items, round(share * items))) for share, min_items in RUNGS), items}))


def open_cluster(request: SearchRequest) -> Cluster | None:
    """Who evaluates; None for this process."""
    if request.executor == "local":
        return None
    return Cluster(request.workers, request.worker_resources or {"CPU": 1.0})
