"""The hot path of a search: the quality of many architectures of one parent."""

from collections.abc import Sequence
from typing import Any

from nas.quality.evaluations import Evaluations
from nas.quality.evaluator import Evaluator
from nas.quality.precision import Precision
from nas.quality.quality import Quality
from pruning.anatomy import Anatomy
from pruning.prefix import GIB, PrefixStore, make_resumable
from pruning.surgery import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import CacheMismatch

TOLERANCE = 1e-6  # of a loss, absolute and per item: resumed and full passes do the same arithmetic
SAMPLED = 8  # with verification, every eighth evaluation is repeated in full


class Scorer:
    """Evaluates architectures, each item once; passes resume where candidates agree (`pruning.prefix`).

    Attributes:
        evaluations: how many were computed; one that is known on fewer items is continued, and counts again.
        items: how many items those saw together.
        stores: the prefix cache of each precision, with its counts of blocks computed and skipped.
    """

    def __init__(
        self,
        parent: Any,
        anatomy: Anatomy,
        evaluator: Evaluator,
        known: Evaluations,
        *,
        capacity: int = GIB,
        verify: bool = False,
        precision: Precision = Precision.FP32,
        cuts: Sequence[int] = (),
    ) -> None:
        """An evaluator with a memory.

        Args:
            known: what earlier searches found out; every new quality is added.
            capacity: of the prefix cache, in bytes; 0 runs every pass in full.
            verify: repeat a sample of the evaluations without the cache.
            precision: of every evaluation but the final ones.
            cuts: numbers of items at which an evaluation may be continued, growing. All candidates are cut there, so
                that they see the same batches and can share states.
        """
        self.evaluator, self.known, self.precision = evaluator, known, precision
        self.stores = {each: PrefixStore(capacity // len({precision, Precision.FP32})) for each in Precision}
        self.evaluations = self.items = 0
        self._parent, self._anatomy, self._verify, self._cuts = parent, anatomy, verify, tuple(cuts)

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        """Validation quality on the first items; with None on all, in fp32: the final word.

        Raises:
            CacheMismatch: with `verify`, when a resumed evaluation is not the full one.
        """
        every = len(self.evaluator.dataset.validation)
        asked = every if items is None else min(items, every)
        precision = Precision.FP32 if items is None else self.precision
        key = (architecture, asked, precision)
        if key not in self.known:
            start = self.known.fewer(key)
            for cut in (*(cut for cut in self._cuts if start < cut < asked), asked):
                self._continue(architecture, start, cut, precision)
                start = cut
            self.evaluations += 1
        return self.known[key]

    def in_full(self, architecture: Architecture, split: str, items: int | None = None) -> Quality:
        """Quality on any split, without the cache."""
        return self.evaluator.evaluate(self._pruned(architecture), split, items)

    def _continue(self, architecture: Architecture, start: int, items: int, precision: Precision) -> None:
        """Make an architecture known on so many items that is known on the first `start`."""
        candidate, store = self._pruned(architecture), self.stores[precision]
        if store.capacity:
            make_resumable(candidate, self._anatomy, architecture, store)
        quality = self.evaluator.evaluate(precision.of(candidate), "validation", items, start)
        if self._verify and self.evaluations % SAMPLED == 0:
            self._compare(architecture, range(start, items), precision, quality)
        self.items += quality.items
        whole = self.known[architecture, start, precision].joined(quality) if start else quality
        self.known.add((architecture, items, precision), whole)

    def _pruned(self, architecture: Architecture) -> Any:
        return prune(self._parent, architecture, anatomy=self._anatomy, share_weights=True)

    def _compare(self, architecture: Architecture, items: range, precision: Precision, quality: Quality) -> None:
        model = precision.of(self._pruned(architecture))
        full = self.evaluator.evaluate(model, "validation", items.stop, items.start)
        pairs = zip(quality.per_item, full.per_item, strict=True)
        worst = max(abs(one - other) for one, other in pairs)
        if worst > TOLERANCE:
            raise CacheMismatch(
                f"{architecture.words}: resumed and full evaluation differ by {worst:.2g} (at most {TOLERANCE:g}); "
                "run with --prefix-cache 0 and report the model"
            )
