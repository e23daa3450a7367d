"""The account that runs the tool, also one that the system does not know, as containers have."""

import getpass
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where Python looks for a name before it asks the system


def settle() -> None:
    """Give an account without a name or a home both, for the libraries that ask for them in mid-search."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    if not _has_home():
        with suppress(OSError):  # no temporary folder either: whoever needs one will say so
            os.environ["HOME"] = str(get_own_temporary_folder("nas-home"))


def get_own_temporary_folder(name: str) -> Path:
    """A folder of this account among the temporary ones, the same every time; nobody else can have prepared it.

    Raises:
        OSError: there is no temporary folder that can be written.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


def _has_home() -> bool:
    """Whether there is one, which need not be one that can be written."""
    try:
        return Path.home().is_dir()
    except RuntimeError:  # no HOME, and no account of that number
        return False
