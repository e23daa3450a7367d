"""The four models of the benchmark: workload, data, and the metric that each is judged by."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from latency_models.targets import HOST, find_target
from latency_models.work import count_flops
from latency_models.workload import Workload
from nas.execution.evaluation_cache import CachedEvaluator
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.pipeline.evaluator import build_evaluator
from nas.profiling.host_profile import measure_ms
from nas.profiling.latency_model import load_latency_model
from nas.progress import Progress
from nas.quality import Evaluator, Quality
from nas.request.choices import SEARCH
from nas.search import Problem
from nas.tokens.space import add_tokens, build_evaluator_with_tokens, build_snapping, choose_default_reduction
from nas.tokens.strategies import find_best_reduction
from pruning.analysis.redundancy import measure_redundancy
from search_spaces.kinds import Kind

TEXTS = Path(__file__).parents[2] / "reference" / "python-lm" / "data"
MIDDLE = 0.6  # of the parent's work: where ways of choosing tokens are compared


@dataclass(frozen=True)
class Case:
    """One model under one workload.

    Attributes:
        metric: of a quality, higher is better.
        metric_name: what people call it.
    """

    name: str
    workload: Workload
    metric: Callable[[Quality], float]
    metric_name: str
    texts: Path | None = None


def _measure_accuracy(quality: Quality) -> float:
    return quality.others.get("accuracy", quality.value)


CASES = {
    case.name: case
    for case in (
        Case("digits-vlm", Workload.parse("prefill:batch=1,seq=272"), _measure_accuracy, "exact answers"),
        Case("digits-vit", Workload.parse("forward:batch=8,seq=65"), _measure_accuracy, "accuracy"),
        Case("python-lm", Workload.parse("prefill:batch=1,seq=1024"), lambda q: -q.loss, "-KL, last position"),
        Case("minilm", Workload.parse("forward:batch=4,seq=256"), lambda q: q.value, "embedding fidelity", TEXTS),
    )
}


@dataclass(frozen=True)
class Bench:
    """A case, ready to be searched on this machine; its problem's space has everything: parts and token steps."""

    case: Case
    parent: ParentModel
    export: ParentExport
    evaluator: Evaluator
    cached_evaluator: CachedEvaluator
    problem: Problem

    @property
    def parent_ms(self) -> float:
        """The parent's predicted latency."""
        return self.problem.predict_ms(self.problem.space.parent)


def prepare(case: Case, progress: Progress) -> Bench:
    """Load the model, choose how it drops tokens, profile this machine for it (kept between runs)."""
    parent, target, workload = load_parent_model(case.name, case.texts), find_target(HOST), case.workload
    evaluator = build_evaluator_with_tokens(parent, workload, SEARCH)
    cached_evaluator, export = build_evaluator(parent, evaluator), ParentExport(parent, progress, workload.phase)
    structure = parent.anatomy.build_space((Kind.ATTENTION, Kind.MLP))
    space = add_tokens(structure, parent, target, workload, SEARCH)
    measure = partial(measure_ms, parent, export, workload)
    space = replace(space, reduction=find_best_reduction(parent, cached_evaluator, workload, MIDDLE, measure))
    latency = load_latency_model(parent, target, workload, export, progress, space)
    dataset = evaluator.dataset
    redundancy = measure_redundancy(parent.model, dataset.calibration.iterate_batches(4), parent.anatomy)
    problem = Problem(
        space, cached_evaluator, latency, 0.0, 50, redundancy, "", rungs=(len(dataset.validation),),
        reduction=choose_default_reduction(parent), flops=lambda a: count_flops(parent.shape, a, workload),
        snap=build_snapping(parent, target, workload),
    )  # fmt: skip
    return Bench(case, parent, export, evaluator, cached_evaluator, problem)
