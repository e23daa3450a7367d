"""The table of finalists and what is said of their order, against what a person reads off the losses."""

from typing import Any

from nas.results.finalists import Finalist, describe_order, list_rung_steps, tabulate_finalists
from search_spaces import Architecture

WORDS = ("attn mlp", "mlp attn", "mlp mlp", "attn attn")


def finalists(*losses: tuple[float, float | None, tuple[float, ...], float | None]) -> list[dict[str, Any]]:
    made = [
        Finalist(number, Architecture.from_words(words), 2.0 * number, *each)
        for number, (words, each) in enumerate(zip(WORDS, losses, strict=False), start=1)
    ]
    return [each.to_json() for each in made]


HEALED = finalists(
    (0.9, 0.40, (0.30, 0.28), 0.28),
    (0.8, 0.41, (0.31,), 0.31),
    (1.0, 0.42, (0.29, 0.25, 0.20), 0.20),
    (0.7, 0.45, (0.33,), 0.32),
)
HEALING = {"rungs": [20, 55, 400]}


def test_the_table_has_every_stage_with_ranks_among_those_that_took_part() -> None:
    assert tabulate_finalists(HEALED, list_rung_steps(HEALING)) == [
        ["finalist", "as dropped", "compensated", "20 steps", "55 steps", "healed", "predicted ms"],
        ["1", "0.9000 (3)", "0.4000 (1)", "0.3000 (2)", "0.2800 (2)", "0.2800 (2)", "2.00"],
        ["2", "0.8000 (2)", "0.4100 (2)", "0.3100 (3)", "", "0.3100 (3)", "4.00"],
        ["3", "1.0000 (4)", "0.4200 (3)", "0.2900 (1)", "0.2500 (1)", "0.2000 (1)", "6.00"],
        ["4", "0.7000 (1)", "0.4500 (4)", "0.3300 (4)", "", "0.3200 (4)", "8.00"],
    ]


def test_where_the_order_changed_is_said_stage_by_stage() -> None:
    assert describe_order(HEALED, list_rung_steps(HEALING)) == [
        "compensation changed the order: 1, 2, 3, 4 (best first), as dropped 4, 2, 1, 3",
        "healing for 20 steps changed the order: 3, 1, 2, 4 (best first), compensated 1, 2, 3, 4",
        "healing for 55 steps left the order: 3, 1",
    ]


def test_without_healing_only_compensation_is_spoken_of() -> None:
    two = finalists((0.5, 0.1, (), None), (0.6, 0.2, (), None))
    assert tabulate_finalists(two)[0] == ["finalist", "as dropped", "compensated", "predicted ms"]
    assert describe_order(two) == ["compensation left the order: 1, 2"]


def test_without_compensation_healing_is_compared_with_what_was_dropped() -> None:
    two = finalists((0.5, None, (0.4,), 0.4), (0.6, None, (0.3, 0.1), 0.1))
    assert tabulate_finalists(two, [9])[0] == ["finalist", "as dropped", "9 steps", "healed", "predicted ms"]
    assert describe_order(two, [9]) == ["healing for 9 steps changed the order: 2, 1 (best first), as dropped 1, 2"]


def test_of_a_single_one_there_is_no_order() -> None:
    assert describe_order(finalists((0.5, 0.4, (0.3,), 0.3)), list_rung_steps({"rungs": [9]})) == []
