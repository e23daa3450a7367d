"""Physical terms: the arithmetic, the bytes and the launches of each unit of a model under a workload."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.unit import Kind, Unit

ATTENTION_KERNELS, MLP_KERNELS, STEM_KERNELS = 6, 4, 4  # fused operators an inference runtime launches


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
    """
    tokens = workload.tokens
    pairs = workload.batch * _visible(shape, layer, workload)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    flops = 2 * tokens * shape.attention_weights + 4 * pairs * queries
    cached = 2 * workload.batch * _reach(shape, layer, workload.past) * keys
    moved = tokens * (4 * shape.hidden + 2 * queries + 2 * keys) + cached
    return Work(flops, shape.attention_weights, moved, ATTENTION_KERNELS)


def mlp_work(shape: ModelShape, workload: Workload) -> Work:
    """The MLP of one block with its norm; of a mixture, the experts that run and those that must be read."""
    tokens = workload.tokens
    read = min(shape.experts, tokens * shape.active_experts)
    flops = 2 * tokens * shape.expert_weights * shape.active_experts
    inner = (2 if shape.gated else 1) * shape.intermediate * shape.active_experts
    return Work(flops, shape.expert_weights * read, tokens * (4 * shape.hidden + 2 * inner), MLP_KERNELS)


def stem_work(shape: ModelShape, workload: Workload) -> Work:
    """Everything outside the blocks: embedding, final norm, head. Prefill needs the last token's logits only."""
    per_token = shape.head_per_token and workload.phase is not Phase.PREFILL
    rows = workload.tokens if per_token else workload.batch
    head = shape.hidden * shape.outputs
    return Work(2 * rows * head, head, 2 * workload.tokens * shape.hidden + rows * shape.outputs, STEM_KERNELS)


def unit_work(shape: ModelShape, unit: Unit, workload: Workload) -> Work:
    """What disappears when `unit` is dropped."""
    attention = attention_work(shape, unit.layer, workload) if unit.kind is not Kind.MLP else NOTHING
    mlp = mlp_work(shape, workload) if unit.kind is not Kind.ATTENTION else NOTHING
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
    return sum((unit_work(shape, unit, workload) for unit in kept_units(architecture)), stem_work(shape, workload))


SHARED = ("constant", "first unit", "first attention")


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

    Hints, which may cost or save: how often two attentions, or two MLPs, follow each other with nothing between (a
    runtime fuses other things there), and the square of the number of units kept (what no longer fits a cache).
    """

    shape: ModelShape
    workload: Workload

    @cached_property
    def classes(self) -> dict[str, list[Unit]]:
        """Units that do the same work, by the name of their class: `attention`, `mlp`, `attention, window 64`."""
        found: dict[str, list[Unit]] = {}
        for unit in kept_units(Architecture.parent(self.shape.depth)):
            found.setdefault(self._class_of(unit), []).append(unit)
        return dict(sorted(found.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the physical terms."""
        return (*SHARED, *self.classes)

    def row(self, architecture: Architecture) -> NDArray[np.float64]:
        """The physical terms of an architecture, then its hints."""
        kept = kept_units(architecture)
        kinds = [unit.kind for unit in kept]
        counts = dict.fromkeys(self.classes, 0)
        for unit in kept:
            counts[self._class_of(unit)] += 1
        return np.array([*_shared(kinds), *counts.values(), *_hints(kinds, architecture.depth)])

    def place(self, unit: Unit) -> int:
        """The column of an attention or MLP."""
        return self.names.index(self._class_of(unit))

    def _class_of(self, unit: Unit) -> str:
        window = self.shape.window[unit.layer]
        length = self.workload.sequence + self.workload.past
        narrow = unit.kind is Kind.ATTENTION and window is not None and window < length
        return f"{unit.kind}, window {window}" if narrow else str(unit.kind)


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
