"""Make `data/{calibration,validation,test}.jsonl`: held-out Python source of projects that were not trained on.

    python texts.py

`data/LICENCES.md` repeats the licence texts of those projects, as they ask of whoever passes their source on.
Documents are cut to 8 kB on line ends. Near-duplicates (more than half of the word shingles in common) are removed
within the splits, across them, and against the whole training text.
"""

import json
import random
import re
from importlib.metadata import distribution

import corpus

from nas.data.documents import Document
from nas.data.splitting import remove_near_duplicates

LONGEST = 8_000  # characters of one document
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


def main() -> None:
    trained: set[int] = set()
    for text in corpus.load("train"):
        trained |= list_shingles(text)
    pinned = json.loads(corpus.PINNED.read_text())
    splits: dict[str, list[Document]] = {}
    for name in corpus.HELD_OUT:
        documents, seen = [], 0
        for path, text in zip(pinned[name], corpus.load(name), strict=True):
            own = list_shingles(cut(text))
            if len(own & trained) > len(own) / 2:
                seen += 1
                continue
            documents.append(Document(cut(text), path.split("/")[0]))
        print(f"{name}: {len(documents)} documents, {seen} left out because they stand in the training text")
        splits[name] = documents
    (corpus.HERE / "data").mkdir(exist_ok=True)
    for name, documents in remove_near_duplicates(splits).items():
        print(f"{name}: {len(splits[name]) - len(documents)} near-duplicates removed")
        random.Random(name).shuffle(documents)  # every project is met before the size is reached
        total, lines = 0, []
        for document in documents:
            total += len(document.text)
            if total > PER_SPLIT:
                break
            lines.append(json.dumps({"text": document.text, "project": document.project}))
        (corpus.HERE / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (corpus.HERE / "data" / "LICENCES.md").write_text(read_licences())


if __name__ == "__main__":
    main()
