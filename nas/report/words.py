"""Numbers as people read them."""

from nas.quality.metrics import METRICS

MISSING = "–"
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def name_metric(name: str) -> str:
    """A metric's name; one that another version wrote as it is written."""
    return METRICS[name].label if name in METRICS else name.replace("_", " ")


def name_loss(name: str) -> str:
    """What a search minimises where this is the headline metric."""
    return (METRICS[name].loss if name in METRICS else None) or name_metric(name)


def format_ms(value: float | None) -> str:
    """Milliseconds; short ones with three decimals."""
    if value is None:
        return MISSING
    return f"{value:.2f} ms" if value >= 1 else f"{value:.3f} ms"


def format_figure(value: float | None) -> str:
    """A quality or a loss."""
    return MISSING if value is None else f"{value:.4f}"


def format_size(count: float | None) -> str:
    """Bytes."""
    if count is None:
        return MISSING
    unit, name = next(((unit, name) for unit, name in _SIZES if count >= unit), (1, "bytes"))
    return f"{count / unit:.3g} {name}"


def format_parameters(count: float) -> str:
    """Parameters."""
    return f"{count / 1e6:.2f} M"


def format_energy(joules: float | None) -> str:
    """Of one inference."""
    if joules is None:
        return MISSING
    return f"{joules:.3g} J" if joules >= 1 else f"{1000 * joules:.3g} mJ"


def format_ratio(one: float | None, other: float | None) -> str:
    """How many times the parent's."""
    return f"{one / other:.2f} ×" if one is not None and other else MISSING
