"""Storages: the same search on every kind, through deaths, lost answers, full disks and clocks that are set."""

import importlib.util
import itertools
import json
import random
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from postgres import PASSWORD, QUOTED, Postgres
from test_search import Landscape, problem

from nas.search import SearchOutcome, run_search
from nas.storage import retry as patience
from nas.storage.database import Database
from nas.storage.open_storage import open_storage
from nas.storage.redact import remove_password, remove_passwords, remove_secrets
from nas.storage.shared_log import Log
from search_spaces import Architecture
from search_spaces.errors import MissingExtra, NasError, StorageUnavailable, UsageError

SEED, BUDGET_MS, TRIALS = 1, 9.0, 8
LONG = {"trials": 3 * TRIALS, "patience": 3 * TRIALS}  # so that many answers are lost
Told = list[tuple[Architecture, float]]


def search(storage: str, landscape: Landscape | None = None, **more) -> SearchOutcome:
    return run_search(problem(Path(), landscape or Landscape(SEED), BUDGET_MS, trials=TRIALS, storage=storage, **more))


def reported(outcome: SearchOutcome) -> Told:
    return [(candidate.architecture, candidate.quality.loss) for candidate in (outcome.winner, *outcome.candidates)]


def check_trials(storage: str, study: str = "nas") -> None:
    """No trial is lost, unfinished or there twice."""
    trials = optuna.load_study(study_name=study, storage=open_storage(storage)).get_trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    digests = [trial.user_attrs["digest"] for trial in trials if trial.state is not TrialState.FAIL]
    assert len(digests) == len(set(digests)) >= TRIALS


@pytest.fixture(scope="module")
def expected() -> Told:
    """What the search finds where nothing happens to it."""
    return reported(search("sqlite://"))


@pytest.fixture(scope="module")
def expected_of_many() -> Told:
    """The same of a longer search."""
    return reported(run_search(problem(Path(), Landscape(SEED), BUDGET_MS, storage="sqlite://", **LONG)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(params=["sqlite", "log", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("postgres").database()
    return {"sqlite": f"sqlite:///{tmp_path}/study.db", "log": f"journal://{tmp_path}/study.log"}[request.param]


def test_every_storage_leads_to_the_same_search(url: str, expected: Told) -> None:
    assert reported(search(url)) == expected
    check_trials(url)
    again = Landscape(SEED)
    assert reported(search(url, again)) == expected  # continued, not begun anew
    check_trials(url)


def test_two_searches_at_once_never_mix(postgres: Postgres) -> None:
    """Both find an empty database and make its tables."""
    url, seeds = postgres.database(), (1, 2, 3)

    def run(seed: int, storage: str) -> Told:
        return reported(search(storage, Landscape(seed), seed=seed, study=f"seed {seed}"))

    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(run, seeds, itertools.repeat(url)))
    assert together == [run(seed, "sqlite://") for seed in seeds]
    for seed in seeds:
        check_trials(url, f"seed {seed}")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_trial_is_kept_as_optuna_keeps_it(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    if kind == "postgres":
        url = request.getfixturevalue("postgres").database()
    plain = optuna.create_study(storage=f"sqlite:///{tmp_path}/plain.db", direction="minimize")
    ours = optuna.create_study(storage=open_storage(url), direction="minimize")
    parts: dict[str, BaseDistribution] = {f"part {n}": CategoricalDistribution(["keep", "drop"]) for n in range(3)}
    for number, state in enumerate([TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL]):
        if number:
            parts["ratio"] = FloatDistribution(0.0, 1.0)
        template = create_trial(
            state=state, value=0.25 if state is TrialState.COMPLETE else None, distributions=parts,
            params={name: number / 4 if name == "ratio" else "drop" for name in parts},
            user_attrs={"text": "é", "nested": {"a": [1, None]}}, constraints={"latency_ms": -1.5},
        )  # fmt: skip
        for study in (plain, ours):
            study.add_trial(template)
    fresh = optuna.load_study(study_name=ours.study_name, storage=url)
    for kept, expected in zip(fresh.trials, plain.trials, strict=True):
        for field in ("number", "state", "values", "params", "distributions", "user_attrs", "constraints"):
            assert getattr(kept, field) == getattr(expected, field), field
    changed = create_trial(value=0.0, params={"ratio": 2.0}, distributions={"ratio": FloatDistribution(0.0, 3.0)})
    other = create_trial(value=0.0, params={"ratio": "a"}, distributions={"ratio": CategoricalDistribution(["a"])})
    ours.add_trial(changed)
    with pytest.raises(ValueError, match="distribution"):
        ours.add_trial(other)
    assert len(ours.trials) == 4


class Disturbed(Landscape):
    """Does something at some calls, and then answers as if nothing was."""

    def __init__(self, does: Callable[[], None], at: tuple[int, ...]) -> None:
        super().__init__(SEED)
        self.does, self.at = does, at

    def __call__(self, architecture: Architecture, items: int | None):
        before = self.calls
        quality = super().__call__(architecture, items)
        if self.calls > before and self.calls in self.at:
            self.does()
        return quality


def test_a_server_that_is_killed_between_operations_costs_nothing(postgres: Postgres, expected: Told) -> None:
    def restart() -> None:
        postgres.kill()
        starts.append(threading.Timer(0.3, postgres.start))
        starts[-1].start()

    url, starts = postgres.database(), []
    outcome = search(url, Disturbed(restart, at=(5, 24, 30)))
    for start in starts:
        start.join()
    assert len(starts) == 3
    assert reported(outcome) == expected
    check_trials(url)


def test_a_server_that_is_killed_at_any_time_costs_nothing(postgres: Postgres, expected: Told) -> None:
    url, opened, ended = postgres.database(), threading.Event(), threading.Event()

    def kill_again_and_again() -> int:
        opened.wait()  # a server that is not there when a study is opened is an error
        for kills in itertools.count():
            if kills == 6 or ended.wait(0.05 + 0.13 * kills):
                return kills
            postgres.kill()
            postgres.start()
        raise AssertionError

    def take_time() -> None:
        """Else a quick machine ends before the second time."""
        opened.set()
        time.sleep(0.04)

    with ThreadPoolExecutor(1) as pool:
        kills = pool.submit(kill_again_and_again)
        try:
            outcome = search(url, Disturbed(take_time, at=tuple(range(1, 100))))
        finally:
            opened.set()
            ended.set()
        assert kills.result() >= 2
    assert reported(outcome) == expected
    check_trials(url)


def test_a_server_that_stays_away_ends_the_search_with_one_clear_error(postgres: Postgres, monkeypatch) -> None:
    monkeypatch.setattr(Database.__init__, "__defaults__", (0.5,))
    url = postgres.database()
    try:
        with pytest.raises(StorageUnavailable, match="did not answer for more than") as caught:
            search(url, Disturbed(postgres.kill, at=(20,)))
    finally:
        postgres.start()
    assert "run the same command again" in str(caught.value)
    assert QUOTED not in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("carried_out", [True, False])
def test_an_operation_whose_answer_is_lost_is_carried_out_once(
    carried_out: bool, tmp_path: Path, monkeypatch, quick: None, expected_of_many: Told
) -> None:
    """The connection breaks at every other commit, by chance: before or after the database did what it was asked."""
    dialect, chance, lost = sqlalchemy.create_engine("sqlite://").dialect.__class__, random.Random(0), itertools.count()
    real = dialect.do_commit

    def commit(self, connection) -> None:
        fails = chance.random() < 1 / 2
        if carried_out or not fails:
            real(self, connection)
        if fails:
            next(lost)
            raise sqlite3.OperationalError("server closed the connection unexpectedly")

    url = f"sqlite:///{tmp_path}/study.db"
    breaking = Disturbed(lambda: monkeypatch.setattr(dialect, "do_commit", commit), at=(1,))
    outcome = run_search(problem(Path(), breaking, BUDGET_MS, storage=url, **LONG))
    monkeypatch.setattr(dialect, "do_commit", real)
    assert next(lost) > 50
    assert reported(outcome) == expected_of_many
    check_trials(url)


def test_errors_that_do_not_pass_are_not_waited_for() -> None:
    calls = itertools.count()

    def fails() -> None:
        next(calls)
        raise KeyError("no such study")

    storage = open_storage("sqlite://")
    assert isinstance(storage, Database)
    with pytest.raises(KeyError):
        storage.retry_with_backoff(fails)
    assert next(calls) == 1
    with pytest.raises(KeyError):
        storage.get_trial(7)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: writes end in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ["sqlite", "log"])
def test_a_full_disk_is_waited_for(kind: str, expected: Told, tmp_path: Path, caplog, monkeypatch) -> None:
    """Somebody reads the warning and makes room."""
    file = tmp_path / "study"
    url = {"sqlite": f"sqlite:///{file}", "log": f"journal://{file}"}[kind]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size // 2, limits[1]))

    def sleep(seconds: float) -> None:
        if any("does not answer" in record.message for record in caplog.records):
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(time, "sleep", sleep)
    try:
        outcome = search(url, Disturbed(fill, at=(20,)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert reported(outcome) == expected
    check_trials(url)
    assert [record.message.split()[2:4] for record in caplog.records] == [["does", "not"], ["is", "back"]]


def test_a_disk_that_stays_full_stops_the_search_which_can_be_continued(expected: Told, tmp_path: Path, quick) -> None:
    url, calls = f"journal://{tmp_path}/study.log", itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: float(next(calls)))  # two minutes go by in a moment
        with largest_file(12_000), pytest.raises(StorageUnavailable, match="No space left"):
            search(url)
    assert (tmp_path / "study.log").stat().st_size > 8_000
    assert reported(search(url)) == expected
    check_trials(url)


@pytest.mark.parametrize("kept", [1, 30, 400])
def test_a_log_goes_on_behind_the_half_line_of_a_writer_that_died(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    whole = [{"op_code": 0, "worker_id": "a", "study_name": f"study {n}", "directions": [1]} for n in range(3)]
    Log(path).append_logs(whole)
    half = json.dumps({"op_code": 0, "worker_id": "a", "study_name": "x" * 500}).encode()[:kept]
    with path.open("ab") as file:
        file.write(half)
    reader = Log(path)
    assert list(reader.read_logs(0)) == whole
    Log(path).append_logs(whole[:1])
    assert list(reader.read_logs(3)) == whole[:1]
    assert list(Log(path).read_logs(0)) == [*whole, whole[0]]


def test_the_lock_of_a_writer_that_died_is_broken(tmp_path: Path, monkeypatch) -> None:
    path, seconds, slept = tmp_path / "study.log", itertools.count(), []
    log, record = Log(path), {"op_code": 0, "worker_id": "a", "study_name": "one", "directions": [1]}
    Path(f"{path}.lock").touch()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(time, "sleep", slept.append)
    log.append_logs([record])
    assert list(log.read_logs(0)) == [record]
    assert not Path(f"{path}.lock").exists()
    assert slept  # it was waited for first


class Jumping(datetime):
    """A wall clock that is set back and forth by a day with every look."""

    looks = itertools.count()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=(-1) ** next(cls.looks))


def test_a_clock_that_is_set_changes_nothing(url: str, expected: Told, monkeypatch) -> None:
    real, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * (-1) ** next(looks))
    for module in ("storages._rdb.storage", "storages.journal._storage"):
        monkeypatch.setattr(f"optuna.{module}.datetime", Jumping)
    before = next(Jumping.looks)
    outcome = search(url, time_limit_s=600.0)
    assert next(Jumping.looks) > before + TRIALS
    monkeypatch.undo()
    assert reported(outcome) == expected
    check_trials(url)


def test_patience_is_measured_by_a_clock_that_nobody_sets(monkeypatch, quick: None) -> None:
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    attempts: list[int] = []

    def fails() -> None:
        attempts.append(1)
        raise OSError("gone")

    with pytest.raises(StorageUnavailable, match=r"storage there did not answer for more than 60 s \(gone\)"):
        patience.retry_with_backoff(fails, lambda error: isinstance(error, OSError), "there", 60.0)
    assert len(attempts) == 8  # at 0, and each 10 s until the deadline has passed


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("study.db", UsageError, "'study.db' is of no known kind; write sqlite:///study.db, postgresql://"),
        ("redis://host", UsageError, "'redis://host' is of no known kind"),
        ("sqlite:////no/such/folder/study.db", UsageError, "the folder /no/such/folder does not exist"),
        ("journal://study.log", UsageError, "write journal:///path/to/study.log"),
        ("journal:////no/such/study.log", UsageError, "the folder /no/such does not exist"),
        ("postgresql://me:pa%3Fss@host:port/db", UsageError, "is no URL of a database"),
        ("postgresql://me:pa@ss@host/db", UsageError, "the password holds an @; write it as %40"),
        ("postgresql+none://me:pa%3Fss@host/db", UsageError, "needs a driver that is not installed"),
        ("mysql+none://me:pa%3Fss@host/db", UsageError, "needs a driver that is not installed"),
        ("postgresql://me:pa%3Fss@127.0.0.1:9/db", StorageUnavailable, "Connection refused"),
        ("postgresql://me@127.0.0.1:9/db?password=pa%3Fss", StorageUnavailable, "Connection refused"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_line_without_its_password(url: str, error, message: str) -> None:
    with pytest.raises(error) as caught:
        open_storage(url)
    assert message in str(caught.value)
    for secret in ("pa?ss", "pa%3Fss", "pa@ss"):
        assert secret not in str(caught.value)


def test_a_server_that_refuses_says_why(postgres: Postgres) -> None:
    url = postgres.database()
    for wrong, message in ((url.replace("secret", "public"), "password"), (f"{url}-not", "does not exist")):
        with pytest.raises(StorageUnavailable, match=message) as caught:
            open_storage(wrong)
        assert "word@" not in str(caught.value)


@pytest.mark.parametrize("name", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_name_of_postgres_is_read(name: str, postgres: Postgres) -> None:
    url = postgres.database().replace("postgresql", name)
    optuna.create_study(study_name="one", storage=open_storage(url))
    assert [study.study_name for study in open_storage(url).get_all_studies()] == ["one"]


def test_a_password_may_be_left_to_the_environment(postgres: Postgres, monkeypatch) -> None:
    url = postgres.database().replace(f":{QUOTED}@", "@")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert open_storage(f"{url}?application_name=mine").get_all_studies() == []
    monkeypatch.setenv("PGPASSWORD", "another")
    with pytest.raises(StorageUnavailable, match="password authentication failed"):
        open_storage(url)


def test_a_missing_driver_names_the_extra(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'nas\[postgres\]'"):
        open_storage("postgresql://host/db")


def test_files_of_another_kind_are_refused_and_left_alone(tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/study.db")
    open_storage(f"journal://{tmp_path}/study.log")
    optuna.create_study(storage=open_storage(f"journal://{tmp_path}/study.log"))
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    for url in (f"journal://{tmp_path}/study.db", f"sqlite:///{tmp_path}/study.log"):
        with pytest.raises(NasError, match="cannot be opened"):
            open_storage(url)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:pa@ss@db:5432/runs", "postgresql://me:***@db:5432/runs"),
        ("postgresql+psycopg://me:p/a?s#s@db/runs", "postgresql+psycopg://me:***@db/runs"),
        ("postgresql://me@db/runs?password=a%20b&sslmode=require", "postgresql://me@db/runs?password=***&sslmode=require"),
        ("http://server:5000", "http://server:5000"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("sqlite:////home/a:b@c/study.db", "sqlite:////home/a:b@c/study.db"),
        ("postgresql://me@db/runs", "postgresql://me@db/runs"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("postgresql:/me:secret@db/runs", "postgresql:/***@db/runs"),
        ("postgresql:///me:secret@db/runs", "postgresql:///***@db/runs"),
        ("postgresql:me:secret@db/runs", "postgresql:***@db/runs"),
        ("postgresql//me:secret@db/runs", "postgresql//***@db/runs"),
        ("postgresql;//me:secret@db/runs", "postgresql;//***@db/runs"),
        ("postgresql:\\\\me:secret@db/runs", "postgresql:\\\\***@db/runs"),
        ("//me:secret@db/runs", "//***@db/runs"),
        ("me:secret@db/runs", "me:***@db/runs"),
        ("postgresql://me:secret/runs", "postgresql://me:***"),
        ("postgresql://me:secret%40db/runs", "postgresql://me:***"),
        ("host=db user=me password=secret", "host=db user=me password=***"),
    ],
)  # fmt: skip
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert remove_password(uri) == shown


def test_in_a_text_the_urls_lose_their_passwords_and_all_else_stays() -> None:
    text = "a 'postgresql:/me:secret@db/x', (http://me:secret@h:5000) and http://h/?token=secret"
    assert remove_passwords(text) == "a 'postgresql:/***@db/x', (http://me:***@h:5000) and http://h/?token=***"
    for plain in (
        "nas certify OUT --host user@board --port 22", "tokens.3=0.5 --tokens=search, key=value",
        "/data/a:b@c/model and ./models/v1@main", "write sqlite:///study.db or postgresql://user@host/database",
        "at 12:30:11, 5:3", "http://127.0.0.1:5000.",
    ):  # fmt: skip
        assert remove_passwords(plain) == plain


def test_messages_about_a_url_do_not_hold_its_password() -> None:
    uri = "postgresql://me:a%20b@db/runs?sslpassword=key"
    assert remove_secrets(f"{uri}: a b or key or a%20b", uri) == (
        "postgresql://me:***@db/runs?sslpassword=***: *** or *** or ***"
    )
