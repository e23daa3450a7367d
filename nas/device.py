"""Where files are measured: this machine, or a device that ssh reaches."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latency_models.measure import run_folder
from latency_models.measuring.plan import PROFILE
from nas.kit import pack
from nas.progress import Progress
from nas.remote import Account, run_kit


class Device(Protocol):
    """Runs what a kit folder plans."""

    def run(self, folder: Path, on_share: Callable[[float], None]) -> Path:
        """Measure; the profile that was written.

        Raises:
            MeasurementError: it cannot be measured, or not to the end.
        """


class ThisMachine:
    """This machine's CPU in ONNX Runtime."""

    def run(self, folder: Path, on_share: Callable[[float], None]) -> Path:
        """As `run_folder`."""
        return run_folder(folder, on_share)


@dataclass(frozen=True)
class RemoteDevice:
    """A device over ssh; progress is shown stage by stage."""

    account: Account
    progress: Progress

    def run(self, folder: Path, on_share: Callable[[float], None]) -> Path:
        """As `run_kit`: what was measured before a lost connection is not measured again."""
        with tempfile.TemporaryDirectory(prefix="nas-") as name:
            packed = Path(name) / "kit.zip"
            pack(folder, packed)
            document = run_kit(packed, self.account, self.progress)
        (folder / PROFILE).write_bytes(document)
        return folder / PROFILE
