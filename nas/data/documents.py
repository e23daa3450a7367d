"""Texts as a person has them on disk."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import BadData

SPLITS = ("calibration", "validation", "test")
_TEXT_SUFFIXES = {".txt", ".md", ".rst", ".py", ".jsonl"}


@dataclass(frozen=True)
class Document:
    """One text, the project it comes from if known, and the split it was assigned if it was."""

    text: str
    project: str | None = None
    split: str | None = None


def read_documents(path: Path) -> list[Document]:
    """The documents of a `.txt` file (separated by blank lines), a `.jsonl` file, or a folder of text files.

    A line of a `.jsonl` file is an object with `text` and optionally `project` and `split`. In a folder, the first
    sub-folder names the project.

    Raises:
        BadData: nothing there, nothing in it, or a line that is no such object.
    """
    if not path.exists():
        raise BadData(f"data {path} does not exist; give a .txt or .jsonl file, or a folder")
    documents = list(_folder(path)) if path.is_dir() else _file(path, None)
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise BadData(f"data {path} holds no text; give a .txt or .jsonl file, or a folder of text files")
    return documents


def _folder(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in _TEXT_SUFFIXES:
            parts = path.relative_to(folder).parts
            yield from _file(path, parts[0] if len(parts) > 1 else None)


def _file(path: Path, project: str | None) -> list[Document]:
    try:
        content = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise BadData(f"data {path} cannot be read as UTF-8 text ({error}); convert it") from None
    if path.suffix == ".jsonl":
        return [_line(path, number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if path.suffix == ".txt":
        return [Document(part, project) for part in re.split(r"\n[ \t]*\n", content)]
    return [Document(content, project)]


def _line(path: Path, number: int, line: str) -> Document:
    rule = f'{path} line {number}: each line is an object such as {{"text": "...", "project": "name"}}'
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadData(f"{rule} ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise BadData(rule)
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise BadData(f"{path} line {number}: split {split!r} is none of {', '.join(SPLITS)}")
    project = record.get("project")
    if project is not None and not isinstance(project, str):
        raise BadData(f"{path} line {number}: project {project!r} is not a string; put quotes around the name")
    return Document(record["text"], project, split)
