"""The verdict of the benchmark of formats: who is as fast, who is better, and in which cells that counts."""

import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))

from precision_report import report

WORDS = {"joint": "a", "drops": "b", "drops, then int8": "c", "int8": "d"}


def build_document(losses: dict[str, float], shares: dict[str, float]) -> dict:
    """One cell at half of the parent's latency; items differ from each other far more than rows do."""
    rng = random.Random(0)
    items = [rng.uniform(0.5, 2.0) for _ in range(24)]
    document = {
        "facts": {"model": "made", "workload": "forward", "shares": [0.5], "processor": "1 threads, avx2", "trials": 4},
        "chosen": [[row, "" if row == "int8" else "0.5", words] for row, words in WORDS.items()],
        "measured": {words: {"share": shares[row]} for row, words in WORDS.items()},
    }
    for row, words in WORDS.items():
        per_item = [losses[row] * each + 1e-6 * rng.random() for each in items]
        document[f"test {words}"] = {"loss": math.fsum(per_item) / len(items), "per_item": per_item}
    return document


def test_a_search_that_is_better_than_all_as_fast_wins_its_cell() -> None:
    losses = {"joint": 0.1, "drops": 0.4, "drops, then int8": 0.15, "int8": 0.01}
    found = report([build_document(losses, {"joint": 0.5, "drops": 0.5, "drops, then int8": 0.49, "int8": 0.8})])
    assert "in no cell. Better than the best rival (Holm): 1 of 1 cells" in found
    assert "| joint | " in found
    assert "(0.50) |" in found


def test_a_rival_that_is_as_fast_and_better_dominates() -> None:
    losses = {"joint": 0.1, "drops": 0.4, "drops, then int8": 0.08, "int8": 0.01}
    found = report([build_document(losses, {"joint": 0.5, "drops": 0.5, "drops, then int8": 0.49, "int8": 0.8})])
    assert "0.5x by drops, then int8" in found
    assert "0 of 1 cells" in found


def test_a_cell_in_which_a_rival_has_the_parent_s_quality_is_not_contested() -> None:
    losses = {"joint": 0.001, "drops": 0.4, "drops, then int8": 0.002, "int8": 0.002}
    found = report([build_document(losses, {"joint": 0.5, "drops": 0.5, "drops, then int8": 0.49, "int8": 0.4})])
    assert "0 of 0 cells" in found
