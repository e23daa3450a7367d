"""Accounts as containers have them: without a name, without a home, without a home that can be written."""

import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from nas.storage import user_account as account
from nas.storage.cache_folder import get_cache_folder
from search_spaces.errors import UsageError


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own, and no cache folder asked for."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("NAS_CACHE")
    return folder


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that the system does not know."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that what is set in the test goes with it
        monkeypatch.delenv(name)


def test_an_account_without_a_name_gets_one_and_a_home(temporary: Path, nobody: None) -> None:
    account.settle()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    home = Path.home()
    assert home.parent == temporary
    assert home.stat().st_mode & 0o777 == 0o700
    assert get_cache_folder() == home / ".cache" / "nas"


def test_an_account_that_has_both_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "somebody")
    account.settle()
    assert (Path.home(), getpass.getuser()) == (tmp_path, "somebody")


def test_without_a_home_the_cache_is_temporary(temporary: Path, nobody: None, caplog: pytest.LogCaptureFixture) -> None:
    folder = get_cache_folder()
    assert folder == temporary / f"nas-cache-{os.getuid()}"
    assert "has no home" in caplog.text
    assert "set NAS_CACHE" in caplog.text
    assert get_cache_folder() == folder


def test_a_home_that_cannot_be_written_is_passed_by(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / "file").write_text("")
    monkeypatch.setenv("HOME", str(temporary / "file"))
    assert get_cache_folder().parent == temporary


def test_a_folder_that_another_could_have_prepared_is_not_used(temporary: Path) -> None:
    prepared = temporary / f"nas-cache-{os.getuid()}"
    prepared.mkdir()
    prepared.chmod(0o777)
    chosen = account.get_own_temporary_folder("nas-cache")
    assert chosen != prepared
    prepared.rmdir()
    prepared.symlink_to(temporary)
    assert account.get_own_temporary_folder("nas-cache") != prepared


def test_a_cache_that_was_asked_for_and_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"NAS_CACHE=.*/file cannot be written \(File exists\); set NAS_CACHE to"):
        get_cache_folder()
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UsageError, match="Not a directory"):
        get_cache_folder()
