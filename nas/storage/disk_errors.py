"""Failures of the machine that no library words for people: a disk that is full, a folder that cannot be written."""

import errno
import shutil
import tempfile
from pathlib import Path

from search_spaces.errors import UsageError

_NUMBERS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WORDS = ("No space left on device", "disk is full", "Disk quota exceeded", "File too large")  # as libraries pass on
_FILES = 6  # of the winner's weights: three, and copies of them
_MAKE_SPACE = "make room there"


def write_failure(error: BaseException | None) -> str:
    """What could not be written and how to mend it, in one line; empty for any other error.

    The errors that an error was raised from, or while handling, are looked at too.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            name = error.filename2 or error.filename
            problem = f"{name!s} cannot be written" if name else "a file cannot be written"
            repair = _MAKE_SPACE if error.errno in _FULL else "give this account the right to, or name another place"
            return f"{problem} ({error.strerror}); {repair}"
        reason = next((words for words in _WORDS if words in str(error)), None)
        if reason is not None:
            return f"a file cannot be written ({reason}); {_MAKE_SPACE}"
        seen.append(error)
        error = error.__cause__ or error.__context__
    return ""


def check_free_space(folder: Path, weights: int) -> str:
    """Find out whether the winner's files have room: a Hugging Face folder and two graphs, and MLflow's copy of them.

    Args:
        weights: bytes of the parent's.

    Returns:
        A warning where the winner has room only if it is small; else nothing.

    Raises:
        UsageError: not even one file of the parent's size has.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    shortage = f"{folder} has {free / 1e6:.1f} MB free, and the winner's files may take {_FILES * weights / 1e6:.1f} MB"
    if free < weights:
        raise UsageError(f"--out {shortage}; make room there, or name another folder")
    return shortage if free < _FILES * weights else ""


def check_folder(folder: Path, option: str) -> None:
    """Find out whether files can be written into a folder, or into the one that it would be made in.

    Args:
        option: of the command line, for the message.

    Raises:
        UsageError: they cannot.
    """
    try:
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{option} {folder} cannot be written ({reason}); name a folder that can") from None
