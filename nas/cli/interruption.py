"""Ctrl-C ends a search even when it arrives where Python drops exceptions (finalizers, callbacks of libraries).

So does SIGTERM, by which `ray job stop`, Kubernetes, docker and batch systems end a process.
"""

import signal
from types import FrameType


class Interruption:
    """Remembers that the person asked to stop; long work asks `check` now and then."""

    def __init__(self) -> None:
        self._asked = False

    def watch(self) -> None:
        """Take over SIGINT and SIGTERM: both raise KeyboardInterrupt where they arrive."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

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
