"""Where the time of a program goes: named functions are timed, each without what it calls of the others."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

TimedFunction = tuple[str, object, str]  # the name of the part, and whose attribute it is


@dataclass
class Stopwatch:
    """Seconds and calls by part."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    _inside: list[float] = field(default_factory=list)  # of each running function: seconds of the parts it called

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def call_timed(*arguments: Any, **more: Any) -> Any:
            self._inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **more)
            finally:
                spent = time.perf_counter() - began
                self.seconds[part] = self.seconds.get(part, 0.0) + spent - self._inside.pop()
                self.calls[part] = self.calls.get(part, 0) + 1
                if self._inside:
                    self._inside[-1] += spent

        return call_timed


@contextmanager
def watch_calls(functions: Sequence[TimedFunction]) -> Iterator[Stopwatch]:
    """Time these functions meanwhile."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for part, owner, name in functions:
            stack.enter_context(patch.object(owner, name, watch.wrap(part, getattr(owner, name))))
        yield watch
