"""What PyTorch's exporter says: kept off the person's screen, and the one line of it that gives the reason."""

import contextlib
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.storage.cache_folder import get_cache_folder

_LOGGERS = ("torch", "torch.onnx", "transformers")
_REASON = 300  # characters
_COLOURS = re.compile(r"\x1b?\[\d+m")
# The exporter's own frame around the cause, and what it advises its developers.
_FRAME = re.compile(r"^(Failed to |This is step|Next steps|- |## |Refer to|Please |In the graph|<class|\(Refer)")


class _OfThisThread(io.TextIOBase):
    """Takes what one thread writes into a buffer; others, such as one that draws progress, write where they did."""

    def __init__(self, others: Any, into: io.StringIO) -> None:
        self._others, self._into, self._thread = others, into, threading.get_ident()

    def write(self, text: str) -> int:
        stream = self._into if threading.get_ident() == self._thread else self._others
        return int(stream.write(text))

    def flush(self) -> None:
        self._others.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)


@contextlib.contextmanager
def capture_output() -> Iterator[io.StringIO]:
    """Gather what the exporter prints, logs and warns of; yields the buffer that it goes into."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(_OfThisThread(sys.stdout, output)),
            contextlib.redirect_stderr(_OfThisThread(sys.stderr, output)),
        ):
            warnings.simplefilter("ignore")
            yield output
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def find_reason(error: BaseException) -> str:
    """The cause of a failed export in one line: the exporter wraps it in several errors of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
    reason = next((line for line in lines if line and not _FRAME.match(line)), "")
    name = type(error).__name__
    return f"{name}: {reason}"[:_REASON] if reason else name


def keep_log(name: str, text: str) -> Path:
    """Write what was said into the cache, where it outlives the folder that a file is drafted in."""
    path = get_cache_folder() / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
