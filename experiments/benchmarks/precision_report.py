"""A table, verdicts and a figure of what `precision.py` recorded."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from search_report import SIGNIFICANT, reject_by_holm

from nas.quality import Quality
from nas.quality.comparison import compare

JOINT = "joint"
SAME = 1.02  # measured latencies that differ by less are equal
NEAR = 0.005  # loss within which a row has the parent's quality, so that nothing is left to be better in
Document = dict[str, Any]


def report(documents: list[Document]) -> str:
    """Markdown: a table a model and workload, and what the joint search is beside the others."""
    return "\n".join(line for document in documents for line in (*_format_table(document), *_format_verdict(document)))


def _format_table(document: Document) -> list[str]:
    facts, measured = document["facts"], document["measured"]
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for row, share, words in document["chosen"]:
        loss, took = document[f"test {words}"]["loss"], measured[words]["share"]
        rows[row][share] = f"{loss:.4f} ({took:.2f})"
    shares = [str(share) for share in facts["shares"]]
    lines = [
        f"### {facts['model']}, {facts['workload']}\n",
        f"Test loss, in brackets the measured fraction of the parent's latency ({facts['processor']}; "
        f"{_describe_effort(facts)}).\n",
        f"| row | {' | '.join(f'{share}x' for share in shares)} |",
        f"|---{'|---' * len(shares)}|",
    ]
    for row, cells in rows.items():
        whole = cells.get("")
        lines.append(f"| {row} | {' | '.join(whole or cells.get(share, '-') for share in shares)} |")
    return [*lines, ""]


def _describe_effort(facts: Document) -> str:
    """How much was searched with and judged on."""
    counted = {"items": "validation items", "calibration": "calibration items", "test": "test items"}
    words = [f"{facts.get(name) or 'all'} {what}" for name, what in counted.items()]
    return ", ".join([f"{facts['trials']} trials a fraction", *words])


def _format_verdict(document: Document) -> list[str]:
    cells = {share: _list_rivals(document, share) for share in map(str, document["facts"]["shares"])}
    joint = {share: words for row, share, words in document["chosen"] if row == JOINT}
    cells = {share: rivals for share, rivals in cells.items() if share in joint}
    dominated = [
        f"{share}x by {row}"
        for share, rivals in cells.items()
        for row, words in rivals.items()
        if words != joint[share] and _is_worse(document, joint[share], words)
    ]
    contested, p_values, better = [], [], []
    for share, rivals in cells.items():
        losses = {row: document[f"test {words}"]["loss"] for row, words in rivals.items()}
        if losses and min(losses.values()) > NEAR:
            best = rivals[min(losses, key=losses.__getitem__)]
            outcome = compare(_read(document, joint[share]), _read(document, best), best)
            contested.append(share)
            p_values.append(outcome.p_value)
            better.append(outcome.difference < 0)
    rejected = reject_by_holm(p_values)
    won = [share for share, sure, less in zip(contested, rejected, better, strict=True) if sure and less]
    named = f": {', '.join(won)}" if won else ""
    return [
        f"Dominated (a rival as fast or faster, and better, paired t at {SIGNIFICANT:.0%}): "
        f"{', '.join(dominated) or 'in no cell'}. Better than the best rival (Holm): {len(won)} of {len(contested)} "
        f"cells in which no rival is within {NEAR} of the parent{named}.",
        "",
    ]


def _list_rivals(document: Document, share: str) -> dict[str, str]:
    """Words by row of what was measured within a fraction, or as fast as the joint search's choice for it."""
    measured = document["measured"]
    own = next((words for row, s, words in document["chosen"] if row == JOINT and s == share), None)
    limit = SAME * max(float(share), 0.0 if own is None else measured[own]["share"])
    return {
        row: words
        for row, s, words in document["chosen"]
        if row != JOINT and s in (share, "") and measured[words]["share"] <= limit
    }


def _is_worse(document: Document, one: str, other: str) -> bool:
    """Whether `other` takes no longer and is significantly better."""
    slower = document["measured"][one]["share"] * SAME >= document["measured"][other]["share"]
    outcome = compare(_read(document, one), _read(document, other), other)
    return slower and outcome.difference > 0 and outcome.p_value <= SIGNIFICANT


def _read(document: Document, words: str) -> Quality:
    entry = document[f"test {words}"]
    per_item = tuple(entry["per_item"])
    return Quality("loss", entry["loss"], False, "test", entry["loss"], {}, len(per_item), per_item)


def draw(documents: list[Document], out: Path) -> None:
    """Test loss over the measured fraction of the parent's latency, a panel for each model and workload."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    count = len(documents)
    picture, panels = plt.subplots(1, count, figsize=(4.4 * count, 3.9), layout="constrained", squeeze=False)
    for axes, document in zip(panels.flat, documents, strict=True):
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row, _, words in document["chosen"]:
            loss = max(document[f"test {words}"]["loss"], math.ulp(1.0))
            points[row].append((document["measured"][words]["share"], loss))
        for row, some in points.items():
            style = {"linewidth": 2.2, "zorder": 3} if row == JOINT else {"linewidth": 1.0}
            axes.plot(*zip(*sorted(some), strict=True), marker="o", markersize=4, label=row, **style)
        title = f"{document['facts']['model']}, {document['facts']['workload']}"
        axes.set(title=title, xlabel="measured latency, fraction of the parent's", yscale="log")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("test loss (lower is better)")
    panels[0][0].legend(frameon=False, fontsize=7)
    picture.savefig(out, dpi=110)
