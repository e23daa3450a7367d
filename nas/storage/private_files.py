"""Files that only this account may read: what was asked of a search may hold the password of a database."""

import os
from contextlib import suppress
from pathlib import Path

_MODE = 0o600


def write_private(path: Path, text: str) -> None:
    """Write a file; it is complete or as it was before, and nobody else can read it at any time.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE))
    draft.write_text(text)
    draft.replace(path)


def make_private(path: Path) -> None:
    """Take the right to read from others, as an earlier version gave it; nothing where that is not ours to do."""
    with suppress(OSError):
        if path.stat().st_mode & ~_MODE & 0o777:
            path.chmod(_MODE)
