"""How redundant tokens are at every depth, in one pass: how alike they are, and how few of them are attended to.

For the states that enter each block and the tokens that may be dropped there:

- neighbour: mean cosine similarity of tokens that stand side by side. Merging (ToMe, Bolya et al. 2023) lives on it.
- nearest: of a token with the most similar other one of its item.
- mass: the share of the query's attention that these tokens receive, of all it gives. Dropping by attention (FastV,
  Chen et al. 2024; PyramidDrop, Xing et al. 2025) loses little where it is small.
- holding: how many of them, the most attended ones, hold 90 % of that mass.

Attention is what ranks tokens in a reduction: softmax over the whole row of the block's own queries and keys, mean
over heads. Beside image tokens the text tokens of a vision-language model are measured in the same way.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.analysis import token_similarity as alikeness
from pruning.analysis.observer import Inputs
from pruning.analysis.token_attention import find_states, query_attention
from pruning.analysis.traversal import run_in_turn
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.reduction.layout import Group, read_token_layout
from pruning.reduction.projections import read_projections
from pruning.reduction.ranking_check import check_attention
from search_spaces.errors import BadData, NasError, UnreadableModel
from search_spaces.schedule import Scorer

SCHEMA_VERSION = 1
MEASURES = ("neighbour", "nearest", "mass", "holding")
_NAMES = {
    Group.PATCHES: "patches",
    Group.TEXT: "text tokens",
    Group.PROMPT: "prompt tokens",
    Group.IMAGES: "image tokens",
}
_BESIDE = "text tokens"  # of a vision-language model
_QUERIES = {Scorer.LAST: "last token", Scorer.CLASS: "class token", Scorer.MEAN: "mean of all tokens"}


@dataclass(frozen=True)
class TokenCurves:
    """One group of tokens by depth: `tokens` of an item on average, and the four measures of every block's input."""

    name: str
    tokens: float
    neighbour: tuple[float, ...]
    nearest: tuple[float, ...]
    mass: tuple[float, ...]
    holding: tuple[float, ...]


@dataclass(frozen=True)
class TokenRedundancy:
    """The tokens that may be dropped (the first of `groups`) and those beside them, over `items` items.

    Example:
        >>> redundancy = measure_token_redundancy(model, batches, scorer=Scorer.LAST)
        >>> droppable = redundancy.groups[0]
    """

    family: str
    scorer: Scorer
    items: int
    groups: tuple[TokenCurves, ...]

    @property
    def depth(self) -> int:
        """How many blocks were looked at."""
        return len(self.groups[0].mass)

    @property
    def query(self) -> str:
        """Whose attention was measured, in words."""
        return _QUERIES[self.scorer]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "family": self.family,
            "query": str(self.scorer),
            "items": self.items,
            "groups": [asdict(group) for group in self.groups],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "TokenRedundancy":
        """Read what `to_json` writes."""
        groups = tuple(
            TokenCurves(group["name"], group["tokens"], *(tuple(group[measure]) for measure in MEASURES))
            for group in document["groups"]
        )
        return cls(document["family"], Scorer(document["query"]), document["items"], groups)


def measure_token_redundancy(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    anatomy: Anatomy | None = None,
    scorer: Scorer | None = None,
) -> TokenRedundancy:
    """Stream batches through the model once; memory does not depend on how many there are.

    Args:
        model: a Hugging Face transformer.
        batches: keyword inputs of the model; tokens whose `attention_mask` is 0 are left out.
        anatomy: the model's, when it was read before.
        scorer: who is asked for attention: last, class or mean. By default the last token of a decoder, the class
            token of an encoder (its first), and the mean where a vision model has no class token.

    Raises:
        UnreadableModel: no queries and keys are found in its attention, or not all that it does with them; or not
            which tokens may go.
        BadData: no item has a token that may be dropped; or as `TokenLayout.read` says.
        ValueError: another scorer.
    """
    anatomy = anatomy or read_anatomy(model)
    observer = TokenObserver(model, anatomy, scorer)
    run_in_turn(model, anatomy, observer, batches)
    return observer.average()


class TokenObserver:
    """Running sums of every measure, group and block, and where the tokens of batches on their way are.

    Example:
        >>> observer = TokenObserver(model, anatomy)
        >>> run_in_turn(model, anatomy, observer, batches)
        >>> redundancy = observer.average()
    """

    name = "tokens"

    def __init__(self, model: Any, anatomy: Anatomy, scorer: Scorer | None = None) -> None:
        """Nothing was seen yet; all as `measure_token_redundancy` has it.

        Raises:
            UnreadableModel: as there.
            ValueError: another scorer.
        """
        if scorer is not None and scorer not in _QUERIES:
            raise ValueError(f"scorer {scorer} asks no token for attention; take one of {', '.join(_QUERIES)}")
        check_attention(model, anatomy, range(anatomy.depth))
        blocks: nn.ModuleList = model.get_submodule(anatomy.stack)
        self.projections = [read_projections(blocks[block.index], block) for block in anatomy.blocks]
        self.anatomy, self.layout, self.scorer = anatomy, read_token_layout(model, anatomy), scorer
        self.names = [_NAMES[self.layout.group], *([_BESIDE] if self.layout.group is Group.IMAGES else [])]
        self.inputs: Inputs = {}
        self.failure: NasError | None = None
        self.batch = self.items = 0
        self.marked: dict[int, tuple[list[Tensor], Tensor | None]] = {}  # by batch, its groups and valid tokens
        self.tokens = [0 for _ in self.names]
        shape = (len(self.names), len(MEASURES), anatomy.depth)
        self.sums, self.counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.int64)

    def watch(self, index: int, block: nn.Module) -> RemovableHandle:
        """Look at what enters a block."""
        return block.register_forward_pre_hook(partial(self._enter, index), with_kwargs=True)

    def begin(self, number: int, inputs: Inputs) -> None:
        """What comes now is of this batch."""
        self.batch, self.inputs = number, inputs

    def end(self, number: int) -> None:
        """A batch is through."""
        self.marked.pop(number, None)

    def pack(self) -> dict[str, Any]:
        """The sums, and where the tokens of batches on their way are."""
        scorer = None if self.scorer is None else str(self.scorer)
        seen = {"sums": self.sums, "counts": self.counts, "tokens": self.tokens, "items": self.items}
        failure = None if self.failure is None else str(self.failure)
        return {**seen, "marked": self.marked, "scorer": scorer, "failure": failure}

    def unpack(self, packed: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.sums, self.counts = packed["sums"], packed["counts"]
        self.tokens, self.items, self.marked = packed["tokens"], packed["items"], packed["marked"]
        self.scorer = None if packed["scorer"] is None else Scorer(packed["scorer"])
        self.failure = None if packed["failure"] is None else BadData(packed["failure"])

    def _enter(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.failure is None:  # others may be looking at the same pass: what is wrong here is said at the end
            try:
                self._measure(index, args, kwargs)
            except (BadData, UnreadableModel) as error:
                self.failure = error

    def _measure(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add the states that enter a block."""
        hidden = find_states((*args, *kwargs.values()), self.anatomy.hidden_size)
        if index == 0:
            self._mark(hidden)
        groups, valid = self.marked[self.batch]
        units = nn.functional.normalize(hidden.float(), dim=-1)
        assert self.scorer is not None
        weights = query_attention(self.projections[index], self.scorer, hidden, valid, args, kwargs)
        for number, group in enumerate(groups):
            measured: list[Callable[[], alikeness.Sum]] = [
                partial(alikeness.compute_neighbour_cosine, units, group),
                partial(alikeness.compute_nearest_cosine, units, group),
                partial(alikeness.compute_mass, weights, group),
                partial(alikeness.count_holding, weights, group),
            ]
            for column, measure in enumerate(measured):
                total, count = measure()
                self.sums[number, column, index] += total
                self.counts[number, column, index] += count

    def _mark(self, hidden: Tensor) -> None:
        """Which tokens of a new batch are in which group."""
        read = self.layout.read(self.inputs, hidden)
        present = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        valid = None if read.valid is None or bool(read.valid.all()) else read.valid
        present = present if valid is None else valid
        groups = [present & ~read.protected, present & read.protected][: len(self.names)]
        self.marked[self.batch] = groups, valid
        if self.scorer is None:
            asks = Scorer.CLASS if self.layout.group is not Group.PATCHES or read.protected.any() else Scorer.MEAN
            self.scorer = Scorer.LAST if self.anatomy.is_decoder else asks
        self.items += len(hidden)
        for number, group in enumerate(groups):
            self.tokens[number] += int(group.sum())

    def average(self) -> TokenRedundancy:
        """Means; over tokens for what is of tokens, over items for what is of items.

        Raises:
            BadData: no item has a token that may be dropped.
            NasError: what went wrong on the way.
        """
        if self.failure is not None:
            raise self.failure
        if not self.tokens[0] or self.scorer is None:
            raise BadData(f"{self.items} items have 0 {self.names[0]} that may be dropped; give longer ones, or images")
        means = (self.sums / self.counts.clamp(min=1)).tolist()
        groups = (
            TokenCurves(name, tokens / self.items, *(tuple(measure) for measure in mean))
            for name, tokens, mean in zip(self.names, self.tokens, means, strict=True)
            if tokens
        )
        return TokenRedundancy(self.anatomy.family, self.scorer, self.items, tuple(groups))
