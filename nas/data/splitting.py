"""Three splits that share nothing: whole projects on one side, near-duplicates removed."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping

from nas.data.documents import SPLITS, Document
from nas.data.stretches import SHARES, cut_in_three, thin
from search_spaces.errors import BadData

_SHINGLE = 5  # words
_ALIKE = 0.5  # Jaccard similarity of shingles above which two texts are near-duplicates


def split_documents(
    documents: list[Document], used: Mapping[str, int] | None = None, by_line: bool = True
) -> dict[str, list[Document]]:
    """Assign documents to calibration, validation and test, then drop near-duplicates across and within them.

    A document's own `split` is kept, also for others of its project. Others go by project (a project is wholly in one
    split), or by their text where no project is known or all are of one; the assignment depends on names and texts
    only, not on their order. One or two texts alone are cut into three parts that do not adjoin.

    Args:
        used: about how many characters of each split are used, of much data; None for all.
        by_line: where a text is cut, a line is a text of its own; else stretches follow each other.

    Raises:
        BadData: when a split would be empty.
    """
    assigned = [document for document in documents if document.split is not None]
    groups = _group([document for document in documents if document.split is None], assigned)
    alone = not assigned and len(groups) < len(SPLITS) and len({document.project for document in documents}) == 1
    splits = cut_in_three(documents, by_line) if alone else _assign(assigned, groups)
    return clean_splits(splits, used)


def clean_splits(splits: dict[str, list[Document]], used: Mapping[str, int] | None = None) -> dict[str, list[Document]]:
    """The splits without near-duplicates; of much data what is used.

    Raises:
        BadData: one is empty.
    """
    count = sum(map(len, splits.values()))
    kept = remove_near_duplicates(
        splits if used is None else {name: thin(members, used[name]) for name, members in splits.items()}
    )
    empty = [name for name, members in kept.items() if not members]
    if empty:
        raise BadData(
            f"{count} documents, of which near-copies count once, leave nothing for {' and '.join(empty)}; at least "
            "three distinct documents (or projects) are needed, one for each of calibration, validation and test"
        )
    return kept


def _group(documents: list[Document], assigned: list[Document]) -> dict[str, list[Document]]:
    """What goes into one split together, under a name: a project, or copies of one text.

    One project for all says nothing, as where texts lie in a folder within a folder.
    """
    projects = {document.project for document in (*documents, *assigned)}
    groups: dict[str, list[Document]] = {}
    for document in documents:
        project = document.project if len(projects) > 1 else None
        groups.setdefault(project or _compute_digest(document.text), []).append(document)
    return groups


def _assign(assigned: list[Document], groups: dict[str, list[Document]]) -> dict[str, list[Document]]:
    """Those that were assigned stay, each group goes where most is missing, the largest first."""
    splits = {name: [document for document in assigned if document.split == name] for name in SPLITS}
    projects = {document.project: str(document.split) for document in assigned if document.project is not None}
    for project in sorted(projects.keys() & groups.keys()):
        splits[projects[project]].extend(groups.pop(project))
    total = sum(len(group) for group in groups.values())
    for _, group in sorted(groups.items(), key=lambda item: (-len(item[1]), _compute_digest(item[0]))):
        short = {name: share * total - len(splits[name]) for name, share in SHARES.items()}
        splits[max(short, key=lambda name: short[name])].extend(group)
    return splits


def remove_near_duplicates(splits: dict[str, list[Document]]) -> dict[str, list[Document]]:
    """Keep a document only if no kept one has more than half of the word shingles in common (Jaccard).

    Test comes first, then validation, then calibration: what is judged on is never the one to go.
    """
    shingled = {name: [_list_shingles(document.text) for document in splits[name]] for name in SPLITS}
    frequency = Counter(shingle for members in shingled.values() for shingles in members for shingle in shingles)
    kept: dict[str, list[Document]] = {}
    index: dict[int, list[set[int]]] = {}  # telling shingle -> kept documents that have it
    for name in reversed(SPLITS):
        kept[name] = []
        for document, shingles in zip(splits[name], shingled[name], strict=True):
            telling = _select_rarest(shingles, frequency)
            if not any(_is_alike(shingles, other) for shingle in telling for other in index.get(shingle, ())):
                for shingle in telling:
                    index.setdefault(shingle, []).append(shingles)
                kept[name].append(document)
    return {name: kept[name] for name in SPLITS}


def _select_rarest(shingles: set[int], frequency: Counter[int]) -> list[int]:
    """The rarest shingles: two texts that are alike share at least one of them, so only these are looked up.

    Prefix filtering (Chaudhuri et al., "A Primitive Operator for Similarity Joins", 2006): nothing is missed, and a
    licence header that thousands of texts share is not compared thousands of times.
    """
    rarest = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
    return rarest[: len(rarest) - math.ceil(_ALIKE * len(rarest)) + 1]


def _is_alike(one: set[int], other: set[int]) -> bool:
    common = len(one & other)
    return common / (len(one) + len(other) - common) > _ALIKE


def _list_shingles(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower()) or text.split()  # signs alone are words too
    return {hash(tuple(words[start : start + _SHINGLE])) for start in range(max(1, len(words) - _SHINGLE + 1))}


def _compute_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
