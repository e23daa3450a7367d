"""The storage that a URL names."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError

from nas.storage.database import Database
from nas.storage.redact import remove_password, remove_secrets
from nas.storage.retry import RETRY_TIMEOUT_S, find_reason, list_causes, retry_with_backoff
from nas.storage.shared_log import open_log
from nas.storage.sqlite_file import check_file
from search_spaces.errors import MissingExtra, StorageUnavailable, UsageError

JOURNAL = "journal"
_SQLITE, _SERVERS = "sqlite", ("postgresql", "mysql", "mariadb")
_PLAIN = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_KNOWN = "sqlite:///study.db, postgresql://user@host/database or journal:///path/to/study.log"
_FILE = "name a file that nas or Optuna wrote, or a new one in a folder that you may write to"
_LOCKED_S = 60  # another process writes to the SQLite file
_LIBPQ: dict[str, Any] = {  # a host that is gone without a word is noticed within a minute
    "connect_timeout": 10, "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 30_000, "application_name": "nas",
}  # fmt: skip
_RACES = 5
_MADE_MEANWHILE = ("already exists", "UNIQUE constraint", "duplicate key")
_BETWEEN = ("server closed the connection", "starting up", "shutting down", "recovery mode", "terminating connection")


def open_storage(url: str) -> BaseStorage:
    """Open the storage of a study, and create it where it is new.

    Args:
        url: `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/DATABASE` or `journal:///FILE`, the last with the whole
            path. MySQL works with a driver of the user's choice.

    Raises:
        UsageError: another kind of URL, or a folder that does not exist.
        MissingExtra: no driver for PostgreSQL.
        StorageUnavailable: the server is not there or refuses; the message does not hold the password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    scheme, separator, rest = url.partition("://")
    if separator and scheme == JOURNAL:
        return open_log(_log_path(url, rest))
    kind = scheme.partition("+")[0]
    if not separator or kind not in (_SQLITE, *_SERVERS, *_PLAIN):
        raise UsageError(f"storage {remove_password(url)!r} is of no known kind; write {_KNOWN}")
    parsed = _parse(f"{_PLAIN.get(scheme, scheme)}://{rest}")
    if parsed.get_backend_name() == _SQLITE:
        _check_folder(url, parsed)
        if parsed.database and Path(parsed.database).exists():
            check_file(Path(parsed.database))
    if parsed.drivername == _PLAIN["postgres"] and importlib.util.find_spec("psycopg") is None:
        raise MissingExtra(f"storage {remove_password(url)!r} needs a PostgreSQL driver; pip install 'nas[postgres]'")
    return _open_database(parsed)


def check_storage(url: str) -> None:
    """Find out whether a study can be kept at a URL; a SQLite file is not made yet.

    Raises:
        NasError: as `open_storage`.
    """
    if url.partition(":")[0].partition("+")[0] == _SQLITE:
        parsed = _parse(url)
        _check_folder(url, parsed)
        if parsed.database and Path(parsed.database).exists():
            check_file(Path(parsed.database))
    else:
        open_storage(url)


def _log_path(url: str, rest: str) -> Path:
    path = Path("/" + rest.lstrip("/")) if rest.startswith("/") else Path(rest)
    if not path.is_absolute() or not path.name:
        raise UsageError(
            f"storage {remove_password(url)!r}: a log is named by its whole path; write journal:///path/to/study.log"
        )
    if not path.parent.is_dir():
        raise UsageError(f"storage {url!r}: the folder {path.parent} does not exist; create it first")
    return path


def _parse(url: str) -> URL:
    shown = remove_password(url)
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise UsageError(f"storage {shown!r} is no URL of a database; write {_KNOWN}") from None
    if parsed.host and "@" in parsed.host:
        raise UsageError(f"storage {shown!r}: the password holds an @; write it as %40")
    return parsed


def _check_folder(url: str, parsed: URL) -> None:
    file = parsed.database
    if not file or file == ":memory:" or file.startswith("file:"):
        return
    folder, _, question = Path(file).parent, *url.partition("?")[1:]
    if question and "=" not in question:
        raise UsageError(f"storage {url!r}: in a URL, ? ends the path; write %3F for it")
    if not folder.is_dir():
        means = "; in a URL, % begins a code: write %25 for it" if "%" in url else "; create it first"
        raise UsageError(f"storage {url!r}: the folder {folder} does not exist{means}")


def _open_database(parsed: URL) -> Database:
    url = parsed.render_as_string(hide_password=False)
    shown = remove_password(url)
    server = parsed.get_backend_name() != _SQLITE
    try:
        return retry_with_backoff(lambda: _connect(url, parsed), _Restarting().passes, shown, RETRY_TIMEOUT_S)
    except (ImportError, NoSuchModuleError) as error:
        raise UsageError(
            f"storage {shown!r} needs a driver that is not installed ({find_reason(error)}); install one, "
            "or name another in the URL, as in mysql+pymysql://"
        ) from None
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        raise StorageUnavailable(
            f"storage {shown!r} cannot be opened ({remove_secrets(find_reason(error), url)}); "
            + ("check that it runs and that user, password and database are right" if server else _FILE)
        ) from None


class _Restarting:
    """Tells a server that is between two lives, which is waited for, from a wrong address, which is said at once."""

    def __init__(self) -> None:
        self._met = False

    def passes(self, error: Exception) -> bool:
        """Whether the server answered so far, and is about to again."""
        lost = any(isinstance(each, OperationalError | InterfaceError) for each in list_causes(error))
        self._met = self._met or (lost and any(words in str(each) for each in list_causes(error) for words in _BETWEEN))
        return self._met and lost


def _connect(url: str, parsed: URL) -> Database:
    """A connection; several that find a new database empty at once make its tables at once, and all but one fail."""
    for _ in range(_RACES):
        try:
            return Database(url, _choose_engine_options(parsed))
        except (SQLAlchemyError, OptunaError) as error:
            if not any(words in str(each) for each in list_causes(error) for words in _MADE_MEANWHILE):
                raise
        time.sleep(0.2)
    return Database(url, _choose_engine_options(parsed))


def _choose_engine_options(parsed: URL) -> dict[str, Any]:
    """What SQLAlchemy is told; what the user wrote into the URL goes before."""
    backend = parsed.get_backend_name()
    if backend == _SQLITE:
        return {"connect_args": {"timeout": _LOCKED_S}}
    libpq = parsed.drivername in ("postgresql+psycopg", "postgresql+psycopg2")
    asked = {name: value for name, value in _LIBPQ.items() if libpq and name not in parsed.query}
    return {"pool_pre_ping": True, "connect_args": asked}
