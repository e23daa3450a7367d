"""What `--precision` means for a model on a target: which formats its parts may have, and what each of them buys."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from latency_models.targets import Target
from latency_models.workload import Phase, Workload
from nas.parent.parent import ParentModel
from nas.profiling.format_speeds import Product, Speeds, load_speeds
from nas.request.choices import FULL
from pruning.analysis.rounding import measure_rounding
from pruning.kinds.quantised_part import AXIS, QuantisedPart
from pruning.surgery.linear import get_weight_matrix
from search_spaces.errors import UsageError
from search_spaces.kinds import KINDS
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit, find_kind
from search_spaces.weight_formats import FORMATS

FASTER = 1.05  # times as fast as float32 a format has to be, or it is not searched
SOUND = 0.3  # of what a matrix gives may be lost by rounding; four bits lose a tenth where nothing is wrong
_RUNTIME = "onnxruntime-cpu"


def list_precision_units(precision: str) -> tuple[str, ...]:
    """The kinds of units that give parts fewer bits, where a precision allows any."""
    return () if precision == FULL else tuple(name for name, kind in KINDS.items() if kind.axis == AXIS)


def check_precision_runs(names: Iterable[str], target: Target) -> None:
    """Refuse formats on a target whose runtime does not multiply in them.

    Args:
        names: of the kinds of units that are searched.

    Raises:
        UsageError: there are formats among them, and it is not ONNX Runtime on a processor.
    """
    if target.runtime != _RUNTIME and any(KINDS[name].axis == AXIS for name in names):
        raise UsageError(
            f"{target.name} runs {target.runtime}, and weights of fewer bits (--precision, --units) are in formats of "
            f"ONNX Runtime on a processor; take --target host, or --precision {FULL}"
        )


def searches_formats(space: Space) -> bool:
    """Whether any unit of a space may have fewer bits."""
    return any(choice.level.get_value(AXIS) is not None for choice in space.choices)


def restrict_to_fast_formats(space: Space, parent: ParentModel, workload: Workload, precision: str) -> Space:
    """The space with those formats only that are allowed, and that this machine multiplies faster in than in float32.

    Args:
        precision: the name of a format; any other word allows all of them.
    """
    if not searches_formats(space):
        return space
    allowed = {precision} & set(FORMATS) or set(FORMATS)
    speeds = measure_parts(parent, workload)
    fast = {(unit, name) for (unit, name), faster in speeds.items() if faster >= FASTER and name in allowed}
    return replace(space, choices=tuple(each for each in space.choices if _is_kept(each, fast)))


def restrict_to_sound_formats(
    space: Space, parent: ParentModel, inputs: Mapping[str, Tensor]
) -> tuple[Space, list[str]]:
    """The space without the formats in which a part is not what it was, and a line for each of these with the reason.

    Args:
        inputs: keyword inputs of the model, a few calibration items.
    """
    formats = [choice for choice in space.choices if choice.level.get_value(AXIS) is not None]
    losses = measure_rounding(parent.placed, parent.anatomy, formats, inputs)
    broken = {choice: loss for choice, loss in losses.items() if loss.error > SOUND}
    lines = [
        f"{choice} is not searched: rounding loses {loss.error:.0%} of what its matrices give, with inputs up to "
        f"{loss.peak:.0f} times their root mean square"
        for choice, loss in sorted(broken.items())
    ]
    return replace(space, choices=tuple(each for each in space.choices if each not in broken)), lines


def measure_parts(parent: ParentModel, workload: Workload) -> dict[tuple[Unit, str], float]:
    """By unit and format, how many times as fast as in float32 this machine multiplies with the unit's matrices."""
    units = sorted({choice.unit for choice in parent.anatomy.choices if choice.level.get_value(AXIS) is not None})
    products = {unit: _list_products(parent, unit, _count_rows(parent, unit, workload)) for unit in units}
    speeds = load_speeds(each for own in products.values() for each in own)
    return {
        (unit, name): _add(own, speeds, "") / _add(own, speeds, name)
        for unit, own in products.items()
        for name in FORMATS
    }


def describe_speeds(parent: ParentModel, speeds: dict[tuple[Unit, str], float], workload: Workload) -> list[str]:
    """One line for each format: what it buys of each kind of part, with as many rows as that part multiplies."""
    lines = []
    for name in FORMATS:
        slowest: dict[int, dict[str, float]] = {}
        for (unit, format), faster in speeds.items():
            if format == name:
                own = slowest.setdefault(_count_rows(parent, unit, workload), {})
                own[str(unit.kind)] = min(faster, own.get(str(unit.kind), faster))
        words = "; ".join(f"with {_name_rows(rows)} {_list_speeds(own)}" for rows, own in slowest.items())
        unused = "" if max(max(own.values()) for own in slowest.values()) >= FASTER else "; not searched"
        lines.append(f"{name}: matrices multiply as fast as in fp32 {words}{unused}")
    return lines


def _name_rows(rows: int) -> str:
    return "one row" if rows == 1 else f"{rows} rows"


def _list_speeds(speeds: dict[str, float]) -> str:
    return ", ".join(f"{kind} {faster:.2f} x" for kind, faster in speeds.items())


def _list_products(parent: ParentModel, unit: Unit, rows: int) -> list[Product]:
    holder, anatomy = parent.anatomy.get_place(parent.model, unit.layer)
    paths = QuantisedPart(unit.kind).find_matrices(holder, anatomy)
    shapes = (get_weight_matrix(holder.get_submodule(path)).shape for path in paths)
    return [Product(rows, inputs, outputs) for outputs, inputs in shapes]


def _count_rows(parent: ParentModel, unit: Unit, workload: Workload) -> int:
    """Rows that a unit's matrices multiply with: all tokens, but of a head that gives one output a sequence those."""
    per_token = parent.shape.head_per_token and workload.phase is not Phase.PREFILL
    return workload.tokens if unit.kind.in_blocks or per_token else workload.batch


def _add(products: list[Product], speeds: Speeds, name: str) -> float:
    return sum(speeds[product][name] for product in products)


def _is_kept(choice: Choice, fast: set[tuple[Unit, str]]) -> bool:
    value = choice.level.get_value(AXIS)
    return value is None or (choice.unit, find_kind(choice.kind, AXIS).describe(value)) in fast
