"""A copied database is what MLflow makes by its migrations, and nobody migrates twice."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from nas.tracking.new_database import create_database


def contents(path: Path) -> tuple[list[list[str]], dict[str, list[tuple[object, ...]]]]:
    """The schema, and the rows of every table that has some; times of creation left out.

    Lines of a table are sorted: MLflow's migrations write its constraints in an order that differs between processes.
    """
    with closing(sqlite3.connect(path)) as file:
        written = [str(sql) for (sql,) in file.execute("SELECT sql FROM sqlite_master ORDER BY type, name")]
        schema = [sorted(line.strip("\t ,") for line in sql.splitlines()) for sql in written]
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: file.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    timeless = {table: [tuple(v for v in row if not _is_time(v)) for row in found] for table, found in rows.items()}
    return schema, {table: found for table, found in timeless.items() if found}


def _is_time(value: object) -> bool:
    return isinstance(value, int) and value > 1_600_000_000_000  # ms since 1970


@pytest.fixture(scope="module")
def of_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What MLflow makes itself when it is opened."""
    path = tmp_path_factory.mktemp("mlflow") / "own.db"
    SqlAlchemyStore(f"sqlite:///{path}", "artifacts")
    return path


def test_it_is_what_mlflow_makes_itself(of_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    uri = f"sqlite:///{tmp_path / 'copied.db'}"
    create_database(uri)
    SqlAlchemyStore(uri, "artifacts")  # adds the experiment that is there by default
    assert contents(tmp_path / "copied.db") == contents(of_mlflow)


def test_the_second_is_made_without_migrating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_database(f"sqlite:///{tmp_path / 'first.db'}")
    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", None)
    create_database(f"sqlite:///{tmp_path / 'second.db'}")
    assert MlflowClient(f"sqlite:///{tmp_path / 'second.db'}").create_experiment("any")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first.db", "second.db"]


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_bytes(b"anything")
    create_database(f"sqlite:///{tmp_path / 'mine.db'}")
    assert (tmp_path / "mine.db").read_bytes() == b"anything"


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "postgresql://me@host/mlflow", "sqlite://", "sqlite:////no/such/folder/x.db"]
)
def test_other_addresses_are_mlflow_s_affair(uri: str) -> None:
    create_database(uri)


def test_where_no_copy_can_be_made_mlflow_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.tracking.new_database._make_empty_database", lambda: tmp_path / "nothing.db")
    create_database(f"sqlite:///{tmp_path / 'made.db'}")
    assert not list(tmp_path.iterdir())
