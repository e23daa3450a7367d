"""One page about finished searches that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path

REPORT = "report.html"


def write_report(folders: Sequence[Path], page: Path) -> None:
    """Write the page."""
    page.write_text("")
