"""A storage that goes away and comes back must not cost a search: wait for it, for a bounded time."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from search_spaces.errors import StorageUnavailable

RETRY_TIMEOUT_S = 120.0  # a server that restarts is back by then
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


def retry_with_backoff(call: Callable[[], _T], passes: Callable[[Exception], bool], storage: str, seconds: float) -> _T:
    """What a call returns; it is repeated while it fails with errors that may pass.

    The call must be safe to repeat after an attempt that was carried out and whose answer was lost.

    Args:
        passes: whether an error may be gone a little later.
        storage: what is waited for, as people may see it.
        seconds: how long, by the clock that nobody sets.

    Raises:
        StorageUnavailable: it did not come back.
    """
    deadline, pause = None, _FIRST_PAUSE_S
    while True:
        try:
            result = call()
        except Exception as error:
            if not passes(error):
                raise
            reason = find_reason(error)
            if deadline is None:
                deadline = time.monotonic() + seconds
                _logger.warning(
                    "storage %s does not answer (%s); waiting up to %.0f s for it", storage, reason, seconds
                )
            elif time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"storage {storage} did not answer for more than {seconds:.0f} s ({reason}); "
                    "repair it and run the same command again: finished trials are kept"
                ) from None
        else:
            if deadline is not None:
                _logger.warning("storage %s is back", storage)
            return result
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def list_causes(error: BaseException) -> list[BaseException]:
    """An error, what it was raised from and what it was raised in the handling of, outermost first."""
    causes, below = [error], error.__cause__ or error.__context__
    while below is not None and below not in causes:
        causes.append(below)
        below = below.__cause__ or below.__context__
    return causes


def find_reason(error: BaseException) -> str:
    """The innermost error that this one was raised from on purpose, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
