"""The hot path of a search: the quality of many architectures of one parent, each item judged once."""

from collections.abc import Iterable, Sequence

from nas.execution.task import VALIDATION, Executor, Pieces, Task
from nas.quality.evaluations import Evaluations, Key
from nas.quality.evaluator import Evaluator
from nas.quality.precision import Precision
from nas.quality.quality import Quality
from search_spaces.architecture import Architecture


class CachedEvaluator:
    """An executor with a memory.

    Attributes:
        evaluations: how many were computed; one that is known on fewer items is continued, and counts again.
        items: how many items those saw together.

    Example:
        >>> known = FileEvaluations(Path("evaluations.jsonl"), "digest of weights and data")
        >>> evaluate = CachedEvaluator(evaluator, known, LocalExecutor(Worker(bench)))
        >>> loss = evaluate(architecture, items=8).loss
    """

    def __init__(
        self,
        evaluator: Evaluator,
        known: Evaluations,
        executor: Executor,
        precision: Precision = Precision.FP32,
        cuts: Sequence[int] = (),
        final: Evaluations | None = None,
    ) -> None:
        """What is known, and who finds out the rest.

        Args:
            evaluator: whose qualities these are.
            known: what other searches found out; every new quality is added.
            precision: of every evaluation but the final ones.
            cuts: numbers of items at which an evaluation may be continued, growing. All candidates are cut there, so
                that they see the same batches and can share states.
            final: what is known of candidates that were adjusted with all calibration items; None where all
                candidates are alike.
        """
        self.final = known if final is None else final
        self.evaluator, self.known, self.executor, self.precision = evaluator, known, executor, precision
        self.evaluations = self.items = 0
        self._cuts = tuple(cuts)

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        """Validation quality on the first items; with None on all, in fp32: the final word.

        Raises:
            CacheMismatch: where verifying found that a resumed evaluation is not the full one.
            ExecutionError: nobody is left to evaluate.
        """
        key, known = self._build_key(architecture, items), self._choose_evaluations(items)
        if key not in known:
            self._find_out([key], known)
        return known[key]

    def prefetch(self, asked: Sequence[tuple[Architecture, int | None]]) -> None:
        """Find out together what will be asked for one by one."""
        for last in (False, True):
            some = [each for each in asked if (each[1] is None) is last]
            known = self.final if last else self.known
            keys = dict.fromkeys(self._build_key(architecture, items) for architecture, items in some)
            self._find_out([key for key in keys if key not in known], known)

    def evaluate_in_full(self, architecture: Architecture, split: str, items: int | None = None) -> Quality:
        """Quality on any split, or on its first items; not kept."""
        return self.evaluate_all_in_full([architecture], split, items)[architecture]

    def evaluate_all_in_full(
        self, architectures: Iterable[Architecture], split: str, items: int | None = None
    ) -> dict[Architecture, Quality]:
        """The same of several, found out together."""
        chosen = list(dict.fromkeys(architectures))
        cuts = () if items is None else (0, items)
        results = self.executor.run([Task(architecture, cuts, split=split, final=True) for architecture in chosen])
        by_position = {position: pieces[0] for position, pieces in results}
        return {architecture: by_position[position] for position, architecture in enumerate(chosen)}

    def _build_key(self, architecture: Architecture, items: int | None) -> Key:
        every = len(self.evaluator.dataset.get_split(VALIDATION))
        asked = every if items is None else min(items, every)
        return architecture, asked, Precision.FP32 if items is None else self.precision

    def _choose_evaluations(self, items: int | None) -> Evaluations:
        return self.final if items is None else self.known

    def _find_out(self, keys: Sequence[Key], known: Evaluations) -> None:
        tasks = [self._build_task(key, known) for key in keys]
        for position, pieces in self.executor.run(tasks):
            self._keep(tasks[position], pieces, known)

    def _build_task(self, key: Key, known: Evaluations) -> Task:
        """From the most items that it is known on to those that are asked."""
        architecture, asked, precision = key
        start = known.find_fewer(key)
        between = (cut for cut in self._cuts if start < cut < asked)
        return Task(architecture, (start, *between, asked), precision, final=known is not self.known)

    def _keep(self, task: Task, pieces: Pieces, known: Evaluations) -> None:
        start = task.cuts[0]
        for cut, quality in zip(task.cuts[1:], pieces, strict=True):
            whole = known[task.architecture, start, task.precision].join(quality) if start else quality
            known.add((task.architecture, cut, task.precision), whole)
            self.items += quality.items
            start = cut
        self.evaluations += 1
