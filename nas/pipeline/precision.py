"""What `--precision` means for a model on a target: which formats its parts may have, and what each of them buys."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from latency_models.datasheet_model import DataSheetModel
from latency_models.targets import DEFAULT_PRECISION, Target
from latency_models.work import compute_changed_work
from latency_models.workload import Phase, Workload
from nas.parent.parent import ParentModel
from nas.profiling.format_soundness import multiplies_rightly
from nas.profiling.format_speeds import Product, Speeds, load_speeds
from nas.request.choices import FULL, SEARCH
from pruning.analysis.input_scales import calibrate_inputs, copy_input_scales
from pruning.analysis.rounding import measure_rounding
from pruning.kinds.quantised_part import AXIS, QuantisedPart
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.quantised_linear import loses_nothing
from search_spaces.errors import UsageError
from search_spaces.kinds import DEFAULT_UNITS, KINDS
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit, find_kind
from search_spaces.weight_formats import ALL_FORMATS, W2, Inputs, WeightFormat

FASTER = 1.05  # times as fast as float32 a format has to be, or it is not searched
SOUND = 0.3  # of what a matrix gives may be lost by rounding; four bits lose a tenth where nothing is wrong
_ROWS = 256  # of a matrix that are looked at together: most matrices are seen to be no ternary ones by the first


def list_precision_units(precision: str) -> tuple[str, ...]:
    """The kinds of units that give parts fewer bits, where a precision allows any."""
    return () if precision == FULL else tuple(name for name, kind in KINDS.items() if kind.axis == AXIS)


def check_precision_runs(names: Iterable[str], target: Target, precision: str) -> None:
    """Refuse formats on a target whose runtime does not multiply in them.

    Args:
        names: of the kinds of units that are searched.
        precision: as it was asked for.

    Raises:
        UsageError: there are formats among them, and the target has none, or not that one.
    """
    if not any(KINDS[name].axis == AXIS for name in names):
        return
    if not target.formats:
        raise UsageError(
            f"{target.name} runs {target.runtime} in {target.precision}, and no part can have fewer bits there "
            f"(--precision, --units); take --precision {FULL}, or a target in {DEFAULT_PRECISION}"
        )
    if precision in ALL_FORMATS and precision not in target.formats:
        if ALL_FORMATS[precision].runtime == target.runtime:
            raise UsageError(
                f"--precision {precision}: {target.name} multiplies no such numbers; it has "
                f"{', '.join(target.formats)}; take one of these, or --precision {SEARCH}"
            )
        raise UsageError(
            f"--precision {precision} is a format of {ALL_FORMATS[precision].runtime}, and {target.name} has "
            f"{', '.join(target.formats)}; take one of these, or --precision {SEARCH}"
        )


def searches_formats(space: Space) -> bool:
    """Whether any unit of a space may have fewer bits."""
    return any(choice.level.get_value(AXIS) is not None for choice in space.choices)


def restrict_to_fast_formats(
    space: Space, parent: ParentModel, target: Target, workload: Workload, precision: str
) -> Space:
    """The space with those formats only that are allowed, that a part can have, and that make it faster.

    Args:
        precision: the name of a format; any other word allows all of the target's.
    """
    if not searches_formats(space):
        return space
    allowed = {precision} & set(ALL_FORMATS) or set(ALL_FORMATS)
    speeds = compare_parts(parent, target, workload)
    fast = {(unit, name) for (unit, name), faster in speeds.items() if faster >= FASTER and name in allowed}
    return replace(space, choices=tuple(each for each in space.choices if _is_kept(each, fast)))


def add_formats(
    space: Space | None, parent: ParentModel, target: Target, workload: Workload, precision: str
) -> Space | None:
    """What is measured of a parent where parts may have fewer bits: a space with the formats that a search offers.

    Args:
        space: what else is measured; None where that is dropped units only.
        precision: as it was asked for.

    Raises:
        UsageError: as `check_precision_runs`.
    """
    names = list_precision_units(precision)
    if not names:
        return space
    check_precision_runs(names, target, precision)
    offered = restrict_to_fast_formats(parent.anatomy.build_space(names), parent, target, workload, precision)
    base = parent.anatomy.build_space(DEFAULT_UNITS) if space is None else space
    return replace(base, choices=tuple(dict.fromkeys((*base.choices, *offered.choices))))


def calibrate_formats(space: Space, parent: ParentModel, inputs: Mapping[str, Tensor]) -> None:
    """Choose the scales of inputs that have one in all calls, where the space has formats with such inputs.

    Args:
        inputs: keyword inputs of the model, a few calibration items.
    """
    values = ((choice, choice.level.get_value(AXIS)) for choice in space.choices)
    names = {find_kind(choice.kind, AXIS).describe(value) for choice, value in values if value is not None}
    if any(ALL_FORMATS[name].inputs is Inputs.FIXED for name in names):
        calibrate_inputs(parent.placed, parent.anatomy, inputs)
        copy_input_scales(parent.placed, parent.model)


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


def compare_parts(parent: ParentModel, target: Target, workload: Workload) -> dict[tuple[Unit, str], float]:
    """By unit and format that it can have there, how many times as fast as in the target's precision it runs.

    On this machine its products are measured; elsewhere it is predicted from the data sheet.
    """
    if target.is_host:
        return _measure_parts(parent, target, workload)
    model = DataSheetModel(target, parent.shape, workload)
    return {(choice.unit, name): _predict_ratio(model, choice) for choice, name in _list_possible(parent, target)}


def _measure_parts(parent: ParentModel, target: Target, workload: Workload) -> dict[tuple[Unit, str], float]:
    possible = _list_possible(parent, target)
    units = sorted({choice.unit for choice, _ in possible})
    products = {unit: _list_products(parent, unit, _count_rows(parent, unit, workload)) for unit in units}
    speeds = load_speeds(each for own in products.values() for each in own)
    return {
        (choice.unit, name): _add(products[choice.unit], speeds, "") / _add(products[choice.unit], speeds, name)
        for choice, name in possible
        if multiplies_rightly(name)
    }


def _predict_ratio(model: DataSheetModel, choice: Choice) -> float:
    changed = compute_changed_work(model.shape, choice, model.workload, model.target.precision)
    return sum(model.predict_work_ms(before) for before, _ in changed) / sum(
        model.predict_work_ms(after) for _, after in changed
    )


def _list_possible(parent: ParentModel, target: Target) -> list[tuple[Choice, str]]:
    """The formats that units can have on a target, with their names; that of ternary weights only where they are."""
    found = []
    for choice in sorted(parent.anatomy.choices):
        value = choice.level.get_value(AXIS)
        name = "" if value is None else find_kind(choice.kind, AXIS).describe(value)
        if name in target.formats and (not ALL_FORMATS[name].ternary or is_ternary(parent, choice.unit)):
            found.append((choice, name))
    return found


def is_ternary(parent: ParentModel, unit: Unit) -> bool:
    """Whether the weights of all matrices of a unit are −s, 0 and s, so that two bits lose nothing of them."""
    holder, anatomy = parent.anatomy.get_place(parent.model, unit.layer)
    paths = QuantisedPart(unit.kind).find_matrices(holder, anatomy)
    matrices = (get_weight_matrix(holder.get_submodule(path)).detach() for path in paths)
    return all(loses_nothing(rows.float(), W2) for matrix in matrices for rows in torch.split(matrix, _ROWS))


def describe_speeds(
    parent: ParentModel, target: Target, speeds: dict[tuple[Unit, str], float], workload: Workload
) -> list[str]:
    """One line for each format: what it buys of each kind of part, with as many rows as that part multiplies."""
    lines = []
    for name in target.formats:
        slowest: dict[int, dict[str, float]] = {}
        for (unit, format), faster in speeds.items():
            if format == name:
                own = slowest.setdefault(_count_rows(parent, unit, workload), {})
                own[str(unit.kind)] = min(faster, own.get(str(unit.kind), faster))
        lines.append(f"{name}: {_describe_format(ALL_FORMATS[name], target, slowest)}")
    return lines


def _describe_format(format: WeightFormat, target: Target, slowest: dict[int, dict[str, float]]) -> str:
    """What a format buys, by rows and kind of part; nothing where no part can have it."""
    if not slowest:
        return f"not searched: {_find_hindrance(format, target)}"
    rows = "; ".join(f"with {_name_rows(rows)} {_list_speeds(own)}" for rows, own in slowest.items())
    unused = "" if max(max(own.values()) for own in slowest.values()) >= FASTER else "; not searched"
    if target.is_host:
        return f"matrices multiply as fast as in {FULL} {rows}{unused}"
    return f"parts run as fast as in {target.precision} by the data sheet {rows}{unused}"


def _find_hindrance(format: WeightFormat, target: Target) -> str:
    """Why no part can have a format."""
    if target.is_host and not multiplies_rightly(format.name):
        return "its products are wrong on this processor: without VNNI, sums of 8-bit products saturate"
    if format.ternary:
        return "2 bits are for weights that are -s, 0 and s only, others lose too much"
    return f"no matrix has a multiple of {format.block} inputs"


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
