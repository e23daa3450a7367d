"""Profiles that came over the network, imported by the command line in a process that can be ended.

Reading and fitting a profile is arithmetic on what a stranger wrote. In a process of its own it takes nothing from the
server but a little time, and one that takes too long is ended.
"""

import json
import logging
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from nas.api.errors import Refusal, make_unavailable
from nas.storage.cache_folder import get_cache_folder
from search_spaces import errors
from search_spaces.errors import MeasurementError, NasError

_LOG = logging.getLogger("nas.api")

_NAS = (sys.executable, "-P", "-c", "from nas.cli import main; main()")
_NAME = "profile.json"


class ProfileImports:
    """Runs `nas profile import`, a few at a time.

    Args:
        seconds: how long one may take, and how long the next one waits for its turn.
        at_once: how many run at a time.
    """

    def __init__(self, seconds: float = 30.0, at_once: int = 2) -> None:
        self._seconds, self._turns = seconds, threading.BoundedSemaphore(at_once)

    def run(self, document: bytes) -> dict[str, Any]:
        """What `nas profile import --json` prints of a profile, which is then kept for searches.

        Raises:
            Refusal: others are being imported, or this one takes too long.
            MeasurementError: it is no profile, or none that can be used here.
        """
        _check_object(document)
        try:
            get_cache_folder()
        except NasError as error:
            raise make_unavailable(f"profiles cannot be kept: {error}") from None
        if not self._turns.acquire(timeout=self._seconds):
            raise Refusal(
                429, "too_many_imports", "other profiles are being fitted; try again later", {"Retry-After": "30"}
            )
        try:
            with tempfile.TemporaryDirectory(prefix="nas-") as folder:
                path = Path(folder) / _NAME
                path.write_bytes(document)
                return _read_result(self._run(path), folder)
        except OSError as error:
            raise make_unavailable(f"the profile cannot be looked at ({error.strerror}); make room first") from None
        finally:
            self._turns.release()

    def _run(self, path: Path) -> subprocess.CompletedProcess[bytes]:
        command = [*_NAS, "profile", "import", str(path), "--json"]
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise Refusal(
                422, "too_slow", f"{_NAME} was not fitted within {self._seconds:g} s; send one with fewer records"
            ) from None


def _check_object(document: bytes) -> None:
    """Refuse at once what is no JSON object.

    Raises:
        MeasurementError: it is none.
    """
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MeasurementError(f"{_NAME} cannot be read ({type(error).__name__}); make it again") from None
    if not isinstance(value, dict):
        raise MeasurementError(f"{_NAME} is no profile (it holds no JSON object); make it again with nas profile")


def _read_result(done: subprocess.CompletedProcess[bytes], folder: str) -> dict[str, Any]:
    """The document that was printed.

    Raises:
        MeasurementError: it is that of an error, or there is none: the system ended the process.
    """
    lines = done.stdout.decode(errors="replace").splitlines() or [""]
    try:
        document: dict[str, Any] = json.loads(lines[-1])
    except ValueError:
        raise MeasurementError(f"{_NAME} cannot be read (exit status {done.returncode}); make it again") from None
    if "error" not in document:
        return document
    kind, message = document["error"]["kind"], str(document["error"]["message"])
    if hasattr(errors, kind):  # one of our tree, whose messages are made for people
        raise MeasurementError(message.replace(f"{folder}/", ""))
    _LOG.warning(
        "a profile was not imported", extra={"fields": {"error": done.stderr.decode(errors="replace")[-4000:]}}
    )
    raise MeasurementError(f"{_NAME} cannot be read ({kind}); make it again")
