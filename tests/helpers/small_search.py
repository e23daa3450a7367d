"""A search that takes seconds: a tiny image classifier, class folders of noise, and what of its study is done."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
from families import build
from PIL import Image

from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent

NAS = [sys.executable, "-c", "from nas.cli import main; main()"]


def make(folder: Path, blocks: int = 4) -> Path:
    """Write `folder/model` and `folder/data`."""
    model = build("vit")
    save(prune(model, drop_from_parent(4, (Unit(layer, Kind.BLOCK) for layer in range(blocks, 4)))), folder / "model")
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder / "data" / f"LABEL_{label}").mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / f"LABEL_{label}" / f"{number}.png")
    return folder


def search_arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """What follows `nas` on the command line."""
    return ["search", "--model", str(folder / "model"), "--data", str(folder / "data"), "--out", str(out), *more]


def finished(out: Path) -> int:
    """How many trials of the study in `out` were judged; 0 while its database is being made."""
    judged = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
    try:
        with closing(sqlite3.connect(f"file:{out}/study.db?mode=ro", uri=True)) as file:
            return int(file.execute(judged).fetchone()[0])
    except sqlite3.OperationalError:
        return 0
