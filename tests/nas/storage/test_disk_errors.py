"""A disk that is full and folders that cannot be written: one line each, as early as it can be known."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import text
from typer.testing import CliRunner

from nas.cli.app import app
from nas.execution.cluster import _shorten_paths
from nas.pipeline.run import _check_locations
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.storage.disk_errors import check_folder, check_free_space, write_failure
from nas.storage.open_storage import check_storage, open_storage
from nas.storage.redact import build_sqlite_url
from nas.tracking.address import find_artifact_location, get_tracking_uri
from search_spaces.errors import StorageUnavailable, UsageError

NAMES = ["a b", "a%20b", "a%3Fb", "a?b", "a#b", "a?b=c&d", "a;b", "ünï", "a{b}", "a@b:c", "x[1]+y"]


def test_databases_lie_in_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    out = (tmp_path / "top").joinpath(*NAMES)
    out.mkdir(parents=True)
    url = build_sqlite_url(out / "study.db")
    check_storage(url)
    optuna.create_study(study_name="mine", storage=open_storage(url))
    uri = get_tracking_uri(None, out)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run = client.create_run(client.create_experiment("mine", find_artifact_location(uri, out)))
    client.log_dict(run.info.run_id, {"a": 1}, "a.json")
    with sqlite3.connect(out / "study.db") as file:
        assert file.execute("SELECT study_name FROM studies").fetchall() == [("mine",)]
    with sqlite3.connect(out / "mlflow.db") as file:
        assert ("mine",) in file.execute("SELECT name FROM experiments").fetchall()
    assert list((out / "mlartifacts").rglob("a.json"))
    made = [folder for folder, _, _ in os.walk(tmp_path / "top") if Path(folder) not in (out, *out.parents)]
    assert all(Path(folder).is_relative_to(out / "mlartifacts") for folder in made)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a study with a few trials."""
    path = tmp_path_factory.mktemp("whole") / "study.db"
    storage = open_storage(build_sqlite_url(path))
    study = optuna.create_study(storage=storage)
    for trial in range(60):
        study.add_trial(optuna.trial.create_trial(value=float(trial), user_attrs={"words": "x" * 500}))
    storage.remove_session()
    storage.engine.dispose()
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9])
def test_a_study_that_is_cut_off_is_refused_at_once(tmp_path: Path, whole: bytes, share: float) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(whole[: int(share * len(whole))])
    _refused_at_once(path, "(damaged|malformed|not a database|disk image)")


@pytest.mark.parametrize("content", [b"no database at all, but some text\n" * 300, os.urandom(8192)])
def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(content)
    _refused_at_once(path, "not a database")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("table", "says"),
    [("places (id)", "tables of another program: places"), ("studies (id)", "studies is of another program")],
)
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, table: str, says: str) -> None:
    path = tmp_path / "study.db"
    with sqlite3.connect(path) as file:
        file.execute(f"CREATE TABLE {table}")
    file.close()
    before = path.read_bytes()
    _refused_at_once(path, says)
    assert path.read_bytes() == before


def _refused_at_once(path: Path, says: str) -> None:
    began = time.monotonic()
    for look in (check_storage, open_storage):
        with pytest.raises(StorageUnavailable, match=says) as refused:
            look(build_sqlite_url(path))
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert time.monotonic() - began < 30  # storages that may come back are waited for two minutes


def test_whole_new_and_empty_files_are_taken(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "study.db"
    check_storage(build_sqlite_url(path))
    assert not path.exists()
    path.write_bytes(b"")
    check_storage(build_sqlite_url(path))
    path.write_bytes(whole)
    check_storage(build_sqlite_url(path))


def test_a_study_that_is_damaged_in_mid_search_is_said_in_a_line(tmp_path: Path) -> None:
    storage = open_storage(build_sqlite_url(tmp_path / "study.db"))
    study = optuna.create_study(storage=storage)
    with storage._backend.engine.begin() if hasattr(storage, "_backend") else storage.engine.begin() as connection:
        connection.execute(text("DROP TABLE trials"))
    with pytest.raises(StorageUnavailable, match="no such table"):
        study.ask()


def test_a_question_mark_in_a_url_is_not_a_name(tmp_path: Path) -> None:
    (tmp_path / "a?b").mkdir()
    with pytest.raises(UsageError, match="write %3F"):
        open_storage(f"sqlite:///{tmp_path}/a?b/study.db")
    with pytest.raises(UsageError, match="write %25"):
        open_storage(f"sqlite:///{tmp_path}/a%20b/study.db")
    assert os.listdir(tmp_path) == ["a?b"]


def test_errors_of_the_disk_are_known_however_they_are_wrapped(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "out/model.onnx")
    assert write_failure(full) == "out/model.onnx cannot be written (No space left on device); make room there"
    outer = RuntimeError("it failed")
    outer.__cause__ = full
    assert write_failure(outer) == write_failure(full)
    assert "make room" in write_failure(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert "make room" in write_failure(sqlite3.OperationalError("database or disk is full"))
    assert "name another place" in write_failure(PermissionError(errno.EACCES, "Permission denied", "/out"))
    for other in (ValueError("no space"), OSError("owner/name is not a local folder"), FileNotFoundError(2, "no", "x")):
        assert write_failure(other) == ""
    assert write_failure(None) == ""


def test_a_full_disk_in_a_library_is_recognised(tmp_path: Path) -> None:
    script = (
        "import resource, sys, torch\n"
        "from safetensors.torch import save_file\n"
        "from nas.storage.disk_errors import write_failure\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "found = []\n"
        "for write in (lambda p: save_file({'x': torch.ones(10**6)}, p), lambda p: open(p, 'w').write('x' * 10**6)):\n"
        "    try: write(sys.argv[1])\n"
        "    except Exception as error: found.append(write_failure(error))\n"
        "print(found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "f")], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("cannot be written (File too large); make room there") == 2


def test_a_folder_that_cannot_be_written_is_refused_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it", Path("/proc/nas-out")):
        with pytest.raises(UsageError, match=f"--out {folder} cannot be written"):
            check_folder(folder, "--out")
    check_folder(tmp_path / "new" / "folder", "--out")
    assert os.listdir(tmp_path) == ["file"]


def test_the_program_says_a_full_disk_in_one_line(tmp_path: Path) -> None:
    script = (
        "import errno, sys, nas.report\n"
        "def full(*_): raise OSError(errno.ENOSPC, 'No space left on device', 'page.html')\n"
        "nas.report.write_report = full\n"
        "from nas.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "report", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = "page.html cannot be written (No space left on device); make room there, and run the same command again"
    assert done.returncode == 1
    assert done.stderr == f"nas: {line}\n"
    assert json.loads(done.stdout)["error"] == {"kind": "WriteFailed", "message": line, "exit_code": 1}


def test_a_long_temporary_folder_is_not_where_a_cluster_keeps_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TMPDIR", "/somewhere/" + "x" * 80), ("RAY_TMPDIR", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_TMPDIR")
    with _shorten_paths():
        assert os.environ["TMPDIR"] == os.environ["RAY_TMPDIR"] == "/tmp"
    assert os.environ["TMPDIR"].endswith("x")
    assert "RAY_TMPDIR" not in os.environ
    monkeypatch.setenv("TMPDIR", "/short")
    with _shorten_paths():
        assert os.environ["TMPDIR"] == "/short"


def test_places_are_looked_at_before_the_work_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    request = SearchRequest("jetson-orin", Budget.parse("0.7x"), tmp_path / "new" / "out")
    _check_locations(request)
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(UsageError, match="--out"):
        _check_locations(replace(request, out=tmp_path / "file"))
    with pytest.raises(UsageError, match="does not exist; create it first"):
        _check_locations(replace(request, storage=f"sqlite:///{tmp_path}/nowhere/study.db"))
    (tmp_path / "study.db").write_text("no database" * 100)
    with pytest.raises(StorageUnavailable, match="not a database"):
        _check_locations(replace(request, out=tmp_path))


def test_a_disk_without_room_for_the_winner_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "out"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 100_000_000))
    assert check_free_space(out, 10_000_000) == ""
    assert check_free_space(out, 90_000_000).endswith("has 100.0 MB free, and the winner's files may take 540.0 MB")
    with pytest.raises(UsageError, match=r"has 100\.0 MB free.*make room there"):
        check_free_space(out, 110_000_000)


@pytest.mark.parametrize(
    "words",
    ["analyze", "export", "profile", "sweep --targets jetson-orin --budgets 0.8x", "search --target l4 --budget 0.8x"],
)
def test_every_verb_refuses_such_a_folder_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("nas.parent.parent.load_parent_model", None)
    monkeypatch.setattr("nas.pipeline.prepare.load_parent_model", None)
    done = CliRunner().invoke(app, [*words.split(), "--out", str(tmp_path / "file" / "out")])
    assert isinstance(done.exception, UsageError), done.exception
    assert "--out" in str(done.exception)
