"""The order of token units: sets of dropped ones hold all that they imply."""

from collections.abc import Iterable, Mapping

from search_spaces.unit import Kind, Unit, implies


def rising(values: Mapping[Unit, float]) -> dict[Unit, float]:
    """The values with each token unit's at least as large as that of any unit it implies: sums are never negative."""
    return {
        unit: max([value, *(less for other, less in values.items() if implies(unit, other))])
        for unit, value in values.items()
    }


def preceding(units: Iterable[Unit]) -> list[tuple[Unit, Unit]]:
    """Pairs (step, implied) from which all implications follow: to the next larger ratio, and to the next block."""
    steps = sorted(unit for unit in units if unit.kind is Kind.TOKENS)
    pairs = []
    for unit in steps:
        more = [other for other in steps if other != unit and implies(unit, other)]
        direct = [other for other in more if not any(implies(between, other) for between in more if between != other)]
        pairs += [(unit, other) for other in direct]
    return pairs
