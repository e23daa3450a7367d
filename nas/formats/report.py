"""The parity report: what was written in which format, how close it is to the model, and how fast in its program."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.formats.parity import Parity

REPORT, TABLE = "parity.json", "parity.md"
_HEAD = (
    "format", "state", "program", "largest difference", "tolerance", "greedy tokens", "MB", "load, s", "per second",
)  # fmt: skip
_LINK = "## In other programs"
_MEGA = 1e6


@dataclass(frozen=True)
class Row:
    """One format of a report: written with its parity, or why not.

    Example:
        >>> Row("gguf", reason="llama.cpp has no such family").state
        'refused'
    """

    format: str
    parity: Parity | None = None
    parent: Parity | None = None
    reason: str = ""
    failed: bool = False

    @property
    def state(self) -> str:
        """In one word, or two."""
        if self.parity is None:
            return "failed" if self.failed else "refused"
        return "checked" if self.parity.program else "not run"


def write_parity(rows: Sequence[Row], folder: Path, card: Path | None = None) -> tuple[Path, Path]:
    """Write `parity.json` and `parity.md`, with formats of earlier reports that are none of these; link the card.

    Args:
        card: the README.md of the model, which gets a section once.
    """
    document = {**_read_earlier(folder), **{row.format: {"state": row.state, **asdict(row)} for row in rows}}
    report, table = folder / REPORT, folder / TABLE
    report.write_text(json.dumps({"schema_version": 1, "formats": document}, indent=1) + "\n")
    table.write_text(format_table(document))
    if card is not None and card.is_file() and _LINK not in card.read_text():
        card.write_text(
            f"{card.read_text().rstrip()}\n\n{_LINK}\n\nWhich formats it was written in, and how each compares with "
            f"the model: [{TABLE}](../{TABLE}).\n"
        )
    return report, table


def _read_earlier(folder: Path) -> dict[str, Any]:
    """The formats of the report that lies there; none where it cannot be read."""
    try:
        return dict(json.loads((folder / REPORT).read_text())["formats"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def format_table(formats: dict[str, Any]) -> str:
    """The table, Markdown, with what there is to say of single formats below."""
    rows = ["| " + " | ".join(_HEAD) + " |", "|---|---|---|---:|---:|---:|---:|---:|---:|"]
    rows += ["| " + " | ".join(_format_row(each)) + " |" for each in formats.values()]
    notes = [f"- {name}: {words}" for name, each in formats.items() if (words := _find_note(each))]
    return (
        "# Parity with the model\n\nDifferences are relative to outputs above 1. In brackets: the parent in the same "
        "program.\n\n" + "\n".join(rows) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")
    )


def _find_note(row: dict[str, Any]) -> str:
    return str(row["reason"] or (row["parity"] or {}).get("note", ""))


def _format_row(row: dict[str, Any]) -> list[str]:
    parity, parent = row["parity"], row["parent"]
    if parity is None:
        return [row["format"], row["state"], *[""] * (len(_HEAD) - 2)]
    size = _beside(parity["bytes"] / _MEGA, parent and parent["bytes"] / _MEGA)
    if not parity["program"]:
        return [row["format"], row["state"], "", "", "", "", size, "", ""]
    ran = parent if parent and parent["program"] else None
    worst = max(value for _, value in parity["differences"])
    tokens = f"{parity['same_tokens']} of {parity['tokens']}" if parity["tokens"] else ""
    speed = _beside(parity["rate"], ran and ran["rate"]) + f" {parity['unit']}s"
    return [
        row["format"], row["state"], parity["program"], f"{worst:.1e}", f"{parity['tolerance']:.0e}", tokens, size,
        _beside(parity["load_seconds"], ran and ran["load_seconds"]), speed,
    ]  # fmt: skip


def _beside(value: float, parent: float | None) -> str:
    """A number with the parent's in brackets."""
    return f"{value:,.2f}" + (f" ({parent:,.2f})" if parent else "")
