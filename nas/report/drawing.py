"""The page's drawings as numbers: where in a box each mark goes. The template draws them, in the page's own colours.

Boxes are narrow, so that their words stay readable when a telephone shows them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.kinds import AFTER_BLOCKS, PARTS, Kind
from search_spaces.level import DROP

WIDTH, HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 44
_MIN_CHANGE = 1e-5  # what is drawn for a part that changes nothing
_CLOSE = 14  # marks so near in height would write over one another
_TICKS = 5


@dataclass(frozen=True)
class Mark:
    """A point: its position in the box, what hovering over it says, how it looks."""

    x: float
    y: float
    words: str
    look: str
    label: str = ""
    label_y: float = 0.0


@dataclass(frozen=True)
class Chart:
    """Ticks with their positions, marks, lines through some of them, the edge of the budget if there is one."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]
    lines: tuple[tuple[str, str], ...] = ()  # look, the points as SVG takes them
    edge: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Block:
    """One block of the winner: what of it is kept, and the share of the tokens that reaches it."""

    number: int
    attention: bool
    mlp: bool
    removed: bool
    share: float
    begins: str  # the share in words where a stage of the token schedule begins
    levels: str = ""  # neither the parent's nor dropped: those of its parts; the last block shows the head's too
    cross_attention: bool = True


def strip(architecture: Architecture) -> tuple[Block, ...]:
    """The blocks of an architecture, in order."""
    begins = {stage.block: f"{100 * stage.ratio:.3g} %" for stage in architecture.tokens.stages}
    removed, shares = architecture.list_removed_blocks(), architecture.tokens.compute_shares(architecture.depth)
    blocks = []
    for layer in range(architecture.depth):
        attention, mlp = (architecture.runs(layer, kind) for kind in PARTS)
        chosen = architecture.list_block_choices(layer)
        chosen += architecture.list_block_choices(AFTER_BLOCKS) if layer == architecture.depth - 1 else ()
        crosses = architecture.keeps(layer, Kind.CROSS_ATTENTION)
        words = [str(choice) for choice in chosen if choice.level != DROP]
        words += [f"no {Kind.CROSS_ATTENTION}"] if not crosses else []
        levels, share = ", ".join(words), shares[layer]
        blocks.append(Block(layer, attention, mlp, layer in removed, share, begins.get(layer, ""), levels, crosses))
    return tuple(blocks)


def draw_redundancy(similarity: dict[str, list[float]], blocks: Sequence[Block]) -> Chart:
    """How much every part changes what flows through it, by depth; what the winner dropped is hollow."""
    change = {kind: [max(1 - score, _MIN_CHANGE) for score in scores] for kind, scores in similarity.items()}
    everything = [value for values in change.values() for value in values]
    x = _build_scale(0, max(1, max(map(len, change.values())) - 1), _LEFT + 8, WIDTH - _RIGHT - 8)
    y = _build_scale(math.log(min(everything) * 0.8), math.log(max(everything) * 1.25), HEIGHT - _BOTTOM, _TOP)
    marks, lines = [], []
    for kind, values in change.items():
        points = [(x(depth), y(math.log(value))) for depth, value in enumerate(values)]
        lines.append((kind, " ".join(f"{across:.1f},{down:.1f}" for across, down in points)))
        for (across, down), value, block in zip(points, values, blocks, strict=False):
            hollow = "" if _keeps(block, kind) else " hollow"
            words = f"{kind} of block {block.number}: {value:.3g}{', dropped' if hollow else ''}"
            marks.append(Mark(across, down, words, kind + hollow))
    return Chart(
        "How much each part changes the residual stream", "block", "change: 1 - cosine similarity of in and out",
        tuple((x(depth), str(depth)) for depth in _list_whole(len(blocks))),
        tuple((y(math.log(value)), f"{value:g}") for value in _list_decades(min(everything) * 0.8,
            max(everything) * 1.25)),
        tuple(marks), tuple(lines),
    )  # fmt: skip


def draw_pareto(candidates: dict[str, Any]) -> Chart:
    """Every candidate, the named ones and the budget. The loss is drawn as its square root: small ones matter most."""
    points, named, budget = candidates["candidates"], candidates["named"], candidates["budget_ms"]
    everything = [*points, *named.values()]
    top = 1.1 * max(_compute_usual(points), *(point["loss"] for point in named.values())) or 1.0
    reach = [point["ms"] for point in everything] + [budget]
    margin = 0.05 * (max(reach) - min(reach)) or 1.0
    low, high = min(reach) - margin, max(reach) + margin
    x, root = _build_scale(low, high, _LEFT, WIDTH - _RIGHT), _build_scale(0, math.sqrt(top), HEIGHT - _BOTTOM, _TOP)

    def mark(point: dict[str, Any], look: str, label: str = "") -> Mark:
        words = f"{label or point['label']}: {point['ms']:.3f} ms, {point['loss']:.4f}\n{point['words']}"
        return Mark(x(point["ms"]), root(math.sqrt(max(0.0, point["loss"]))), words, look, label)

    looks = {True: "inside", False: "outside"}
    marks = [mark(point, looks[point["feasible"]]) for point in points if point["loss"] <= top]
    hidden = len(points) - len(marks)
    above = f"; {hidden} worse candidates lie above" if hidden else ""
    return Chart(
        "Quality against latency", candidates["latency_label"], candidates["loss_label"] + above,
        tuple((x(ms), f"{ms:g}") for ms in _choose_ticks(low, high)),
        tuple((root(math.sqrt(loss)), f"{loss:.3g}") for loss in _choose_root_ticks(top)),
        (*marks, *_separate_labels([mark(point, name, name) for name, point in named.items()])),
        edge=x(budget),
    )  # fmt: skip


def _keeps(block: Block, kind: str) -> bool:
    return not block.removed and getattr(block, kind.replace("-", "_"), True)


def _build_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From numbers between `low` and `high` to positions between `start` and `end`."""
    return lambda value: start + (value - low) / ((high - low) or 1.0) * (end - start)


def _compute_usual(points: Sequence[dict[str, Any]]) -> float:
    """The third quartile of the losses: a few hopeless candidates would squash the others."""
    losses = sorted(point["loss"] for point in points)
    return float(losses[(3 * len(losses)) // 4]) if losses else 0.0


def _separate_labels(marks: Sequence[Mark]) -> list[Mark]:
    """The named marks with their labels moved down where two would write over one another."""
    placed: list[Mark] = []
    for mark in sorted(marks, key=lambda each: each.y):
        lowest = max((each.label_y for each in placed if abs(each.x - mark.x) < WIDTH / 3), default=-math.inf)
        beside = mark.y + 4 if mark.y < HEIGHT - _BOTTOM - _CLOSE else mark.y - 8  # not across the axis
        placed.append(replace(mark, label_y=max(beside, lowest + _CLOSE)))
    return placed


def _list_whole(count: int) -> range:
    return range(0, count, max(1, math.ceil(count / 12)))


def _choose_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, about five."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(step * index, 10) for index in range(first, math.floor(high / step) + 1)]


def _choose_root_ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, not closer in their square roots than a few words are high."""
    chosen = [0.0]
    for exponent in range(-6, 7):
        for factor in (1, 2, 5):
            value = factor * 10.0**exponent
            if value <= top and math.sqrt(value) - math.sqrt(chosen[-1]) >= 0.13 * math.sqrt(top):
                chosen.append(value)
    return chosen


def _list_decades(low: float, high: float) -> list[float]:
    """Powers of ten between two; where there are few, twice and five times them too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    return [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]
