"""Make `data/{calibration,validation,test}.jsonl`: held-out Python source of projects that were not trained on.

    python texts.py
    python texts.py --text docstrings --out ../../benchmarks/decoders/docstrings  # for decoders trained on those

`data/LICENCES.md` repeats the licence texts of those projects, as they ask of whoever passes their source on.
Documents are cut to 8 kB on line ends. Near-duplicates (more than half of the word shingles in common) are removed
within the splits, across them, and against the whole training text.
"""

import argparse
import json
import random
import re
from importlib.metadata import distribution
from pathlib import Path

import corpus

from nas.data.documents import Document
from nas.data.splitting import remove_near_duplicates

SHORTEST, LONGEST = 200, 8_000  # characters of one document
PER_SPLIT = 360_000  # characters
DISTRIBUTIONS = {"networkx": "networkx", "optuna": "optuna", "_pytest": "pytest", "rich": "rich", "fastapi": "fastapi"}
SHINGLE = 8  # words; a document whose shingles are mostly in the training text is left out


def cut(text: str) -> str:
    """The beginning of a text, ending at a line end."""
    return text if len(text) <= LONGEST else text[: text.rfind("\n", 0, LONGEST) + 1]


def list_shingles(text: str) -> set[int]:
    words = re.findall(r"\w+", text)
    return {hash(tuple(words[start : start + SHINGLE])) for start in range(max(1, len(words) - SHINGLE + 1))}


def read_licences() -> str:
    """The licence texts of every held-out project, from the packages installed here."""
    parts = ["# Licences of the texts in this folder", "Each document names its project; the texts are excerpts."]
    for split, projects in corpus.HELD_OUT.items():
        for project in projects:
            package = distribution(DISTRIBUTIONS[project])
            parts.append(f"## {project} ({split}): {package.name} {package.version}")
            texts = sorted(path for path in package.files or () if path.name.startswith("LICENSE"))
            parts += [f"```text\n{path.read_text().strip()}\n```" for path in texts]
    return "\n\n".join(parts) + "\n"


def list_documents(text: str) -> dict[str, list[Document]]:
    """The documents of each held-out split that do not stand in the training text."""
    trained: set[int] = set()
    for document in corpus.load("train", text):
        trained |= list_shingles(document)
    pinned = json.loads(corpus.PINNED.read_text())
    splits: dict[str, list[Document]] = {}
    for name in corpus.HELD_OUT:
        documents, seen = [], 0
        for path, found in zip(pinned[name], corpus.load(name, text), strict=True):
            if len(found) < SHORTEST:
                continue
            own = list_shingles(cut(found))
            if len(own & trained) > len(own) / 2:
                seen += 1
                continue
            documents.append(Document(cut(found), path.split("/")[0]))
        print(f"{name}: {len(documents)} documents, {seen} left out because they stand in the training text")
        splits[name] = documents
    return splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", choices=corpus.TEXTS, default="source")
    parser.add_argument("--out", type=Path, default=corpus.HERE / "data")
    arguments = parser.parse_args()
    splits = list_documents(arguments.text)
    arguments.out.mkdir(exist_ok=True)
    for name, documents in remove_near_duplicates(splits).items():
        print(f"{name}: {len(splits[name]) - len(documents)} near-duplicates removed")
        random.Random(name).shuffle(documents)  # every project is met before the size is reached
        total, lines = 0, []
        for document in documents:
            total += len(document.text)
            if total > PER_SPLIT:
                break
            lines.append(json.dumps({"text": document.text, "project": document.project}))
        (arguments.out / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (arguments.out / "LICENCES.md").write_text(read_licences())


if __name__ == "__main__":
    main()
