"""A search that takes seconds: a tiny image classifier, class folders of noise, and what of its study is done."""

import sys
from pathlib import Path

import numpy as np
import optuna
from families import build
from PIL import Image

from pruning.checkpoint import save

NAS = [sys.executable, "-c", "from nas.cli import main; main()"]


def make(folder: Path) -> Path:
    """Write `folder/model` and `folder/data`."""
    save(build("vit"), folder / "model")
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
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        name = optuna.get_all_study_names(f"sqlite:///{out}/study.db")[0]
        trials = optuna.load_study(study_name=name, storage=f"sqlite:///{out}/study.db").get_trials(deepcopy=False)
    except Exception:
        return 0
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
