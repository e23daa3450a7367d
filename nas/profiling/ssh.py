"""A device over ssh: a kit is copied there and run there, through the system's OpenSSH client.

Accounts, keys, jump hosts and the checking of host keys are as the person's ssh configuration has them. On the device
a kit lives in a folder named by its content, so that a run that was cut off goes on where it stopped; the folder is
removed once its profile is here.
"""

import hashlib
import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from latency_models.profile import Profile
from latency_models.runner.plan import PROFILE
from latency_models.runner.process import ERROR
from nas.profiling.kit import Kit
from nas.profiling.profile_store import import_profile
from nas.progress import Progress
from search_spaces.errors import MeasurementError, MissingExtra, UsageError

_FOLDER = ".cache/nas/kits"  # below the account's home
_CUT_OFF = 255  # ssh's own exit status; any other is the command's
_ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ConnectTimeout=30")


@dataclass(frozen=True)
class SshTarget:
    """An account on a device that `ssh` reaches.

    Attributes:
        host: `user@device`, or a name of the ssh configuration.
        python: the interpreter there that has numpy and a runtime.
        port: where it is not what the configuration says.
        config: an ssh configuration file in place of the person's own.

    Example:
        >>> profile = SshTarget("user@orin", python="/opt/python").run(Path("kit.zip"), progress)
    """

    host: str
    python: str = "python3"
    port: int | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or any(letter.isspace() for letter in self.host):
            raise UsageError(f"host {self.host!r} is no ssh destination; write for example user@device")

    def run(self, kit: Path, progress: Progress) -> bytes:
        """`run_kit` there."""
        return run_kit(kit, self, progress)

    def start(self, script: str, **pipes: IO[bytes] | int | None) -> subprocess.Popen[bytes]:
        """Start a script of the POSIX shell there.

        Raises:
            MissingExtra: there is no ssh client here.
        """
        options = [*_ALIVE]
        options += [] if self.config is None else ["-F", str(self.config)]
        options += [] if self.port is None else ["-p", str(self.port)]
        command = ["ssh", "-T", *options, "--", self.host, f"sh -c {shlex.quote(script)}"]
        try:
            return subprocess.Popen(command, **pipes)  # type: ignore[call-overload, no-any-return]
        except FileNotFoundError:
            raise MissingExtra(
                "--host needs the OpenSSH client `ssh`; install it (Debian: apt-get install openssh-client)"
            ) from None


class Transport(Protocol):
    """Takes kits to a device, and brings back what they measured.

    Example:
        >>> transport: Transport = SshTarget("user@orin")
        >>> profile = transport.run(Path("kit.zip"), progress)
    """

    def run(self, kit: Path, progress: Progress) -> bytes:
        """The content of `profile.json`.

        Raises:
            MeasurementError: the device cannot be reached, or the runner failed there.
        """


def profile_there(kit: Kit, transport: Transport, progress: Progress) -> Profile:
    """Measure a kit on its device and keep the profile for searches for that device.

    Raises:
        MeasurementError: as `Transport.run`, or the profile that came back cannot be used.
    """
    document = transport.run(kit.build(progress), progress)
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        path = Path(name) / PROFILE
        path.write_bytes(document)
        return import_profile(path, kit.parent, kit.target, kit.workload)[0]


def run_kit(kit: Path, ssh_target: SshTarget, progress: Progress) -> bytes:
    """Run a kit on a device and fetch what it wrote.

    Args:
        kit: the zip file of a kit.

    Returns:
        The content of `profile.json`.

    Raises:
        MeasurementError: the device cannot be reached, the connection was lost, or the runner failed there. What was
            measured until then is kept on the device, and the next call goes on from it.
    """
    folder = f"{_FOLDER}/{hashlib.sha256(kit.read_bytes()).hexdigest()[:16]}"
    with progress.open_stage(f"copying the kit to {ssh_target.host}"):
        _copy(kit, ssh_target, folder)
    with progress.open_stage(f"measuring on {ssh_target.host}", total=100) as stage:
        done = 0.0

        def on_step(share: float, message: str) -> None:
            nonlocal done
            stage.advance(100 * share - done, message)
            done = 100 * share

        _run(ssh_target, folder, on_step)
    document = _read_output(ssh_target, f"cat {folder}/{PROFILE}")
    _read_output(ssh_target, f"rm -rf {folder}")
    return document


def _copy(kit: Path, ssh_target: SshTarget, folder: str) -> None:
    """Unpack the kit there unless it is there already; a copy that was cut off does not count."""
    there = _read_output(ssh_target, f"mkdir -p {folder} && if test -f {folder}/complete; then echo there; fi")
    if there.split() == [b"there"]:
        return
    python = shlex.quote(ssh_target.python)
    with kit.open("rb") as content:
        _read_output(
            ssh_target,
            f"cd {folder} && cat > kit.zip && {python} -m zipfile -e kit.zip . && rm kit.zip && touch complete",
            content,
        )


def _run(ssh_target: SshTarget, folder: str, on_step: Callable[[float, str], None]) -> None:
    """Run the kit and pass on what it says of itself: the share that is done, and a message.

    `--tied` ends the run there with its connection. Where the network went away without a word it goes on for a while,
    so its number is kept, and the next run ends it first: two at a time would measure each other.
    """
    earlier = 'pid=$(cat run.pid 2>/dev/null) && grep -q run.py "/proc/$pid/cmdline" 2>/dev/null && kill "$pid"'
    run = f"exec {shlex.quote(ssh_target.python)} run.py --json --tied"
    script = f"cd {folder} || exit 1; {earlier}; echo $$ > run.pid; {run}"
    with tempfile.TemporaryFile() as errors:
        with ssh_target.start(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    for step in _read_steps(line):
                        on_step(*step)
            except BaseException:  # the person stopped: with the connection the run there ends
                process.terminate()
                raise
        _check(process.returncode, ssh_target, errors)


def _read_steps(line: bytes) -> list[tuple[float, str]]:
    """What one line says; nothing where it is not the runner's (shells of some accounts greet)."""
    try:
        step = json.loads(line)
        return [(float(step["share"]), str(step["message"]))]
    except (ValueError, KeyError, TypeError):
        return []


def _read_output(ssh_target: SshTarget, script: str, content: IO[bytes] | None = None) -> bytes:
    """What a script that must succeed writes there."""
    with tempfile.TemporaryFile() as errors:
        process = ssh_target.start(script, stdin=content or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        output, _ = process.communicate()
        _check(process.returncode, ssh_target, errors)
    return output


def _check(status: int, ssh_target: SshTarget, errors: IO[bytes]) -> None:
    if status == 0:
        return
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
    if status == _CUT_OFF:
        raise MeasurementError(
            f"no connection to {ssh_target.host} ({lines[-1]}); what was measured there is kept: "
            "run the same command again to continue"
        )
    problem = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)] or lines
    raise MeasurementError(
        f"{ssh_target.host}: {problem[-1]} (python there: {ssh_target.python}; choose another with --python)"
    )
