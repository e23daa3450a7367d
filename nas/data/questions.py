"""Questions about images as a person has them on disk: a folder with `questions.jsonl` and the images."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.documents import SPLITS
from nas.data.text_file import is_folder, read_bytes, read_text, replace_lone_surrogates
from search_spaces.errors import BadData

FILE = "questions.jsonl"
_SHARES = {"calibration": 0.25, "validation": 0.35, "test": 0.4}
_EXAMPLE = '{"image": "one.png", "question": "how many?", "answer": "3"}'


@dataclass(frozen=True)
class Question:
    """A question about one or several images, its answer, and the split it was assigned if it was."""

    images: tuple[Path, ...]
    text: str
    answer: str
    split: str | None = None


def read_questions(data: Path) -> list[Question]:
    """The questions of a folder, or of its `questions.jsonl`.

    A line is an object with `image` (a path in the folder, or a list of them), `question`, `answer` and optionally
    `split`; whatever else it has is not read.

    Raises:
        BadData: no such file, nothing in it, a line that is no such object, an image that is not there, or questions
            with unlike numbers of images.
    """
    path = _find_file(data)
    lines = read_text(path).split("\n")
    questions = [_read_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise BadData(f"data {path} holds no question; write one a line, such as {_EXAMPLE}")
    for question in questions:
        if len(question.images) != len(questions[0].images):
            raise BadData(
                f"data {path}: {question.text!r} has {len(question.images)} images and {questions[0].text!r} "
                f"{len(questions[0].images)}; all questions have as many, so put others into a folder of their own"
            )
    return questions


def _find_file(data: Path) -> Path:
    path = data / FILE if is_folder(data) else data
    if not path.exists():
        raise BadData(f"data {path} does not exist; a vision-language model takes a folder with {FILE} and images")
    return path


def _read_question(path: Path, number: int, line: str) -> Question:
    rule = f"{path} line {number}: each line is an object such as {_EXAMPLE}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{rule} ({error})") from None
    if not isinstance(record, dict):
        raise BadData(rule)
    names = record.get("image")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names:
        raise BadData(rule)
    asked, answer = record.get("question"), record.get("answer")
    if not all(isinstance(text, str) and text.strip() for text in (*names, asked, answer)):
        raise BadData(rule)
    images = tuple(path.parent / replace_lone_surrogates(name) for name in names)
    missing = next((image for image in images if not _is_file(image)), None)
    if missing is not None:
        raise BadData(f"{path} line {number}: image {missing} does not exist; paths are relative to {path.parent}")
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise BadData(f"{path} line {number}: split {split!r} is none of {', '.join(SPLITS)}; use one or leave it out")
    return Question(images, replace_lone_surrogates(str(asked)), replace_lone_surrogates(str(answer)), split)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


def split_questions(questions: list[Question]) -> dict[str, list[Question]]:
    """Assign questions to calibration, validation and test; all about one image, or copies of it, go together.

    A question's own `split` is kept. Others are assigned by the content of their images, whatever their order.

    Raises:
        BadData: an image in two splits, or a split that would be empty.
    """
    splits: dict[str, list[Question]] = {name: [] for name in SPLITS}
    unassigned = []
    for name, group in _group(questions).items():
        given = {question.split for question in group} - {None}
        if len(given) > 1:
            raise BadData(
                f"image {group[0].images[0]} is asked about in {' and '.join(sorted(map(str, given)))}; "
                "give all questions about one image the same split"
            )
        if given:
            splits[str(given.pop())].extend(group)
        else:
            unassigned.append((name, group))
    total = sum(len(group) for _, group in unassigned)
    for _, group in sorted(unassigned, key=lambda item: (-len(item[1]), item[0])):
        short = {name: share * total - len(splits[name]) for name, share in _SHARES.items()}
        splits[max(short, key=lambda name: short[name])].extend(group)
    empty = [name for name, members in splits.items() if not members]
    if empty:
        raise BadData(
            f"{len(questions)} questions leave none for {' and '.join(empty)}; at least three images with questions of "
            "their own are needed"
        )
    return splits


def _group(questions: list[Question]) -> dict[str, list[Question]]:
    """Questions that share an image, or are joined by ones that do, under the digest of their first image."""
    known: dict[Path, str] = {}
    of: dict[str, Any] = {}  # digest of an image -> (digests, questions) of its group
    for question in questions:
        digests: set[str] = {known.setdefault(image, _compute_digest(image)) for image in question.images}
        groups = {id(of[digest]): of[digest] for digest in sorted(digests) if digest in of}.values()
        together = digests.union(*(group[0] for group in groups))
        merged = together, [*(each for group in groups for each in group[1]), question]
        of |= dict.fromkeys(together, merged)
    return {min(group[0]): group[1] for group in of.values()}


def _compute_digest(image: Path) -> str:
    return hashlib.sha256(read_bytes(image)).hexdigest()
