"""Targets: a device in one runtime, precision and power mode, by the name a person types."""

import difflib
from dataclasses import dataclass

from latency_models.datasheets import DATA_SHEETS, DataSheet
from search_spaces.errors import UnknownTarget
from search_spaces.weight_formats import WHOLE, WeightFormat, list_formats

HOST = "host"
DEFAULT_PRECISION = "fp16"
_ALIASES = {
    "jetson-orin": "jetson-agx-orin-64gb@maxn/fp16",
    "jetson-orin-nx": "jetson-orin-nx-16gb",
    "jetson-orin-nano": "jetson-orin-nano-8gb",
    "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
}
BYTES = {"fp32": 4, "fp16": 2, WHOLE: 1}  # of one element


@dataclass(frozen=True)
class Target:
    """A named device. `sheet` is None for this machine, which is measured instead.

    Example:
        >>> find_target("jetson-orin").precision
        'fp16'
    """

    name: str
    runtime: str
    precision: str
    sheet: DataSheet | None
    note: str = ""

    @property
    def is_host(self) -> bool:
        """Whether this machine is meant."""
        return self.sheet is None

    @property
    def formats(self) -> dict[str, WeightFormat]:
        """Formats of fewer bits that it multiplies in, by name; none where all that it multiplies has 8 bits already.

        What a data sheet gives no arithmetic for, the device's generation does not have.
        """
        if self.precision == WHOLE:
            return {}
        had = {None, WHOLE} if self.sheet is None else {None, *self.sheet.list_rates()}
        return {name: each for name, each in list_formats(self.runtime).items() if each.arithmetic in had}

    @property
    def bytes_per_element(self) -> int:
        """Bytes of one weight or activation."""
        return BYTES[self.precision]


def _find_named(sheet: DataSheet, precision: str) -> Target:
    mode = f"@{sheet.mode}" if sheet.mode else ""
    runtime = "torch" if sheet.device.startswith("apple") else "tensorrt"
    return Target(f"{sheet.device}{mode}/{precision}", runtime, precision, sheet)


def list_targets() -> tuple[Target, ...]:
    """Every target: this machine, then every data sheet in every precision."""
    host = Target(HOST, "onnxruntime-cpu", "fp32", None, "this machine, measured in ONNX Runtime")
    return (host, *(_find_named(sheet, precision) for sheet in DATA_SHEETS for precision in sheet.peaks))


def list_aliases() -> dict[str, str]:
    """Short names and what they stand for."""
    return {short: find_target(short).name for short in _ALIASES}


def find_target(name: str) -> Target:
    """The target of a full name, a device name or an alias; case does not matter.

    A device without a mode means its default mode, without a precision fp16. Of an alias too, mode and precision
    can be given: `jetson-orin@30w`, `jetson-orin/int8`.

    Raises:
        UnknownTarget: naming the nearest known ones.
    """
    wanted = name.strip().lower()
    full = _expand(wanted)
    shipped = next((target for target in list_targets() if target.name == full), None) or _find_by_device(full)
    if shipped is None:
        known = [*_ALIASES, *(target.name for target in list_targets())]
        near = difflib.get_close_matches(full, known, n=3, cutoff=0.3) or [HOST, "jetson-orin"]
        raise UnknownTarget(f"target {name!r} is not known; nearest: {', '.join(near)} (nas targets lists all)")
    note = shipped.note if full == wanted else _describe_alias(wanted, shipped)
    return Target(shipped.name, shipped.runtime, shipped.precision, shipped.sheet, note)


def _split_name(text: str) -> tuple[str, str, str]:
    """(device, mode, precision) of `device@mode/precision`; empty where left out."""
    head, _, precision = text.partition("/")
    device, _, mode = head.partition("@")
    return device, mode, precision


def _expand(text: str) -> str:
    """What an alias stands for, with the mode and the precision that were given with it."""
    alias, mode, precision = _split_name(text)
    if alias not in _ALIASES:
        return text
    device, usual_mode, usual_precision = _split_name(_ALIASES[alias])
    mode, precision = mode or usual_mode, precision or usual_precision
    return device + (f"@{mode}" if mode else "") + (f"/{precision}" if precision else "")


def _find_by_device(text: str) -> Target | None:
    """`device`, `device@mode` or `device/precision`, with the defaults for what is left out."""
    device, mode, precision = _split_name(text)
    sheets = [sheet for sheet in DATA_SHEETS if sheet.device == device and (not mode or sheet.mode == mode)]
    if not sheets:
        return None
    sheet = next((sheet for sheet in sheets if sheet.default), sheets[0])
    chosen = precision or (DEFAULT_PRECISION if DEFAULT_PRECISION in sheet.peaks else next(iter(sheet.peaks)))
    return _find_named(sheet, chosen) if chosen in sheet.peaks else None


def _describe_alias(alias: str, target: Target) -> str:
    sheet = target.sheet
    assert sheet is not None
    default = next((s for s in DATA_SHEETS if s.device == sheet.device and s.default), None)
    if default is None or default.mode == sheet.mode:
        return f"{alias} stands for {target.name}"
    slower = sheet.peaks[target.precision] / default.peaks[target.precision]
    assert default.mode is not None
    return (
        f"{alias} stands for {target.name}; the module's default {default.mode} mode has "
        f"{1 / slower:.2f} x its arithmetic and {default.bandwidth / sheet.bandwidth:.2f} x its bandwidth, "
        f"so compute-bound models take about {slower:.1f} x as long there"
    )
