"""A real sshd on loopback: kits are copied, run, resumed and fetched; what goes wrong is one clear line."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.progress import Silent
from nas.remote import Account, run_kit
from search_spaces.errors import MeasurementError, UsageError

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd that is started by root wants this folder, an unprivileged one does not

needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh-keygen") is None, reason="no sshd here (Debian: apt-get install openssh-server)"
)


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """An sshd of this account on a free port, with keys and known hosts of its own; the account's home is a folder."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "person"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
    home = folder / "home"
    home.mkdir()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/person.pub\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f'ForceCommand cd {home} && HOME={home} exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    key = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    (folder / "ssh_config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/person\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
    )
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config", "-E", folder / "log"])
    try:
        _await(port, server, folder / "log")
        yield Account("board", python=sys.executable, config=folder / "ssh_config")
    finally:
        server.terminate()
        server.wait(10)


def _await(port: int, server: subprocess.Popen, log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")
        time.sleep(0.05)
    pytest.skip("sshd does not listen")


def home_of(account: Account) -> Path:
    return account.config.parent / "home"


def kit_of(path: Path, source: str) -> Path:
    with zipfile.ZipFile(path, "w") as kit:
        kit.writestr("run.py", source)
    return path


class Lines(Silent):
    """Remembers how far a stage came and what it said."""

    def __init__(self) -> None:
        self.done, self.notes = 0.0, []

    def stage(self, title, total=None):
        return super().stage(title, total) if total is None else self

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
def test_a_kit_is_run_there_and_its_profile_comes_back(loopback: Account, tmp_path: Path) -> None:
    lines = Lines()
    assert run_kit(kit_of(tmp_path / "kit.zip", GOOD), loopback, lines) == b"--json --tied"
    assert lines.done == pytest.approx(100)
    assert lines.notes == ["half", "whole"]
    assert not list((home_of(loopback) / ".cache/nas/kits").iterdir())  # nothing is left there


RESUMABLE = """
import os, pathlib, signal
def stat(pid):
    return pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")
part = pathlib.Path("sitting-0.json")
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
def test_a_lost_connection_keeps_what_was_measured_and_the_next_call_goes_on(loopback: Account, tmp_path: Path) -> None:
    """The run kills the process of sshd that holds its connection, as a cable that is pulled does."""
    kit = kit_of(tmp_path / "kit.zip", RESUMABLE)
    with pytest.raises(MeasurementError, match="run the same command again to go on"):
        run_kit(kit, loopback, Silent())
    (folder,) = (home_of(loopback) / ".cache/nas/kits").iterdir()
    outlived = int((folder / "run.pid").read_text())
    assert Path(f"/proc/{outlived}").exists()
    (folder / "sitting-0.json").write_text("measured before")
    assert run_kit(kit, loopback, Silent()) == b"measured before"
    for _ in range(100):
        if not Path(f"/proc/{outlived}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the run that outlived its connection still measures")


@needs_sshd
def test_what_fails_on_the_device_is_its_last_line(loopback: Account, tmp_path: Path) -> None:
    failing = kit_of(tmp_path / "kit.zip", 'import sys\nsys.exit("error: no runtime here; install onnxruntime")')
    with pytest.raises(MeasurementError, match="board: no runtime here"):
        run_kit(failing, loopback, Silent())
    absent = Account(loopback.host, "/opt/none/python3", config=loopback.config)
    with pytest.raises(MeasurementError, match=r"/opt/none/python3.*choose another with --python"):
        run_kit(kit_of(tmp_path / "other.zip", GOOD), absent, Silent())


@needs_sshd
def test_an_unknown_host_key_is_refused_and_a_silent_port_too(loopback: Account, tmp_path: Path) -> None:
    kit = kit_of(tmp_path / "kit.zip", GOOD)
    stranger = tmp_path / "ssh_config"
    stranger.write_text(loopback.config.read_text().replace("known_hosts", "nobody_known"))
    with pytest.raises(MeasurementError, match="Host key verification failed"):
        run_kit(kit, Account("board", sys.executable, config=stranger), Silent())
    with pytest.raises(MeasurementError, match="no connection to board"):
        run_kit(kit, Account("board", sys.executable, port=1, config=loopback.config), Silent())


@pytest.mark.parametrize("host", ["", "-oProxyCommand=id", "user@device rm"])
def test_a_host_that_is_an_option_or_a_command_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="is no ssh destination"):
        Account(host)
