"""What each choice adds to a set of them: some imply others, so that what they save does not just add up."""

from collections.abc import Mapping

from search_spaces.rules import implies
from search_spaces.unit import Choice, is_cumulative


def compute_marginal_values(alone: Mapping[Choice, float]) -> dict[Choice, float]:
    """Values of choices made alone as values that may be summed over sets closed under implication.

    A cumulative choice takes along all that it implies (`search_spaces.rules.implies`), so its value alone is the sum
    of what they add: Möbius inversion over that order. On a full grid of blocks and ratios of tokens this is the second
    difference over block and ratio, and where blocks save independently of each other the sum is right for schedules
    of many stages as well, but for what every stage costs by itself, which is counted once. Others keep their value.

    Args:
        alone: what each choice saves (or costs) beside the parent, in any unit.

    Returns:
        The same keys; the value of a cumulative choice may be negative where an implied one saves more alone.
    """
    values = {choice: value for choice, value in alone.items() if not is_cumulative(choice)}
    among = [choice for choice in alone if is_cumulative(choice)]
    implied = {one: [other for other in among if other != one and implies(one, other)] for one in among}
    for choice in sorted(implied, key=lambda each: len(implied[each])):
        values[choice] = alone[choice] - sum(values[other] for other in implied[choice])
    return {choice: values[choice] for choice in alone}
