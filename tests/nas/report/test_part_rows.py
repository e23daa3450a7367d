"""The rows that say how many parts of each nature a winner keeps."""

from typing import Any

from nas.quality.quality import Quality
from nas.report.tables import build_parent_rows


def result(before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    entry = {"measured_ms": None, "predicted_ms": 2.0, "interval_ms": [1.0, 3.0]}
    quality = Quality("kl", 0.1, False, "test", 0.1).to_json()
    return {
        "percentile": 50,
        "parent": {**entry, "quality": quality},
        "winner": {**entry, "quality": quality, "parameters": 50, "parts": after},
        "model": {"parameters": 100, "parts": before},
    }


def rows(before: dict[str, int], after: dict[str, int]) -> list[tuple[str, ...]]:
    return [row for row in build_parent_rows(result(before, after), None) if row[0].startswith("parts, ")]


def test_of_a_hybrid_every_nature_is_counted() -> None:
    found = rows({"linear_attention": 3, "attention": 1, "moe": 4}, {"linear_attention": 2, "moe": 4})
    assert found == [
        ("parts, linear_attention", "3", "2", "0.67 ×"),
        ("parts, attention", "1", "0", "0.00 ×"),
        ("parts, moe", "4", "4", "1.00 ×"),
    ]


def test_of_plain_parts_and_of_older_results_nothing_is_said() -> None:
    assert rows({"attention": 4, "mlp": 4}, {"attention": 2, "mlp": 4}) == []
    assert rows({}, {}) == []
