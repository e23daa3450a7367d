"""Ctrl-C ends a search even when it arrives where Python drops exceptions (finalizers, callbacks of libraries)."""

import signal
from types import FrameType


class Interruption:
    """Remembers that the person asked to stop; long work asks `check` now and then."""

    def __init__(self) -> None:
        self._asked = False

    def watch(self) -> None:
        """Take over SIGINT: it still raises KeyboardInterrupt where it arrives."""
        signal.signal(signal.SIGINT, self._handle)

    def check(self) -> None:
        """Raise what was dropped earlier.

        Raises:
            KeyboardInterrupt: when the person asked to stop.
        """
        if self._asked:
            raise KeyboardInterrupt

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt


interruption = Interruption()
