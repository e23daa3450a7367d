"""Physical terms: the arithmetic, the bytes and the launches of each unit of a model under a workload."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency_models.block_shape import AttentionShape, MlpShape
from latency_models.shape import ModelShape
from latency_models.token_workloads import Step, block_workloads, steps
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.schedule import Reducer, Reduction, Scorer, Source
from search_spaces.unit import Unit

ATTENTION_KERNELS, MLP_KERNELS, STEM_KERNELS, STAGE_KERNELS = 6, 4, 4, 10  # fused operators that a runtime launches


@dataclass(frozen=True)
class Work:
    """`flops` (two per multiply-add), `weights` (parameters read), `activations` (elements moved), `kernels`."""

    flops: float
    weights: float
    activations: float
    kernels: int

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.flops + other.flops,
            self.weights + other.weights,
            self.activations + other.activations,
            self.kernels + other.kernels,
        )


NOTHING = Work(0.0, 0.0, 0.0, 0)


def attention_work(shape: ModelShape, layer: int, workload: Workload) -> Work:
    """The attention of one block with its norm.

    Scores and values count the pairs of tokens that a fused kernel computes: all of them, or the causal half,
    within the block's window. Keys and values of the past are read once.
    A recurrence works on each token alone, and reads and writes its state once.
    """
    attention, tokens = shape.block(layer).attention, workload.tokens
    pairs = workload.batch * _visible(shape, layer, workload)
    past = workload.batch * _reach(shape, layer, workload.past)
    flops = 2 * (tokens * (attention.weights + attention.extra) + past * attention.past) + 2 * pairs * attention.pair
    held = past * attention.cached + 2 * workload.batch * attention.state
    moved = tokens * (4 * shape.hidden + attention.pair + attention.cached) + held
    return Work(flops, attention.weights, moved, ATTENTION_KERNELS)


def mlp_work(shape: ModelShape, workload: Workload, layer: int = 0) -> Work:
    """The MLP of one block with its norm; of a mixture, the experts that run and those that must be read."""
    mlp, tokens = shape.block(layer).mlp, workload.tokens
    read = min(mlp.experts, tokens * mlp.active)
    flops = 2 * tokens * (mlp.dense + mlp.extra + mlp.expert * mlp.active)
    return Work(flops, mlp.dense + mlp.expert * read, tokens * (4 * shape.hidden + 2 * mlp.inner), MLP_KERNELS)


def stem_work(shape: ModelShape, workload: Workload, last: Workload | None = None) -> Work:
    """Everything outside the blocks: embedding, final norm, head. Prefill needs the last token's logits only.

    `last` is what the last block works on, where it is less: a decoder's head sees those tokens; an encoder's output
    has its full length again.
    """
    per_token = shape.head_per_token and workload.phase is not Phase.PREFILL
    ends = last if last is not None and shape.causal else workload
    rows = ends.tokens if per_token else workload.batch
    head = shape.hidden * shape.outputs
    return Work(2 * rows * head, head, 2 * workload.tokens * shape.hidden + rows * shape.outputs, STEM_KERNELS)


def stage_work(shape: ModelShape, step: Step, reduction: Reduction) -> Work:
    """Ranking and gathering at one stage: one query a sequence, the keys of all tokens, the hidden states moved.

    Norms and chance need no keys; a vision tower has ranked already. Merging compares half of the keys with the rest.
    """
    tokens, left = step.before.tokens, step.after.tokens
    ranked = reduction.scorer not in (Scorer.NORM, Scorer.RANDOM) and reduction.source is not Source.TOWER
    needs_keys = ranked or reduction.reducer is not Reducer.DROP
    weights = needs_keys * shape.hidden * shape.kv_heads * shape.head_dim
    flops = 2.0 * tokens * weights + 2 * tokens * shape.heads * shape.head_dim * ranked
    if reduction.reducer is Reducer.MERGE:
        flops += tokens * step.before.sequence / 2 * shape.head_dim
    moved = tokens * (2 * shape.hidden + needs_keys * shape.kv_heads * shape.head_dim) + left * shape.hidden
    return Work(flops, weights, moved, STAGE_KERNELS)


def unit_work(shape: ModelShape, unit: Unit, workload: Workload) -> Work:
    """What disappears when `unit` is dropped."""
    attention = attention_work(shape, unit.layer, workload) if unit.kind is not Kind.MLP else NOTHING
    mlp = mlp_work(shape, workload, unit.layer) if unit.kind is not Kind.ATTENTION else NOTHING
    return attention + mlp


def kept_units(architecture: Architecture) -> list[Unit]:
    """The attentions and MLPs that are left."""
    return [
        Unit(layer, kind)
        for layer in range(architecture.depth)
        for kind in (Kind.ATTENTION, Kind.MLP)
        if architecture.keeps(layer, kind)
    ]


def model_work(shape: ModelShape, architecture: Architecture, workload: Workload) -> Work:
    """The whole model."""
    return sum(works(shape, architecture, workload), NOTHING)


def works(shape: ModelShape, architecture: Architecture, workload: Workload) -> list[Work]:
    """What a device does one after the other: the stem, the kept units on the tokens that they see, the stages."""
    seen, reduction = block_workloads(shape, architecture, workload), architecture.tokens.reduction
    units = (unit_work(shape, unit, seen[unit.layer]) for unit in kept_units(architecture))
    stages = (stage_work(shape, step, reduction) for step in steps(shape, architecture, workload))
    return [stem_work(shape, workload, seen[-1]), *units, *stages]


SHARED = ("constant", "first unit", "first attention")
STAGES = ("stages", "stage tokens")


def count_units(architecture: Architecture) -> NDArray[np.float64]:
    """The shared terms, how many attentions and how many MLPs are kept, and the hints: `Terms.row` of like blocks."""
    kinds = [unit.kind for unit in kept_units(architecture)]
    counts = [kinds.count(Kind.ATTENTION), kinds.count(Kind.MLP)]
    return np.array([*_shared(kinds), *counts, *_hints(kinds, architecture.depth)])


@dataclass(frozen=True)
class Terms:
    """The columns of a regression over the architectures of one model under one workload.

    Physical terms: a constant, what the first unit and the first attention bring with them beyond their own work
    (outputs of the stem that nothing else reads; masks and position tables that all attentions share), and per class
    of units that do the same work, how many are kept.

    With `tokens`, for architectures with token schedules: per class also the sum over its units of the share of the
    parent's tokens that they work on, for attention that of the pairs of tokens too (about the square of the share),
    how many stages there are and the sum of the shares that they choose from. A parent's unit counts 1 in each.

    Hints, which may cost or save: how often two attentions, or two MLPs, follow each other with nothing between (a
    runtime fuses other things there), and the square of the number of units kept (what no longer fits a cache).
    """

    shape: ModelShape
    workload: Workload
    tokens: bool = False

    @classmethod
    def over(cls, shape: ModelShape, workload: Workload, architectures: Iterable[Architecture]) -> "Terms":
        """The columns that these architectures need."""
        return cls(shape, workload, any(architecture.reduction is not None for architecture in architectures))

    @cached_property
    def classes(self) -> dict[str, list[Unit]]:
        """Units that do the same work, by the name of their class: `attention`, `mlp`, `attention, window 64`."""
        found: dict[str, list[Unit]] = {}
        for unit in kept_units(Architecture.parent(self.shape.depth)):
            found.setdefault(self._class_of(unit), []).append(unit)
        return dict(sorted(found.items()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the physical terms."""
        if not self.tokens:
            return (*SHARED, *self.classes)
        pairs = (_pairs(name) for name, units in self.classes.items() if units[0].kind is Kind.ATTENTION)
        return (*SHARED, *self.classes, *map(_tokens, self.classes), *pairs, *STAGES)

    def row(self, architecture: Architecture) -> NDArray[np.float64]:
        """The physical terms of an architecture, then its hints."""
        kept = kept_units(architecture)
        kinds = [unit.kind for unit in kept]
        amounts = dict.fromkeys(self.names, 0.0) | dict(zip(SHARED, _shared(kinds), strict=True))
        seen = block_workloads(self.shape, architecture, self.workload)
        for unit in kept:
            name = self._class_of(unit)
            amounts[name] += 1
            if self.tokens:
                self._add_shares(amounts, unit, seen[unit.layer])
        if self.tokens:
            acting = steps(self.shape, architecture, self.workload)
            shares = sum(step.before.sequence for step in acting) / self.workload.sequence
            amounts |= dict(zip(STAGES, (float(len(acting)), shares), strict=True))
        return np.array([*amounts.values(), *_hints(kinds, architecture.depth)])

    def places(self, unit: Unit) -> list[int]:
        """The columns of an attention or MLP."""
        name = self._class_of(unit)
        return [place for place, each in enumerate(self.names) if each in (name, _tokens(name), _pairs(name))]

    def per_unit(self, values: NDArray[np.float64]) -> dict[str, float]:
        """One value for each shared term, class and stage term: of a class, all of its columns together."""
        found = {name: float(value) for name, value in zip(self.names, values, strict=True)}
        own = {name: float(values[self.places(units[0])].sum()) for name, units in self.classes.items()}
        return {name: own.get(name, value) for name, value in found.items() if name in (*SHARED, *own, *STAGES)}

    def _add_shares(self, amounts: dict[str, float], unit: Unit, seen: Workload) -> None:
        name = self._class_of(unit)
        amounts[_tokens(name)] += seen.sequence / self.workload.sequence
        if unit.kind is Kind.ATTENTION:
            everything = _visible(self.shape, unit.layer, self.workload)
            amounts[_pairs(name)] += _visible(self.shape, unit.layer, seen) / everything

    def _class_of(self, unit: Unit) -> str:
        window = self.shape.window[unit.layer]
        length = self.workload.sequence + self.workload.past
        narrow = unit.kind is Kind.ATTENTION and window is not None and window < length
        name = ", ".join(filter(None, (unit.kind, self._labels[unit.kind, self._part(unit)])))
        return f"{name}, window {window}" if narrow else name

    def _part(self, unit: Unit) -> AttentionShape | MlpShape:
        block = self.shape.block(unit.layer)
        return block.attention if unit.kind is Kind.ATTENTION else block.mlp

    @cached_property
    def _labels(self) -> dict[tuple[Kind, AttentionShape | MlpShape], str]:
        """What tells the parts of one kind from each other; nothing where all are alike."""
        found: dict[tuple[Kind, AttentionShape | MlpShape], str] = {}
        for kind in (Kind.ATTENTION, Kind.MLP):
            parts = list(dict.fromkeys(self._part(Unit(layer, kind)) for layer in range(self.shape.depth)))
            words = [part.words for part in parts]
            for part in parts:
                label = part.words if words.count(part.words) == 1 else f"{part.words}, {part.weights} weights"
                found[kind, part] = label if len(parts) > 1 else ""
        return found


def _tokens(name: str) -> str:
    return f"{name}, tokens"


def _pairs(name: str) -> str:
    return f"{name}, pairs"


def _shared(kinds: list[Kind]) -> list[float]:
    return [1.0, float(bool(kinds)), float(Kind.ATTENTION in kinds)]


def _hints(kinds: list[Kind], depth: int) -> list[float]:
    """Attentions that follow an attention, MLPs that follow an MLP, and the square of the units kept."""
    pairs = list(itertools.pairwise(kinds))
    return [*(pairs.count((kind, kind)) for kind in (Kind.ATTENTION, Kind.MLP)), len(kinds) ** 2 / depth]


def _reach(shape: ModelShape, layer: int, length: int) -> int:
    window = shape.window[layer]
    return length if window is None else min(length, window)


def _visible(shape: ModelShape, layer: int, workload: Workload) -> float:
    """Pairs (query, key) of one sequence."""
    new, past = workload.sequence, workload.past
    if not shape.causal:
        return float(new * (new + past))
    window = shape.window[layer] or new + past
    # Query i of the new tokens sees min(past + i + 1, window) keys.
    full = max(0, min(new, window - past))  # queries that still see everything
    return full * past + full * (full + 1) / 2 + (new - full) * window
