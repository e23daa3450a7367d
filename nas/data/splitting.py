"""Three splits that share nothing: whole projects on one side, near-duplicates removed."""

import hashlib
import math
import re
from collections import Counter

from nas.data.documents import SPLITS, Document
from search_spaces.errors import BadData

_SHINGLE = 5  # words
_ALIKE = 0.5  # Jaccard similarity of shingles above which two texts are near-duplicates
_SHARES = {"calibration": 0.25, "validation": 0.35, "test": 0.4}


def split_documents(documents: list[Document]) -> dict[str, list[Document]]:
    """Assign documents to calibration, validation and test, then drop near-duplicates across and within them.

    A document's own `split` is kept. Others go by project (a project is wholly in one split), or by their text
    where no project is known; the assignment depends on names and texts only, not on their order.

    Raises:
        BadData: when a split would be empty.
    """
    splits: dict[str, list[Document]] = {name: [] for name in SPLITS}
    groups: dict[str, list[Document]] = {}
    for document in documents:
        if document.split is not None:
            splits[document.split].append(document)
        else:
            groups.setdefault(document.project or _digest(document.text), []).append(document)
    total = sum(len(group) for group in groups.values())
    for _, group in sorted(groups.items(), key=lambda item: (-len(item[1]), _digest(item[0]))):
        short = {name: share * total - len(splits[name]) for name, share in _SHARES.items()}
        splits[max(short, key=lambda name: short[name])].extend(group)
    cleaned = without_near_duplicates(splits)
    empty = [name for name, members in cleaned.items() if not members]
    if empty:
        raise BadData(
            f"{len(documents)} documents leave nothing for {' and '.join(empty)}; at least three distinct documents "
            "(or projects) are needed, one for each of calibration, validation and test"
        )
    return cleaned


def without_near_duplicates(splits: dict[str, list[Document]]) -> dict[str, list[Document]]:
    """Keep a document only if no kept one has more than half of the word shingles in common (Jaccard).

    Test comes first, then validation, then calibration: what is judged on is never the one to go.
    """
    shingled = {name: [_shingles(document.text) for document in splits[name]] for name in SPLITS}
    frequency = Counter(shingle for members in shingled.values() for shingles in members for shingle in shingles)
    kept: dict[str, list[Document]] = {}
    index: dict[int, list[set[int]]] = {}  # telling shingle -> kept documents that have it
    for name in reversed(SPLITS):
        kept[name] = []
        for document, shingles in zip(splits[name], shingled[name], strict=True):
            telling = _telling(shingles, frequency)
            if not any(_alike(shingles, other) for shingle in telling for other in index.get(shingle, ())):
                for shingle in telling:
                    index.setdefault(shingle, []).append(shingles)
                kept[name].append(document)
    return {name: kept[name] for name in SPLITS}


def _telling(shingles: set[int], frequency: Counter[int]) -> list[int]:
    """The rarest shingles: two texts that are alike share at least one of them, so only these are looked up.

    Prefix filtering (Chaudhuri et al., "A Primitive Operator for Similarity Joins", 2006): nothing is missed, and a
    licence header that thousands of texts share is not compared thousands of times.
    """
    rarest = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
    return rarest[: len(rarest) - math.ceil(_ALIKE * len(rarest)) + 1]


def _alike(one: set[int], other: set[int]) -> bool:
    common = len(one & other)
    return common / (len(one) + len(other) - common) > _ALIKE


def _shingles(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[start : start + _SHINGLE])) for start in range(max(1, len(words) - _SHINGLE + 1))}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
