"""Amounts with units as a person writes them: `20ms`, `0.6x`, `4M`, `10min`."""

import re
from dataclasses import dataclass

from search_spaces.errors import BadBudget, UsageError

_AMOUNT = re.compile(r"(?P<number>\d+(\.\d+)?|\.\d+)\s*(?P<unit>[a-zµ]*)", re.IGNORECASE)
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_COUNTS = {"k": 1e3, "m": 1e6, "b": 1e9}
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """A latency budget: milliseconds, or a fraction of the parent's latency on the same target.

    Example:
        >>> Budget.parse("0.6x").resolve(parent_ms=20.0)
        12.0
    """

    text: str
    milliseconds: float | None = None
    fraction: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `20ms`, `1.5s`, `800us` or `0.6x`.

        Raises:
            BadBudget: on a bare number, an unknown unit, zero, or a fraction above 1.
        """
        rule = "write milliseconds such as 20ms, or a fraction of the parent's latency such as 0.6x"
        match = _AMOUNT.fullmatch(text.strip())
        if not match:
            raise BadBudget(f"budget {text!r} is not an amount with a unit; {rule}")
        number, unit = float(match["number"]), match["unit"].lower()
        if not unit:
            raise BadBudget(f"budget {text!r} has no unit; {rule}")
        if unit != "x" and unit not in _MILLISECONDS:
            raise BadBudget(f"budget {text!r} has the unknown unit {unit!r} (known: us, ms, s, x); {rule}")
        if number <= 0:
            raise BadBudget(f"budget {text!r} is not above zero; {rule}")
        if unit != "x":
            return cls(text.strip(), milliseconds=number * _MILLISECONDS[unit])
        if number > 1:
            raise BadBudget(f"budget {text!r} is above the parent's own latency; a fraction lies in (0, 1]")
        return cls(text.strip(), fraction=number)

    def resolve(self, parent_ms: float) -> float:
        """The budget in ms, given the parent's latency at the same percentile."""
        if self.milliseconds is not None:
            return self.milliseconds
        assert self.fraction is not None
        return self.fraction * parent_ms


@dataclass(frozen=True)
class ParameterLimit:
    """How many parameters a winner may have: a number, or a fraction of the parent's.

    Example:
        >>> ParameterLimit.parse("1.5M").resolve(parent=4_000_000)
        1500000.0
    """

    text: str
    count: float | None = None
    fraction: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ParameterLimit":
        """Read `4M`, `500k`, `1.2B` or `0.7x`.

        Raises:
            UsageError: on anything else.
        """
        match = _AMOUNT.fullmatch(text.strip())
        unit = match["unit"].lower() if match else ""
        if not match or unit not in {"x", *_COUNTS} or float(match["number"]) <= 0:
            raise UsageError(f"parameters {text!r} is no number of them; write for example 4M, 500k or 0.7x")
        number = float(match["number"])
        if unit != "x":
            return cls(text.strip(), count=number * _COUNTS[unit])
        if number > 1:
            raise UsageError(f"parameters {text!r} is above the parent's own; a fraction lies in (0, 1]")
        return cls(text.strip(), fraction=number)

    def resolve(self, parent: int) -> float:
        """The number, given the parent's."""
        return self.count if self.count is not None else (self.fraction or 0.0) * parent


@dataclass(frozen=True)
class ByteLimit:
    """How many bytes the weights in a winner's file may take: a number, or a fraction of the parent's.

    Example:
        >>> ByteLimit.parse("400MB").resolve(parent=1_000_000_000)
        400000000.0
    """

    text: str
    count: float | None = None
    fraction: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ByteLimit":
        """Read `400MB`, `500kB`, `1.2GB` or `0.3x`.

        Raises:
            UsageError: on anything else.
        """
        match = _AMOUNT.fullmatch(text.strip())
        unit = match["unit"].lower() if match else ""
        if not match or unit not in {"x", *_BYTES} or float(match["number"]) <= 0:
            raise UsageError(f"bytes {text!r} is no number of them; write for example 400MB, 500kB or 0.3x")
        number = float(match["number"])
        if unit != "x":
            return cls(text.strip(), count=number * _BYTES[unit])
        if number > 1:
            raise UsageError(f"bytes {text!r} is above the parent's own; a fraction lies in (0, 1]")
        return cls(text.strip(), fraction=number)

    def resolve(self, parent: float) -> float:
        """The number, given the parent's."""
        return self.count if self.count is not None else (self.fraction or 0.0) * parent


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10min` or `1h`.

    Raises:
        UsageError: on anything else.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if not match or match["unit"].lower() not in _SECONDS or float(match["number"]) <= 0:
        raise UsageError(f"time {text!r} is not a positive number with a unit; write for example 90s, 10min or 1h")
    return float(match["number"]) * _SECONDS[match["unit"].lower()]
