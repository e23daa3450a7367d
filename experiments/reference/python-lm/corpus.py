"""The text `python-lm` is trained and judged on: Python source of packages installed from `constraints.txt`.

The same files hold another text, for decoders that are to differ in more than their shape: the English of their
docstrings.

The files are pinned in `files.json` (path inside site-packages and SHA-256), so the same corpus is found
wherever the constraints are installed. Whole projects belong to one split; no project is in two.

    python corpus.py pin        # write files.json from the packages installed here
    python corpus.py check      # say which pinned files are missing or differ
"""

import ast
import hashlib
import json
import random
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
PINNED = HERE / "files.json"

# Under BSD, MIT, Apache-2.0, PSF-based or, Hypothesis, MPL-2.0 licences; the model card names them all.
TRAIN = (
    "torch", "transformers", "sympy", "scipy", "sklearn", "numpy", "pandas", "mlflow", "ray", "sqlalchemy",
    "matplotlib", "aiohttp", "pygments", "werkzeug", "hypothesis", "onnx", "onnxscript", "fontTools",
    "setuptools", "pydantic", "narwhals", "alembic", "huggingface_hub", "sentence_transformers", "graphql", "joblib",
)  # fmt: skip
HELD_OUT = {"calibration": ("networkx",), "validation": ("optuna",), "test": ("_pytest", "rich", "fastapi")}
SMALLEST, LARGEST = 800, 60_000  # bytes: neither empty packages nor tables of data
PER_PROJECT = 6_000_000  # bytes: no project dominates the training text
EXAMPLE = ">>>"  # marks the paragraphs of a docstring that are code


def read_if_usable(path: Path) -> str | None:
    """The file's text when it is ASCII Python of a useful size, else None."""
    if not SMALLEST <= path.stat().st_size <= LARGEST:
        return None
    try:
        text = path.read_text(encoding="ascii")
        ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return None
    return text


def list_project_files(project: str, limit: int) -> list[Path]:
    """A reproducible sample of a project's files, at most `limit` bytes together."""
    paths = sorted((SITE_PACKAGES / project).rglob("*.py"), key=lambda path: path.as_posix())
    random.Random(project).shuffle(paths)
    chosen, total = [], 0
    for path in paths:
        if total > limit:
            break
        if read_if_usable(path) is not None:
            chosen.append(path)
            total += path.stat().st_size
    return chosen


def pin() -> None:
    """Write `files.json`: {split: {path: sha256}}."""
    splits = {"train": TRAIN, **HELD_OUT}
    pinned: dict[str, dict[str, str]] = {}
    for split, projects in splits.items():
        pinned[split] = {
            path.relative_to(SITE_PACKAGES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for project in projects
            for path in list_project_files(project, PER_PROJECT)
        }
    PINNED.write_text(json.dumps(pinned, indent=0, sort_keys=True) + "\n")


def read_docstrings(source: str) -> str:
    """The paragraphs of all docstrings of a module, outer ones first, without examples."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    paragraphs = [part for docstring in docstrings for part in docstring.split("\n\n") if part.strip()]
    return "\n\n".join(part for part in paragraphs if EXAMPLE not in part)


TEXTS: dict[str, Callable[[str], str]] = {"source": str, "docstrings": read_docstrings}


def load(split: str, text: str = "source") -> list[str]:
    """The texts of a split, one a file in the pinned order: the source, or its docstrings, which may be empty.

    Raises SystemExit when a pinned file is missing or differs, naming how many and the repair.
    """
    pinned = json.loads(PINNED.read_text())[split]
    texts, wrong = [], []
    for name, digest in pinned.items():
        path = SITE_PACKAGES / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(name)
        else:
            texts.append(TEXTS[text](path.read_text(encoding="ascii")))
    if wrong:
        raise SystemExit(
            f"{len(wrong)} of {len(pinned)} pinned files differ from those installed here (first: {wrong[0]}). "
            "The corpus is the source of the packages in constraints.txt: "
            "pip install -c constraints.txt -e '.[dev,ray]'"
        )
    return texts


if __name__ == "__main__":
    if sys.argv[1:] == ["pin"]:
        pin()
    for name in ("train", *HELD_OUT):
        documents = load(name)
        print(f"{name}: {len(documents)} files, {sum(map(len, documents)) / 1e6:.1f} MB")
