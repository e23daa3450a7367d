"""One evaluation: the parent without some of its parts, judged on some items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.execution.memory_allocator import keep_memory
from nas.execution.task import Pieces, Task
from nas.quality.evaluator import Evaluator
from nas.quality.precision import Precision
from nas.quality.quality import Quality
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan
from pruning.inference.prefix_cache import GIB, PrefixStore, make_resumable
from search_spaces.errors import CacheMismatch

TOLERANCE = 1e-6  # of a loss, absolute and per item: resumed and full passes do the same arithmetic
SAMPLED = 8  # with verification, every eighth evaluation is repeated in full


@dataclass(frozen=True)
class Bench:
    """All that evaluating takes: what a worker elsewhere is sent.

    Attributes:
        precision: that of most evaluations; the others are in fp32.
        capacity: of the prefix cache, in bytes; 0 runs every pass in full.
        verify: repeat a sample of the evaluations without the cache.
        compensation: how candidates are adjusted; None leaves them as pruned.

    Example:
        >>> bench = Bench(parent.model, parent.anatomy, choose_evaluator(parent.model, parent.dataset))
        >>> worker = Worker(bench)
    """

    parent: Any
    anatomy: Anatomy
    evaluator: Evaluator
    precision: Precision = Precision.FP32
    capacity: int = GIB
    verify: bool = False
    compensation: CompensationPlan | None = None


@dataclass
class Worker:
    """Evaluates tasks one after another; passes resume where candidates agree (`pruning.inference.prefix_cache`).

    Attributes:
        stores: the prefix cache of each precision, with its counts of blocks computed and skipped.
        final_store: that of candidates that are adjusted with all calibration items.
        builder: of candidates.
        pieces: how many were judged.

    Example:
        >>> (quality,) = Worker(bench).run(Task(architecture, (0, 8)))
    """

    bench: Bench
    stores: dict[Precision, PrefixStore] = field(default_factory=dict)
    pieces: int = 0
    final_store: PrefixStore = field(init=False)
    builder: CandidateBuilder = field(init=False)

    def __post_init__(self) -> None:
        keep_memory()
        bench, used = self.bench, {self.bench.precision, Precision.FP32}
        adjusts = bench.compensation is not None
        capacity = bench.capacity // (len(used) + 2 * adjusts)
        self.builder = CandidateBuilder(bench.parent, bench.anatomy, bench.compensation, capacity)
        self.stores |= {each: PrefixStore(capacity) for each in used}
        self.final_store = PrefixStore(capacity) if adjusts else self.stores[Precision.FP32]

    def run(self, task: Task) -> Pieces:
        """Judge a task.

        Raises:
            CacheMismatch: when verifying, where a resumed evaluation is not the full one.
        """
        if not task.cuts:
            return (self.bench.evaluator.evaluate(self._build(task), task.split),)
        pairs = zip(task.cuts, task.cuts[1:], strict=False)
        return tuple(self._evaluate_piece(task, start, end) for start, end in pairs)

    def _evaluate_piece(self, task: Task, start: int, end: int) -> Quality:
        candidate, store = self._build(task), self.final_store if task.final else self.stores[task.precision]
        if store.capacity:
            make_resumable(candidate, self.bench.anatomy, self.builder.list_prefixes(task.architecture), store)
        quality = self.bench.evaluator.evaluate(task.precision.apply(candidate), task.split, end, start)
        if self.bench.verify and self.pieces % SAMPLED == 0:
            self._compare(task, start, end, quality)
        self.pieces += 1
        return quality

    def _build(self, task: Task) -> Any:
        return self.builder.build(task.architecture, task.final)

    def _compare(self, task: Task, start: int, end: int, quality: Quality) -> None:
        model = task.precision.apply(self._build(task))
        full = self.bench.evaluator.evaluate(model, task.split, end, start)
        pairs = zip(quality.per_item, full.per_item, strict=True)
        worst = max(abs(one - other) for one, other in pairs)
        if worst > TOLERANCE:
            raise CacheMismatch(
                f"{task.architecture.words}: resumed and full evaluation differ by {worst:.2g} (at most "
                f"{TOLERANCE:g}); run with --prefix-cache 0 and report the model"
            )


@dataclass(frozen=True)
class LocalExecutor:
    """This process, one task after another.

    Example:
        >>> ((position, (quality,)),) = LocalExecutor(Worker(bench)).run([Task(architecture, (0, 8))])
    """

    worker: Worker

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Pieces]]:
        """In order."""
        for position, task in enumerate(tasks):
            yield position, self.worker.run(task)

    @property
    def builder(self) -> CandidateBuilder:
        """Of its candidates: what it has adjusted needs not be adjusted again."""
        return self.worker.builder

    def close(self) -> None:
        """It holds nothing."""
