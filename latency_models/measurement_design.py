"""Which architectures to measure: extremes always, the rest so that the terms are known as well as can be.

A token schedule needs an export of its own, so a few are chosen first, then which structures to cross them with.

D-optimal (Fedorov's exchange): of a random pool those are chosen whose information matrix has the largest
determinant, which is the smallest volume of the coefficients' confidence ellipsoid. The fit minimises relative error,
so a row counts in proportion to its size: it is divided by the number of parts the architecture has.
"""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from latency_models.terms import count_units, list_kept_units
from search_spaces.architecture import Architecture, drop_from_parent
from search_spaces.kinds import PARTS, Kind
from search_spaces.level import DROP, Level
from search_spaces.schedule import Schedule
from search_spaces.space import Space
from search_spaces.unit import Unit

COUNT = 30
SCHEDULES = 8
_POOL = 400
_MAX_STAGES = 4  # of a random schedule
_SWEEPS = 20  # of exchanges; a few settle it
_RIDGE = 1e-6  # keeps the determinant above zero while terms are still confounded
Array = NDArray[np.float64]


def design_measurements(
    depth: int,
    seed: int = 0,
    count: int = COUNT,
    row: Callable[[Architecture], Array] = count_units,
    schedules: Sequence[Schedule] = (),
    space: Space | None = None,
) -> list[Architecture]:
    """The architectures to measure, the parent first; fewer than `count` where a shallow parent has no more.

    Args:
        depth: blocks of the parent.
        seed: the same seed gives the same design.
        count: how many; never fewer than the extremes.
        row: the columns that are to be told apart (`Terms.compute_row` where units of a kind differ in their work).
        schedules: token schedules to cross with structures; each is measured on the parent too.
        space: whose units have levels besides dropped; the parent with the lowest of all of them is measured too.
    """
    parent, levels = Architecture.parent(depth), _list_levels(space)
    parts = PARTS if space is None else space.parts
    fixed = list_extremes(depth, parts) + [parent.replace_tokens(schedule) for schedule in schedules]
    fixed += [parent.drop(*(unit.choose(min(own)) for unit, own in levels.items()))] if levels else []
    pool = [architecture for architecture in _draw_random(depth, seed, parts) if architecture not in fixed]
    pool = _add_levels(pool, levels, seed) if levels else pool
    pool = _cross_with_schedules(pool, schedules, seed) if schedules else pool
    free = min(max(0, count - len(fixed)), len(pool))
    chosen = _exchange(_weight_rows(fixed + pool, row), len(fixed), free)
    return fixed + [(fixed + pool)[index] for index in chosen]


def choose_schedules(
    space: Space, row: Callable[[Architecture], Array], seed: int = 0, count: int = SCHEDULES
) -> list[Schedule]:
    """Schedules of a space that tell most of the columns of `row`; the most aggressive one is always among them.

    Of a space with a fixed schedule it is that one.

    Args:
        row: `Terms.compute_row` with tokens.
        count: how many; fewer where the space has no more.
    """
    steps = space.steps
    if not steps:
        return [] if space.fixed is None else [space.fixed]
    rng = random.Random(seed)
    drawn = (rng.sample(steps, rng.randint(1, min(_MAX_STAGES, len(steps)))) for _ in range(_POOL))
    sets = [steps, *([step] for step in steps), *drawn]
    reduced = list(dict.fromkeys(Architecture(space.depth, frozenset(each), space.reduction) for each in sets))
    fixed = [space.parent, reduced[0]]
    free = min(max(0, count - 1), len(reduced) - 1)
    chosen = [1, *_exchange(_weight_rows(fixed + reduced[1:], row), len(fixed), free)]
    return [(fixed + reduced[1:])[index].tokens for index in chosen]


def list_extremes(depth: int, parts: tuple[Kind, ...] = PARTS) -> list[Architecture]:
    """Parent, bare stem, the parts of one kind only, both halves of the depth, every other block and unit."""
    by_kind = {kind: [Unit(layer, kind) for layer in range(depth)] for kind in parts}
    units = [unit for own in by_kind.values() for unit in own]
    without = [[unit for unit in units if unit.kind is not kind] for kind in parts]
    late = [unit for unit in units if unit.layer >= depth // 2]
    early = [unit for unit in units if unit.layer < depth // 2]
    other = [unit for unit in units if unit.layer % 2]
    halves = [own[::2] for own in by_kind.values()]
    chosen: list[list[Unit]] = [[], units, *without, late, early, other, *halves]
    return list(dict.fromkeys(drop_from_parent(depth, dropped) for dropped in chosen))


def compute_log_determinant(
    architectures: list[Architecture], row: Callable[[Architecture], Array] = count_units
) -> float:
    """Of what measuring these architectures tells of the columns of `row`; larger is better."""
    return float(np.linalg.slogdet(_compute_information(_weight_rows(architectures, row)))[1])


def _draw_random(depth: int, seed: int, parts: tuple[Kind, ...]) -> list[Architecture]:
    """Distinct random architectures; the kinds are dropped at rates of their own, in one half or throughout."""
    rng = random.Random(seed)
    drawn: dict[Architecture, None] = {}
    for _ in range(_POOL):
        rates = {(kind, half): rng.random() for kind in parts for half in (False, True)}
        dropped = (Unit(layer, kind) for layer in range(depth) for kind in parts
                   if rng.random() < rates[kind, 2 * layer >= depth])  # fmt: skip
        drawn[drop_from_parent(depth, dropped)] = None
    return list(drawn)


def _list_levels(space: Space | None) -> dict[Unit, list[Level]]:
    """Of every unit that has any, its levels between the parent's and dropped."""
    levels: dict[Unit, list[Level]] = {}
    for choice in () if space is None else space.structure:
        if choice.level != DROP:
            levels.setdefault(choice.unit, []).append(choice.level)
    return levels


def _add_levels(pool: Sequence[Architecture], levels: Mapping[Unit, Sequence[Level]], seed: int) -> list[Architecture]:
    """Each structure once as it is and once with random levels of a random share of the units that it keeps."""
    rng, extended = random.Random(seed), dict.fromkeys(pool)
    for structure in pool:
        rate = rng.random()
        chosen = [unit.choose(rng.choice(own)) for unit, own in levels.items() if rng.random() < rate]
        extended[structure.drop(*(choice for choice in chosen if structure.runs(choice.layer, choice.kind)))] = None
    return list(extended)


def _cross_with_schedules(pool: Sequence[Architecture], schedules: Sequence[Schedule], seed: int) -> list[Architecture]:
    """Each structure once with all tokens and once with a random one of the schedules, if all of its stages act."""
    rng = random.Random(seed)
    crossed = (structure.replace_tokens(rng.choice(schedules)) for structure in pool)
    return [*pool, *(architecture for architecture in crossed if _has_acting_stages(architecture))]


def _has_acting_stages(architecture: Architecture) -> bool:
    """Whether a block is left between every stage and the next: otherwise it needs the export of a schedule more."""
    begins = [stage.block for stage in architecture.tokens.stages]
    left = {unit.layer for unit in list_kept_units(architecture)}
    ranges = zip(begins, [*begins[1:], architecture.depth], strict=True)
    return all(left & set(range(begin, end)) for begin, end in ranges)


def _weight_rows(architectures: list[Architecture], row: Callable[[Architecture], Array]) -> Array:
    """The rows as the fit weighs them, shape (n, columns)."""
    return np.array([row(architecture) / (1 + _count_units(architecture)) for architecture in architectures])


def _count_units(architecture: Architecture) -> float:
    """How much is left, in units on all tokens."""
    shares = architecture.tokens.compute_shares(architecture.depth)
    return sum(shares[unit.layer] for unit in list_kept_units(architecture))


def _compute_information(rows: Array) -> Array:
    return np.asarray(rows.T @ rows + _RIDGE * np.eye(rows.shape[1]), dtype=np.float64)


def _exchange(rows: Array, fixed: int, free: int) -> list[int]:
    """Indices of the chosen rows beside the first `fixed`: each is exchanged for the best until nothing improves.

    Of the determinant with a row added only the factor 1 + x' M^-1 x depends on the row.
    """
    chosen = list(range(fixed, fixed + free))
    for _ in range(_SWEEPS):
        changed = False
        for position in range(free):
            rest = [*range(fixed), *chosen[:position], *chosen[position + 1 :]]
            gain = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(_compute_information(rows[rest])), rows)
            gain[rest] = -np.inf
            best = int(gain.argmax())
            if gain[best] > gain[chosen[position]] * (1 + 1e-9):
                chosen[position], changed = best, True
        if not changed:
            break
    return chosen
