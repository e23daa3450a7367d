"""Writing a winner in several formats, each checked beside its parent in the same program."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from nas.formats.format import Format, check_installed
from nas.formats.formats import FORMATS
from nas.formats.parity import Parity, check
from nas.formats.report import Row
from nas.formats.source import Source
from nas.progress import Progress
from search_spaces.errors import ExportError, MeasurementError, NasError, UsageError

MANIFEST = "nas_format.json"  # in every folder that is written


@dataclass(frozen=True)
class Delivered:
    """What became of every format, and the first problem of those that were not written.

    Example:
        >>> deliver_formats(["hf"], winner, parent, Path("OUT/formats"), progress).rows[0].state
        'checked'
    """

    rows: tuple[Row, ...]

    @property
    def problem(self) -> NasError | None:
        """None where every format was written and what ran it agreed."""
        refused = [row for row in self.rows if row.parity is None]
        if not refused:
            return None
        words = "; ".join(f"{row.format} {row.state}: {row.reason}" for row in refused)
        return ExportError(words) if any(row.failed for row in refused) else UsageError(words)


def parse_formats(text: str) -> tuple[str, ...]:
    """Read names such as `onnx,hf`, whose packages have to be there.

    Raises:
        UsageError: one is not known, or there is none.
        MissingExtra: a package is missing.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UsageError(f"--format {text!r}: each is one of {', '.join(FORMATS)}; write for example onnx,hf")
    for name in names:
        check_installed(FORMATS[name])
    return names


def deliver_formats(
    names: Sequence[str], source: Source, parent: Source | None, out: Path, progress: Progress
) -> Delivered:
    """Write `out/NAME` for every format; one that is refused or fails is left out and does not stop the others."""
    rows = []
    for name in names:
        with progress.open_stage(f"writing {name}"):
            rows.append(_deliver(FORMATS[name], source, parent, out / name, progress))
    return Delivered(tuple(rows))


def _deliver(format: Format, source: Source, parent: Source | None, folder: Path, progress: Progress) -> Row:
    _clear(folder)
    refusal = format.find_refusal(source)
    if refusal is not None:
        return Row(format.name, reason=refusal.words)
    try:
        parity = write_checked(format, source, folder, progress)
    except (ExportError, MeasurementError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return Row(format.name, reason=str(error), failed=True)
    return Row(format.name, parity, None if parent is None else _check_parent(format, parent, progress))


def write_checked(format: Format, source: Source, folder: Path, progress: Progress) -> Parity:
    """Write a folder anew and compare it with the model.

    Raises:
        UsageError: what is there was not written here.
        ExportError: it cannot be written, or does not compute what the model does.
        MeasurementError: the runtime refuses it.
    """
    _clear(folder)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"format": format.name, "nas": version("nas")}) + "\n")
    format.export(source, folder, progress)
    return check(format, source, folder)


def _clear(folder: Path) -> None:
    """Remove a folder that was written here before.

    Raises:
        UsageError: it is something else.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} is there and was not written by nas export; remove it, or give another --out")
    shutil.rmtree(folder, ignore_errors=True)


def _check_parent(format: Format, parent: Source, progress: Progress) -> Parity | None:
    """The parent in the same program, in a folder that is thrown away; None where it does not run there."""
    if format.find_refusal(parent) is not None:
        return None
    with tempfile.TemporaryDirectory() as place:
        try:
            return write_checked(format, parent, Path(place) / format.name, progress)
        except (ExportError, MeasurementError) as error:
            progress.show_message(f"the parent in {format.name}: {error}")
            return None
