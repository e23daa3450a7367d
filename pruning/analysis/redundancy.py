"""How redundant every part is: cosine similarity of the residual stream before and after it, in one pass.

LLM-Drop (He et al., "What Matters in Transformers?", 2024) scores a unit by the mean over tokens of the cosine
between the residual stream where the unit reads it and after its contribution was added: higher is more
redundant. Whole blocks compare block input and output; the distance table compares the inputs of any two blocks
("The Unreasonable Ineffectiveness of the Deeper Layers", Gromov et al., 2024).

- pre-norm: in = the stream that enters the unit's norm, out = in + contribution.
- sandwich: the contribution is what the unit's second norm gives.
- post-norm: out = norm(in + contribution).
- parallel: attention and MLP are each compared alone with the stream that enters the block.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from pruning.analysis.kept_streams import KeptStreams
from pruning.analysis.observer import Inputs
from pruning.analysis.traversal import run_in_turn
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.contribution import BlockAnatomy, Layout
from pruning.anatomy.part import Part
from pruning.anatomy.probe import flatten_to_rows
from search_spaces.errors import BadData
from search_spaces.kinds import KNOWN_PARTS, PARTS, Kind
from search_spaces.unit import Unit

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Redundancy:
    """Mean cosine similarities: of each layer's attention, MLP and block, and between the inputs of any two blocks.

    `between[i][j]` compares the stream entering block i with that entering block j (j = depth: leaving the last).

    Example:
        >>> redundancy = measure_redundancy(model, batches)
        >>> most_redundant = redundancy.rank(Kind.ATTENTION)[0]
    """

    family: str
    layout: str
    tokens: int
    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    block: tuple[float, ...]
    between: tuple[tuple[float, ...], ...]
    cross_attention: tuple[float, ...] = ()  # of a decoder with an encoder

    @property
    def depth(self) -> int:
        """How many blocks were compared."""
        return len(self.block)

    def get_scores(self, kind: Kind) -> tuple[float, ...]:
        """The similarities of one kind, by layer; none of a kind that the blocks do not have."""
        scores: tuple[float, ...] = getattr(self, kind.replace("-", "_"))
        return scores

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of units that were compared."""
        return tuple(kind for kind in (*KNOWN_PARTS, Kind.BLOCK) if self.get_scores(kind))

    def rank(self, *kinds: Kind) -> tuple[Unit, ...]:
        """Units of these kinds, most redundant first; ties go to the deeper one."""
        scored = [(score, layer, kind) for kind in kinds for layer, score in enumerate(self.get_scores(kind))]
        return tuple(Unit(layer, kind) for _, layer, kind in sorted(scored, key=lambda s: (-s[0], -s[1], s[2])))

    def find_best_window(self, blocks: int) -> tuple[int, ...]:
        """The `blocks` contiguous blocks whose input and output are most alike (least angular distance).

        Raises:
            ValueError: when no window of that length fits.
        """
        if not 1 <= blocks <= self.depth:
            raise ValueError(f"a window of {blocks} blocks does not fit {self.depth} blocks")
        start = max(range(self.depth - blocks + 1), key=lambda first: self.between[first][first + blocks])
        return tuple(range(start, start + blocks))

    def compute_angular_distance(self, first: int, last: int) -> float:
        """arccos of the similarity of two block inputs over pi: 0 for the same direction."""
        return math.acos(max(-1.0, min(1.0, self.between[first][last]))) / math.pi

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Redundancy":
        """Read what `to_json` writes."""
        scores = {name.replace("-", "_"): tuple(values) for name, values in document["similarity"].items()}
        between = tuple(tuple(row) for row in document["between"])
        return cls(document["family"], document["layout"], document["tokens"], between=between, **scores)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "family": self.family,
            "layout": self.layout,
            "tokens": self.tokens,
            "similarity": {str(kind): list(self.get_scores(kind)) for kind in self.kinds},
            "between": [list(row) for row in self.between],
        }


def measure_redundancy(model: Any, batches: Iterable[dict[str, Tensor]], anatomy: Anatomy | None = None) -> Redundancy:
    """Stream batches through the model once; memory does not depend on how many there are.

    Args:
        model: a Hugging Face transformer.
        batches: keyword inputs of the model; tokens whose `attention_mask` is 0 are left out.
        anatomy: the model's, when it was read before.

    Raises:
        BadData: when there is no token to compare.
    """
    anatomy = anatomy or read_anatomy(model)
    observer = RedundancyObserver(anatomy)
    run_in_turn(model, anatomy, observer, batches)
    return observer.average()


class RedundancyObserver:
    """Running sums of cosines over tokens, in double precision.

    Example:
        >>> observer = RedundancyObserver(anatomy)
        >>> run_in_turn(model, anatomy, observer, batches)
        >>> redundancy = observer.average()
    """

    name = "redundancy"

    def __init__(self, anatomy: Anatomy, file: BinaryIO | None = None) -> None:
        """Nothing was seen yet.

        Args:
            file: for the streams of all batches on their way; None keeps them in memory.
        """
        self.anatomy, self.depth, self.tokens = anatomy, anatomy.depth, 0
        self.units = {kind: torch.zeros(self.depth, dtype=torch.float64) for kind in anatomy.parts}
        self.between = torch.zeros(self.depth + 1, self.depth + 1, dtype=torch.float64)
        self._kept = KeptStreams(self.depth + 1, file)
        self._batch = 0
        self._keep: Tensor | None = None

    def watch(self, index: int, block: nn.Module) -> "_Watcher":
        """Compare what enters, passes and leaves a block."""
        return _Watcher(self.anatomy.blocks[index], block, self.anatomy.hidden_size, self)

    def begin(self, number: int, inputs: Inputs) -> None:
        """What comes now is of this batch."""
        name = "decoder_attention_mask" if self.anatomy.part == Part.DECODER else "attention_mask"
        mask = None if self.anatomy.part == Part.VISION else inputs.get(name)
        self._keep = None if mask is None or bool(mask.all()) else mask.flatten().bool()
        self._batch = number

    def select_rows(self, value: Tensor) -> Tensor:
        """The tokens that count, fp32."""
        rows = value.float()
        return rows if self._keep is None else rows[self._keep]

    def add_stream(self, value: Tensor) -> None:
        """The normalised stream entering a block, or leaving the last."""
        self._kept.put(self._batch, nn.functional.normalize(self.select_rows(value), dim=-1))

    def add_unit(self, kind: Kind, layer: int, before: Tensor, after: Tensor) -> None:
        """A unit's stream before and after."""
        cosine = nn.functional.cosine_similarity(self.select_rows(before), self.select_rows(after), dim=-1)
        self.units[kind][layer] += cosine.cpu().sum(dtype=torch.float64)

    def end(self, number: int) -> None:
        """All pairs of block inputs in one product: sum over tokens of unit vectors' dot products."""
        streams = self._kept.take(number, self.anatomy.hidden_size)
        stacked = streams.flatten(1)
        self.between += (stacked @ stacked.T).cpu().double()
        self.tokens += streams.shape[1]

    def pack(self) -> dict[str, Any]:
        """The sums, and where the streams are that were not compared yet."""
        units = {str(kind): total for kind, total in self.units.items()}
        return {"tokens": self.tokens, "between": self.between, "units": units, "places": self._kept.places}

    def unpack(self, packed: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.tokens, self.between, self._kept.places = packed["tokens"], packed["between"], packed["places"]
        self.units = {kind: packed["units"][str(kind)] for kind in self.units}

    def average(self) -> Redundancy:
        """Means over tokens.

        Raises:
            BadData: there was no token.
        """
        if not self.tokens:
            raise BadData("the calibration data has 0 tokens; at least one is needed, so give more data")
        between = (self.between / self.tokens).tolist()
        means = {kind: tuple((total / self.tokens).tolist()) for kind, total in self.units.items()}
        blocks = tuple(between[layer][layer + 1] for layer in range(self.depth))
        return Redundancy(
            self.anatomy.family, self.anatomy.layout, self.tokens, block=blocks,
            between=tuple(tuple(row) for row in between),
            **{kind.replace("-", "_"): scores for kind, scores in means.items()},
        )  # fmt: skip


class _Watcher:
    """Hooks of one block: keeps its input until its units have been compared."""

    def __init__(self, block: BlockAnatomy, module: nn.Module, width: int, sums: RedundancyObserver) -> None:
        self.block, self.width, self.sums = block, width, sums
        self.entry: Tensor | None = None
        self.middle: Tensor | None = None  # the stream before the next part
        hooks = [module.register_forward_pre_hook(self._enter, with_kwargs=True)]
        hooks.append(module.register_forward_hook(self._leave))
        hooks += self._watch_parts(module)
        self._hooks = hooks

    def _watch_parts(self, module: nn.Module) -> list[Any]:
        """Hooks on what attention and MLP write, or on the stream between them where a part is added in another way."""
        if not self.block.has_both:
            return []
        if self._reads_between():
            reader = module.get_submodule(self.block.mlp.reads)
            return [reader.register_forward_pre_hook(self._watch_between, with_kwargs=True)]
        mixers = {kind: part for kind, part in self.block.parts.items() if kind is not Kind.MLP}
        hooks = [
            module.get_submodule(part.closes or part.last).register_forward_hook(partial(self._watch_mixer, kind))
            for kind, part in mixers.items()
        ]
        if self.block.layout is Layout.PARALLEL:
            hooks.append(module.get_submodule(self.block.mlp.last).register_forward_hook(self._watch_mlp))
        return hooks

    def _reads_between(self) -> bool:
        """Whether the attention's output is no summand of the stream: it is scaled first, or one of several."""
        sequential = self.block.layout in (Layout.PRE_NORM, Layout.SANDWICH, Layout.MIXED)
        return sequential and self.block.attention.scaled and bool(self.block.mlp.reads)

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.entry = next(
            rows for v in (*args, *kwargs.values()) if (rows := flatten_to_rows(v, self.width)) is not None
        )
        self.sums.add_stream(self.entry)
        self.middle = self.entry

    def _watch_between(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.middle = next(
            rows for v in (*args, *kwargs.values()) if (rows := flatten_to_rows(v, self.width)) is not None
        )
        assert self.entry is not None
        self.sums.add_unit(Kind.ATTENTION, self.block.index, self.entry, self.middle)

    def _watch_mixer(self, kind: Kind, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        written = self._read_rows(output)
        assert self.middle is not None
        after = written if self.block.get_contribution(kind).closes else self.middle + written
        self.sums.add_unit(kind, self.block.index, self.middle, after)
        self.middle = after

    def _watch_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self.entry is not None
        self.sums.add_unit(Kind.MLP, self.block.index, self.entry, self.entry + self._read_rows(output))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        leaving = self._read_rows(output)
        if not self.block.has_both:
            self._add_only_part(leaving)
        elif self.block.layout is not Layout.PARALLEL:
            assert self.middle is not None
            self.sums.add_unit(Kind.MLP, self.block.index, self.middle, leaving)
        if self.block.index == self.sums.depth - 1:
            self.sums.add_stream(leaving)

    def _add_only_part(self, leaving: Tensor) -> None:
        """The part that a block has does what the block does; the one that it lacks changes nothing."""
        assert self.entry is not None
        for kind in PARTS:
            after = leaving if kind in self.block.parts else self.entry
            self.sums.add_unit(kind, self.block.index, self.entry, after)

    def _read_rows(self, output: Any) -> Tensor:
        rows = flatten_to_rows(output[0] if isinstance(output, tuple | list) else output, self.width)
        assert rows is not None
        return rows
