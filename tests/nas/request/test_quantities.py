"""Budgets and times need a unit, and every refusal says what to write instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.request.quantities import Budget, ByteLimit, ParameterLimit, parse_duration
from search_spaces.errors import BadBudget, UsageError


@given(st.floats(0.01, 1e6))
def test_milliseconds_keep_their_value(number: float) -> None:
    text = f"{number:.4f}"
    assert Budget.parse(f"{text}ms").resolve(parent_ms=1.0) == pytest.approx(float(text))
    assert Budget.parse(f"{text}s").resolve(parent_ms=1.0) == pytest.approx(1e3 * float(text))


def test_a_fraction_is_of_the_parent() -> None:
    assert Budget.parse("0.6x").resolve(parent_ms=50.0) == pytest.approx(30.0)
    assert Budget.parse("1x").resolve(parent_ms=50.0) == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("20", "no unit"),
        ("20parsecs", "unknown unit 'parsecs'"),
        ("0ms", "not above zero"),
        ("1.2x", "above the parent"),
        ("-3ms", "not an amount"),
        ("", "not an amount"),
        ("fast", "not an amount"),
    ],
)
def test_wrong_budgets_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadBudget, match=says):
        Budget.parse(text)


def test_parameter_limits() -> None:
    assert ParameterLimit.parse("4M").resolve(10_000_000) == 4e6
    assert ParameterLimit.parse("1.5k").resolve(10_000_000) == 1500
    assert ParameterLimit.parse("0.7x").resolve(1000) == 700
    for wrong in ("4", "4ms", "0M", "-1k", "much", "1.5x", ""):
        with pytest.raises(UsageError, match="parameters"):
            ParameterLimit.parse(wrong)


def test_durations() -> None:
    assert parse_duration("90s") == 90
    assert parse_duration("1.5min") == 90
    assert parse_duration("2h") == 7200
    for wrong in ("90", "0s", "ten", "5ms"):
        with pytest.raises(UsageError, match="is not a positive number with a unit"):
            parse_duration(wrong)


def test_limits_of_bytes_are_read() -> None:
    assert ByteLimit.parse("400MB").resolve(1e9) == 4e8
    assert ByteLimit.parse("1.5 kB").resolve(1e9) == 1500
    assert ByteLimit.parse("0.3x").resolve(1000) == 300
    for wrong in ("400", "4M", "0MB", "many"):
        with pytest.raises(UsageError, match="400MB"):
            ByteLimit.parse(wrong)
    with pytest.raises(UsageError, match="above the parent's own"):
        ByteLimit.parse("1.2x")
