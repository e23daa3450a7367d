"""Where things are kept between searches."""

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

from nas.storage.user_account import get_own_temporary_folder
from search_spaces.errors import UsageError

_REPAIR = "set NAS_CACHE to a folder that can be written"
_logger = logging.getLogger(__name__)


def get_cache_folder() -> Path:
    """Of exports, profiles and score libraries: NAS_CACHE, or ~/.cache/nas; it is there and can be written.

    An account without a home that can be written, as containers have, gets a folder of its own among the temporary
    ones, which is said once.

    Raises:
        UsageError: NAS_CACHE cannot be written, or there is no temporary folder either.
    """
    return _find_folder(os.environ.get("NAS_CACHE", ""), os.environ.get("HOME", ""), os.environ.get("TMPDIR", ""))


@cache
def _find_folder(asked: str, home: str, temporary: str) -> Path:
    """The folder for these variables of the environment."""
    if asked:
        problem = _find_problem(Path(asked))
        if problem:
            raise UsageError(f"the cache folder NAS_CACHE={asked} cannot be written ({problem}); {_REPAIR}")
        return Path(asked)
    try:
        usual = Path.home() / ".cache" / "nas"
    except RuntimeError:  # no HOME, and an account that the system does not know
        return _get_temporary_folder("this account has no home")
    problem = _find_problem(usual)
    return _get_temporary_folder(f"{usual}: {problem}") if problem else usual


def _find_problem(folder: Path) -> str:
    """Why nothing can be written into a folder, which is made where it is missing; empty where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _get_temporary_folder(reason: str) -> Path:
    """A folder among the temporary ones.

    Raises:
        UsageError: there is none.
    """
    try:
        folder = get_own_temporary_folder("nas-cache")
    except OSError as error:
        raise UsageError(f"there is no folder for the cache ({reason}; {error}); {_REPAIR}") from None
    _logger.warning("the cache is in %s for now (%s); to keep it, %s", folder, reason, _REPAIR)
    return folder


def format_for_file(text: str) -> str:
    """A text as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "." else "-" for letter in text.replace("=", ""))
