"""Files of one record per line that several processes append to: a line is there as a whole, or not at all."""

import errno
import os
from contextlib import suppress
from pathlib import Path

_STEP = 1 << 16


def append(path: Path, data: bytes, sync: bool = False) -> None:
    """Append whole lines, to a new file where there is none; the caller holds the lock of the file's writers.

    What a writer that died left behind its last whole line goes. Readers that take no lock must stop at the last line
    end they see: then they never meet half a record.

    Args:
        data: bytes that end with a line end.
        sync: return when they are on the disk, not only with the operating system.

    Raises:
        OSError: nothing was appended: the disk is full, say.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        end = _find_end_of_lines(file)
        os.ftruncate(file, end)
        try:
            os.lseek(file, end, os.SEEK_SET)
            if os.write(file, data) != len(data):  # as a disk that is about to be full does
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if sync:
                os.fsync(file)
        except OSError:
            with suppress(OSError):  # else the next writer does it
                os.ftruncate(file, end)
            raise
    finally:
        os.close(file)


def _find_end_of_lines(file: int) -> int:
    """Where the last whole line ends, in bytes."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _STEP)
        position = os.pread(file, end - start, start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0
