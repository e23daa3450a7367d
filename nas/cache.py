"""Where things are kept between searches."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Of exports, profiles and score libraries: NAS_CACHE, or ~/.cache/nas."""
    return Path(os.environ.get("NAS_CACHE") or Path.home() / ".cache" / "nas")


def file_words(text: str) -> str:
    """A text as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "." else "-" for letter in text.replace("=", ""))
