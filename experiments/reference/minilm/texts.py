"""Make `data/{calibration,validation,test}.jsonl` for all-MiniLM-L6-v2: docstrings of Python's standard library.

    python texts.py

One text is the first paragraph of a docstring; its project is the top-level module. Whole modules belong to one
split, and near-duplicates are removed within and across splits.
"""

import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from nas.data.documents import Document
from nas.data.splitting import split_documents

HERE = Path(__file__).parent
SHORTEST, LONGEST = 60, 400  # characters
MAX_TEXTS = {"calibration": 192, "validation": 320, "test": 400}


def read_docstrings() -> Iterator[Document]:
    """The first paragraphs, module by module in the order of their names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraph = re.sub(r"\s+", " ", (ast.get_docstring(node) or "").split("\n\n")[0]).strip()
                if SHORTEST <= len(paragraph) <= LONGEST:
                    yield Document(paragraph, parts[0].removesuffix(".py"))


def main() -> None:
    (HERE / "data").mkdir(exist_ok=True)
    for name, documents in split_documents(list(read_docstrings())).items():
        step = max(1, len(documents) // MAX_TEXTS[name])
        chosen = documents[::step][: MAX_TEXTS[name]]
        lines = [json.dumps({"text": document.text, "project": document.project}) for document in chosen]
        (HERE / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"{name}: {len(chosen)} texts of {len({document.project for document in chosen})} modules")


if __name__ == "__main__":
    main()
