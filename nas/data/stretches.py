"""Long texts in stretches: what is used of much data, and how one text alone becomes three splits."""

from dataclasses import replace

from nas.data.documents import SPLITS, Document
from search_spaces.errors import BadData

SHARES = {"calibration": 0.25, "validation": 0.35, "test": 0.4}
MANY = 1_000_000  # characters of one split; where there are no more, all of it is read
STRETCH = 4000  # characters at most
_LINE = 600  # characters at most of a line that is an item of its own
_WANTED = 60  # stretches of a short text
_FEWEST = 12  # two of which are left out


def spread(items: list[Document], count: int) -> list[Document]:
    """At most so many, evenly spaced: what belongs together (a project) comes together."""
    if len(items) <= count:
        return items
    last = len(items) - 1
    return [items[round(position * last / max(1, count - 1))] for position in range(count)]


def thin(documents: list[Document], used: int) -> list[Document]:
    """All of a little data; of more than `MANY` characters about `used`, as stretches that are evenly spaced."""
    total = sum(len(document.text) for document in documents)
    if total <= MANY:
        return documents
    stretches = [stretch for document in documents for stretch in cut(document, STRETCH)]
    return spread(stretches, max(1, min(used, MANY) * len(stretches) // total))


def cut(document: Document, max_length: int) -> list[Document]:
    """A document in stretches of at most `max_length` characters: at line ends, else before spaces, else anywhere."""
    text, start, ends = document.text, 0, [0]
    while len(text) - start > max_length:
        line, space = text.rfind("\n", start, start + max_length) + 1, text.rfind(" ", start + 1, start + max_length)
        start = line if line > start + max_length // 2 else space if space > start else start + max_length
        ends.append(start)
    parts = [text[one:other] for one, other in zip(ends, [*ends[1:], len(text)], strict=True)]
    last = len(parts) - 1
    return [replace(document, text=part, ends=document.ends and at == last) for at, part in enumerate(parts)]


def cut_in_three(documents: list[Document], by_line: bool) -> dict[str, list[Document]]:
    """One text, or two, in three splits: each is a part without gaps, and none adjoins another.

    Args:
        by_line: a line is an item of its own; else stretches follow each other.

    Raises:
        BadData: too short for that.
    """
    stretches = _select_lines(documents) if by_line else _cut_windows(documents)
    total = sum(len(stretch.text) for stretch in stretches)
    if len(stretches) < _FEWEST:
        raise BadData(
            f"the data has {total} characters in {len(documents)} text{'s'[: len(documents) - 1]}; at least three "
            "texts (in a .txt with blank lines between them) are needed, or one of "
            f"{_FEWEST * _choose_shortest(by_line)} characters"
        )
    splits: dict[str, list[Document]] = {name: [] for name in SPLITS}
    passed, name = 0, ""
    for stretch in stretches:
        before, name = name, _split_at(passed / total)
        passed += len(stretch.text)
        if before in ("", name):  # else it adjoins what another split has
            splits[name].append(stretch)
    return splits


def _split_at(position: float) -> str:
    for name, share in SHARES.items():
        if position < share:
            return name
        position -= share
    return SPLITS[-1]


def _cut_windows(documents: list[Document]) -> list[Document]:
    total = sum(len(document.text) for document in documents)
    size = min(max(total // _WANTED, _choose_shortest(False)), STRETCH)
    return [stretch for document in documents for stretch in cut(document, size)]


def _select_lines(documents: list[Document]) -> list[Document]:
    """Lines that say something; of few lines, stretches."""
    lines = [replace(document, text=line) for document in documents for line in document.text.split("\n")]
    lines = [line for line in lines if line.text.strip()]
    total = sum(len(line.text) for line in lines)
    size = _LINE if len(lines) >= _FEWEST else min(max(total // _WANTED, _choose_shortest(True)), _LINE)
    return [stretch for line in lines for stretch in cut(line, size)]


def _choose_shortest(by_line: bool) -> int:
    """Characters of a stretch at least: a few words that are judged by themselves, or a few that are read on."""
    return 40 if by_line else 20
