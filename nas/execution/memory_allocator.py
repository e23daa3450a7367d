"""What an evaluating process does with memory that it needs again and again."""

import ctypes
from contextlib import suppress
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 32 << 20  # bytes; glibc takes no more for blocks that it keeps
_KEPT = 1 << 30  # bytes that may be free and not given back


@cache
def keep_memory() -> None:
    """Have glibc keep large blocks that are freed; once per process, and nothing where there is no glibc.

    It gives them back to the kernel, which clears every page anew for the activations of the next evaluation: on
    python-lm some 15,000 page faults each, and a seventh of its time.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
