"""Texts as a person has them on disk."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.text_file import is_folder, is_hidden, read_text, replace_lone_surrogates
from search_spaces.errors import BadData

SPLITS = ("calibration", "validation", "test")
_RECORDS = {".jsonl", ".json", ".csv", ".tsv"}
_TEXT_SUFFIXES = {".txt", ".md", ".rst", ".py", ".jsonl"}
_WHOLE = {".md", ".rst", ".py"}  # one text a file
_FORMS = "a .txt, .jsonl, .json or .csv file, or a folder of text files"
_EXAMPLE = '{"text": "...", "project": "name"}'


@dataclass(frozen=True)
class Document:
    """One text, the project it comes from if known, and the split it was assigned if it was.

    `ends` is False for a stretch of a longer text that goes on after it.
    """

    text: str
    project: str | None = None
    split: str | None = None
    ends: bool = True


def read_documents(path: Path) -> list[Document]:
    """The documents of a file, or of all files in a folder, whose first sub-folder names the project.

    A `.txt` file has documents separated by blank lines. A `.jsonl` file has an object with `text` and optionally
    `project` and `split` in every line; a `.json` file has lines or an array of such objects, or of texts; a `.csv` or
    `.tsv` file has columns of these names. Hidden files and what macOS writes beside files are not read.

    Raises:
        BadData: nothing there, nothing in it, an encoding that is not known, or a line that is no such object.
    """
    folder = is_folder(path)
    if not path.exists():
        raise BadData(f"data {path} does not exist; give {_FORMS}")
    documents = list(_read_folder(path) if folder else _read_file(path, None))
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise BadData(f"data {path} holds no text; give {_FORMS}")
    return documents


def _read_folder(folder: Path) -> Iterator[Document]:
    """Those of its text files; of tables and JSON, which also describe folders, where it has no others."""
    files = [path for path in sorted(folder.rglob("*")) if not is_hidden(path, folder) and path.is_file()]
    texts = [path for path in files if path.suffix.lower() in _TEXT_SUFFIXES]
    for path in texts or [path for path in files if path.suffix.lower() in _RECORDS]:
        parts = path.relative_to(folder).parts
        yield from _read_file(path, parts[0] if len(parts) > 1 else None)


def _read_file(path: Path, project: str | None) -> Iterator[Document]:
    content, suffix = read_text(path), path.suffix.lower()
    if suffix in _RECORDS:
        records = _read_table(path, content) if suffix in (".csv", ".tsv") else _read_objects(path, content)
        for location, record in records:
            yield _build_document(location, record)
    elif suffix in _WHOLE:
        yield Document(content, project)
    else:
        yield from (Document(part, project) for part in re.split(r"\n[ \t]*\n", content))


def _read_objects(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    """What a JSON file lists, an array or a line each, and the location of each in words."""
    if content.lstrip().startswith("["):
        array = _parse(f"{path}", content)
        yield from ((f"{path} item {number}", item) for number, item in enumerate(array, 1))
        return
    if path.suffix.lower() == ".json" and (alone := _read_single_object(content)):
        yield f"{path}", alone
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield f"{path} line {number}", _parse(f"{path} line {number}", line)


def _read_single_object(content: str) -> Any:
    """A file's only object, which may be written over several lines; None where there are more."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _parse(location: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or nested too deeply
        raise BadData(f"{location}: each is an object such as {_EXAMPLE} ({error})") from None


def _read_table(path: Path, content: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table with a column `text`, under whichever delimiter shows one."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text may be a book
    for delimiter in (",", ";", "\t"):
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
        try:
            names = [name.strip().lower() for name in next(reader, [])]
            if "text" in names:
                for row in filter(None, reader):
                    yield f"{path} line {reader.line_num}", dict(zip(names, row, strict=False))
                return
        except csv.Error as error:
            raise BadData(f"{path} line {reader.line_num} is no row of a table ({error}); write it again") from None
    header = content.partition("\n")[0][:80]
    raise BadData(f"{path} has no column named text (its first line is {header!r}); name the column of the texts so")


def _build_document(location: str, record: Any) -> Document:
    """An object with its text, or the text alone.

    Raises:
        BadData: it is neither, or its split or project is none.
    """
    if isinstance(record, str):
        return Document(replace_lone_surrogates(record))
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise BadData(f"{location}: each is an object with a text, such as {_EXAMPLE}; this {_describe_value(record)}")
    split = record.get("split") or None
    if split is not None and split not in SPLITS:
        raise BadData(f"{location}: split {split!r} is none of {', '.join(SPLITS)}; use one or leave it out")
    project = record.get("project") or None
    if project is not None and not isinstance(project, str):
        raise BadData(f"{location}: project {project!r} is not a string; put quotes around the name")
    return Document(replace_lone_surrogates(record["text"]), project and replace_lone_surrogates(project), split)


def _describe_value(record: Any) -> str:
    """What a record that is no text has in its place."""
    if not isinstance(record, dict):
        return f"is {str(record)[:40]!r}"
    if "text" in record:
        return f"has the text {str(json.dumps(record['text']))[:40]}"
    return f"has {', '.join(map(repr, list(record)[:5])) or 'nothing'}"
