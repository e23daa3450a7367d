"""What an exported file needs beside it: the words or images come from somewhere, and generating has settings."""

import shutil
from pathlib import Path
from typing import Any

from pruning.checkpoint import copy_companions

_GENERATION = "generation_config.json"


def carry_companions(model: Any, source: Path | None, folder: Path) -> None:
    """Put tokenizer, preprocessor and generation config beside an exported file.

    Args:
        source: the folder that the model came from; None where there is none.
        folder: of the file.
    """
    if source is not None:
        copy_companions(source, folder)
    settings = None if source is None else source / _GENERATION
    if settings is not None and settings.is_file():
        shutil.copyfile(settings, folder / _GENERATION)  # as it was published, also where the library would refuse it
    elif model.can_generate():
        model.generation_config.save_pretrained(folder)
