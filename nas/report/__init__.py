"""One page about finished searches that needs nothing else: no other file, no network, no script."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.report.finished import CANDIDATES, read_finished

REPORT = "report.html"

__all__ = ["CANDIDATES", "REPORT", "write_report"]


def write_report(folders: Sequence[Path], page: Path) -> list[dict[str, Any]]:
    """Write the page of one search, or of several with a table of them first; it is complete or as it was before.

    Returns:
        The headline of every search: model, target, budget, winner, verdict.

    Raises:
        UsageError: a folder is none of a finished search, or its result is damaged or of another version.
    """
    from nas.report.page import render
    from nas.report.view import build_headline, build_view

    searches = [read_finished(folder) for folder in folders]
    text = render([build_view(search) for search in searches])
    page.parent.mkdir(parents=True, exist_ok=True)
    draft = page.with_name(f"{page.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(page)
    return [build_headline(search) for search in searches]
