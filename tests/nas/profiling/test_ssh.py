"""A real sshd on loopback: kits are copied, run, resumed and fetched; what goes wrong is one clear line."""

import sys
import time
import zipfile
from pathlib import Path

import pytest
from loopback import loopback as loopback
from loopback import needs_sshd

from nas.profiling.ssh import SshTarget, run_kit
from nas.progress import Silent
from search_spaces.errors import MeasurementError, UsageError


def home_of(ssh_target: SshTarget) -> Path:
    return ssh_target.config.parent / "home"


def kit_of(path: Path, source: str) -> Path:
    with zipfile.ZipFile(path, "w") as kit:
        kit.writestr("run.py", source)
    return path


class Lines(Silent):
    """Remembers how far a stage came and what it said."""

    def __init__(self) -> None:
        self.done, self.notes = 0.0, []

    def open_stage(self, title, total=None):
        return super().open_stage(title, total) if total is None else self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, amount=1, note=""):
        self.done += amount
        self.notes.append(note)


GOOD = """
import sys
print("welcome to this board", flush=True)
for share, message in ((0.5, "half"), (1.0, "whole")):
    print('{"share": %s, "message": "%s"}' % (share, message), flush=True)
open("profile.json", "w").write(" ".join(sys.argv[1:]))
"""


@needs_sshd
def test_a_kit_is_run_there_and_its_profile_comes_back(loopback: SshTarget, tmp_path: Path) -> None:
    lines = Lines()
    assert run_kit(kit_of(tmp_path / "kit.zip", GOOD), loopback, lines) == b"--json --tied"
    assert lines.done == pytest.approx(100)
    assert lines.notes == ["half", "whole"]
    assert not list((home_of(loopback) / ".cache/nas/kits").iterdir())  # nothing is left there


RESUMABLE = """
import os, pathlib, signal
def stat(pid):
    return pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")
part = pathlib.Path("session-0.json")
if not part.exists():
    part.write_text("measured once")
    print('{"share": 0.5, "message": "half"}', flush=True)
    above = os.getppid()
    while "sshd" not in stat(above)[0]:
        above = int(stat(above)[2].split()[1])
    os.kill(above, signal.SIGKILL)
    signal.pause()
pathlib.Path("profile.json").write_text(part.read_text())
"""


@needs_sshd
def test_a_lost_connection_keeps_what_was_measured_and_the_next_call_goes_on(
    loopback: SshTarget, tmp_path: Path
) -> None:
    """The run kills the process of sshd that holds its connection, as a cable that is pulled does."""
    kit = kit_of(tmp_path / "kit.zip", RESUMABLE)
    with pytest.raises(MeasurementError, match="run the same command again to continue"):
        run_kit(kit, loopback, Silent())
    (folder,) = (home_of(loopback) / ".cache/nas/kits").iterdir()
    outlived = int((folder / "run.pid").read_text())
    assert Path(f"/proc/{outlived}").exists()
    (folder / "session-0.json").write_text("measured before")
    assert run_kit(kit, loopback, Silent()) == b"measured before"
    for _ in range(100):
        if not Path(f"/proc/{outlived}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the run that outlived its connection still measures")


@needs_sshd
def test_what_fails_on_the_device_is_its_last_line(loopback: SshTarget, tmp_path: Path) -> None:
    failing = kit_of(tmp_path / "kit.zip", 'import sys\nsys.exit("error: no runtime here; install onnxruntime")')
    with pytest.raises(MeasurementError, match="board: no runtime here"):
        run_kit(failing, loopback, Silent())
    absent = SshTarget(loopback.host, "/opt/none/python3", config=loopback.config)
    with pytest.raises(MeasurementError, match=r"/opt/none/python3.*choose another with --python"):
        run_kit(kit_of(tmp_path / "other.zip", GOOD), absent, Silent())


@needs_sshd
def test_an_unknown_host_key_is_refused_and_a_silent_port_too(loopback: SshTarget, tmp_path: Path) -> None:
    kit = kit_of(tmp_path / "kit.zip", GOOD)
    stranger = tmp_path / "ssh_config"
    stranger.write_text(loopback.config.read_text().replace("known_hosts", "nobody_known"))
    with pytest.raises(MeasurementError, match="Host key verification failed"):
        run_kit(kit, SshTarget("board", sys.executable, config=stranger), Silent())
    with pytest.raises(MeasurementError, match="no connection to board"):
        run_kit(kit, SshTarget("board", sys.executable, port=1, config=loopback.config), Silent())


@pytest.mark.parametrize("host", ["", "-oProxyCommand=id", "user@device rm"])
def test_a_host_that_is_an_option_or_a_command_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="is no ssh destination"):
        SshTarget(host)
