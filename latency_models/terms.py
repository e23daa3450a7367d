"""The columns of a latency regression: which parts an architecture keeps, and how much of their work they do."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from latency_models.block_shape import Part
from latency_models.resolved_blocks import find_parts, resolve_block
from latency_models.shape import ModelShape
from latency_models.token_workloads import list_block_workloads, list_steps
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.kinds import AFTER_BLOCKS, BEHIND, KNOWN_PARTS, PARTS, Kind
from search_spaces.level import DROP
from search_spaces.rules import get_parts
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit, is_structural

SHARED = ("constant", "first unit", "first attention")
STAGES = ("stages", "stage tokens")


def list_kept_units(architecture: Architecture) -> list[Unit]:
    """The attentions and MLPs that are left."""
    layers = range(architecture.depth)
    return [Unit(layer, kind) for layer in layers for kind in PARTS if architecture.keeps(layer, kind)]


def count_units(architecture: Architecture) -> NDArray[np.float64]:
    """The shared terms, how many attentions and MLPs are kept, and the hints: `Terms.compute_row` of like blocks."""
    return _group_like_blocks(architecture.depth).compute_row(architecture)


@dataclass(frozen=True)
class Terms:
    """The columns of a regression over the architectures of one model under one workload.

    Physical terms: a constant, what the first unit and the first attention bring with them beyond their own work
    (outputs of the stem that nothing else reads; masks and position tables that all attentions share), and per class
    of units that do the same work in the parent, how many are kept. One at another level than the parent's counts as
    the share of the parent's arithmetic that it does.

    With `levels`, kinds of which architectures at several levels were measured: of their classes such a one counts 1
    like any other, and the shares have a column of their own.

    With `formats`, kinds and precisions other than the parent's that were measured: a unit in such a precision counts
    in a column of its class and precision, on the tokens that it is given, and in no other. The head, which is part of
    the constant otherwise, has a column for each of its precisions then.

    With `tokens`, for architectures with token schedules: per class also the sum over its units of the share of the
    parent's tokens that they work on, for attention that of the pairs of tokens too (about the square of the share),
    how many stages there are and the sum of the shares that they choose from. A parent's unit counts 1 in each.

    Hints, which may cost or save: how often two attentions, or two MLPs, follow each other with nothing between (a
    runtime fuses other things there), and the square of the number of units kept (what no longer fits a cache).

    Example:
        >>> terms = Terms(shape, Workload(Phase.FORWARD))
        >>> row = terms.compute_row(Architecture.parent(shape.depth))
    """

    shape: ModelShape
    workload: Workload
    tokens: bool = False
    levels: frozenset[Kind] = frozenset()
    formats: frozenset[tuple[Kind, str]] = frozenset()

    @classmethod
    def over(cls, shape: ModelShape, workload: Workload, architectures: Iterable[Architecture]) -> "Terms":
        """The columns that these architectures need."""
        choices = set().union(*(architecture.choices for architecture in architectures))
        reduces = any(not is_structural(choice) for choice in choices)
        return cls(shape, workload, reduces, *_find_levels(shape, choices))

    @classmethod
    def of_space(cls, shape: ModelShape, workload: Workload, space: Space | None) -> "Terms":
        """The columns that the architectures of a space need; without one, those that drop units."""
        if space is None:
            return cls(shape, workload)
        reduces = space.fixed is not None or space.reduction is not None
        return cls(shape, workload, reduces, *_find_levels(shape, space.choices))

    def covers(self, architecture: Architecture) -> bool:
        """Whether they were made for architectures with such levels as this one has."""
        reduces = architecture.reduction is not None
        levels, formats = _find_levels(self.shape, architecture.choices)
        return (self.tokens or not reduces) and levels <= self.levels and formats <= self.formats

    @cached_property
    def classes(self) -> dict[str, list[Unit]]:
        """Units that do the same work, by the name of their class: `attention`, `mlp`, `attention, window 64`."""
        classes: dict[str, list[Unit]] = {}
        for unit, name in self._names.items():
            classes.setdefault(name, []).append(unit)
        return dict(sorted(classes.items()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the physical terms."""
        first = {name: units[0] for name, units in self.classes.items()}
        others = [_name_work(name) for name, unit in first.items() if unit.kind in self.levels]
        others += self._behind
        others += [
            _name_format(name, precision)
            for name, unit in first.items()
            for kind, precision in sorted(self.formats)
            if unit.kind is kind
        ]
        if not self.tokens:
            return (*SHARED, *first, *others)
        pairs = (_name_pairs(name) for name, unit in first.items() if self._get_parent_part(unit).mixes_tokens)
        return (*SHARED, *first, *others, *map(_name_tokens, first), *pairs, *STAGES)

    def compute_row(self, architecture: Architecture) -> NDArray[np.float64]:
        """The physical terms of an architecture, then its hints."""
        kept = find_parts(self.shape, architecture)
        attends = any(part.mixes_tokens for _, part in kept)
        amounts = dict.fromkeys(self.names, 0.0) | dict(zip(SHARED, _compute_shared(bool(kept), attends), strict=True))
        seen = list_block_workloads(self.shape, architecture, self.workload)
        for unit, part in kept:
            self._add(amounts, unit, part, seen[unit.layer])
        if self._behind:
            amounts |= self._count_behind(architecture)
        if self.tokens:
            acting = list_steps(self.shape, architecture, self.workload)
            shares = sum(step.before.sequence for step in acting) / self.workload.sequence
            amounts |= dict(zip(STAGES, (float(len(acting)), shares), strict=True))
        return np.array([*amounts.values(), *_compute_hints([unit.kind for unit, _ in kept], architecture.depth)])

    def find_columns(self, unit: Unit) -> list[int]:
        """The columns of a part; none where the parent has no such one."""
        if unit not in self._names:
            return []
        name = self._names[unit]
        own = (name, _name_work(name), _name_tokens(name), _name_pairs(name))
        return [position for position, each in enumerate(self.names) if each in own]

    def compute_per_unit(self, values: NDArray[np.float64]) -> dict[str, float]:
        """One value for each shared term, class and stage term: of a class, all of its columns together."""
        values_by_name = {name: float(value) for name, value in zip(self.names, values, strict=True)}
        own = {name: float(values[self.find_columns(units[0])].sum()) for name, units in self.classes.items()}
        return {
            name: own.get(name, value) for name, value in values_by_name.items() if name in (*SHARED, *own, *STAGES)
        }

    def _add(self, amounts: dict[str, float], unit: Unit, part: Part, seen: Workload) -> None:
        """Count one part that is left, which works on what is `seen`."""
        name, share = self._names[unit], self._compute_share(unit, part)
        if (unit.kind, part.precision) in self.formats:
            amounts[_name_format(name, str(part.precision))] += share * seen.sequence / self.workload.sequence
            return
        amounts[name] += 1 if unit.kind in self.levels else share
        if unit.kind in self.levels:
            amounts[_name_work(name)] += share
        if self.tokens:
            amounts[_name_tokens(name)] += share * seen.sequence / self.workload.sequence
            if part.mixes_tokens:
                everything = self.shape.compute_load(unit.layer, self.workload).pairs
                amounts[_name_pairs(name)] += share * self.shape.compute_load(unit.layer, seen).pairs / everything

    def _count_behind(self, architecture: Architecture) -> dict[str, float]:
        """What follows the blocks, once in the column of its precision."""
        left = resolve_block(self.shape, AFTER_BLOCKS, architecture.list_block_choices(AFTER_BLOCKS))
        names = (_name_behind(kind, part.precision) for kind, part in left.parts.items())
        return {name: 1.0 for name in names if name in self._behind}

    @cached_property
    def _behind(self) -> list[str]:
        """The columns of what follows the blocks, where it was measured in several precisions."""
        formats = sorted(each for each in self.formats if each[0] in BEHIND)
        kinds = dict.fromkeys(kind for kind, _ in formats)
        return [_name_behind(kind, None) for kind in kinds] + [_name_behind(*each) for each in formats]

    def _compute_share(self, unit: Unit, part: Part) -> float:
        """Of the arithmetic of the parent's part."""
        own, load = self._get_parent_part(unit), self.shape.compute_load(unit.layer, self.workload)
        return 1.0 if part == own else part.count_flops(load) / own.count_flops(load)  # whatever the precision

    def _get_parent_part(self, unit: Unit) -> Part:
        return self.shape.get_block(unit.layer).parts[unit.kind]

    @cached_property
    def _names(self) -> dict[Unit, str]:
        """Of every unit the name of its class."""
        parts = dict(find_parts(self.shape, Architecture.parent(self.shape.depth)))
        labels = {kind: _label_parts(part for unit, part in parts.items() if unit.kind is kind) for kind in KNOWN_PARTS}
        return {
            unit: ", ".join(filter(None, (unit.kind, labels[unit.kind][part], self._describe_window(unit, part))))
            for unit, part in parts.items()
        }

    def _describe_window(self, unit: Unit, part: Part) -> str:
        """The window that is narrower than what there is to see, in words."""
        window, length = self.shape.window[unit.layer], self.workload.sequence + self.workload.past
        return f"window {window}" if part.mixes_tokens and window is not None and window < length else ""


@cache
def _group_like_blocks(depth: int) -> Terms:
    shape = ModelShape(depth, 1, 1, 1, 1, 1, False, 0, False, False, 0, (None,) * depth)
    return Terms(shape, Workload(Phase.FORWARD))


def _find_levels(shape: ModelShape, choices: Iterable[Choice]) -> tuple[frozenset[Kind], frozenset[tuple[Kind, str]]]:
    """Kinds of parts of which these choices leave less than all and more than nothing, and in which precisions."""
    kinds, formats = set(), set()
    for choice in choices:
        if not is_structural(choice) or choice.level == DROP:
            continue
        left = resolve_block(shape, choice.layer, [choice]).parts
        for kind in get_parts(choice.kind):
            own, part = shape.get_block(choice.layer).parts.get(kind), left.get(kind)
            if own is None:
                continue
            if part is not None and part.precision != own.precision:
                formats.add((kind, str(part.precision)))
            if part is not None and replace(part, precision=own.precision) != own:
                kinds.add(kind)
    return frozenset(kinds), frozenset(formats)


def _label_parts(parts: Iterable[Part]) -> dict[Part, str]:
    """What tells the parts of one kind from each other; nothing where all are alike."""
    unlike = list(dict.fromkeys(parts))
    if not unlike:
        return {}
    if len(unlike) == 1:
        return {unlike[0]: ""}
    words = [part.words for part in unlike]
    return {
        part: part.words if words.count(part.words) == 1 else f"{part.words}, {part.weights} weights" for part in unlike
    }


def _name_behind(kind: Kind, precision: str | None) -> str:
    return str(kind) if precision is None else _name_format(str(kind), precision)


def _name_format(name: str, precision: str) -> str:
    return f"{name}, {precision}"


def _name_work(name: str) -> str:
    return f"{name}, work"


def _name_tokens(name: str) -> str:
    return f"{name}, tokens"


def _name_pairs(name: str) -> str:
    return f"{name}, pairs"


def _compute_shared(anything: bool, attends: bool) -> list[float]:
    return [1.0, float(anything), float(attends)]


def _compute_hints(kinds: list[Kind], depth: int) -> list[float]:
    """Attentions that follow an attention, MLPs that follow an MLP, and the square of the units kept."""
    pairs = list(itertools.pairwise(kinds))
    return [*(pairs.count((kind, kind)) for kind in PARTS), len(kinds) ** 2 / depth]
