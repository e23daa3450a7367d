"""A SQLite file before it is used: whole, of the right kind, and open for writing."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from search_spaces.errors import StorageUnavailable

_OURS, _NAME = "studies", "study_name"  # a table of Optuna, and a column of it
_ANEW = "name another --storage or --out, or put it away and run the same command again: evaluations are kept elsewhere"


def check_file(path: Path) -> None:
    """Refuse a file that a study cannot be kept in; one that is new or empty can be.

    Raises:
        StorageUnavailable: it is damaged, no database, one of another program, or cannot be written.
    """
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise StorageUnavailable(
            f"storage {path} cannot be opened for writing; give this account the right to write it and its folder"
        )
    try:
        with closing(sqlite3.connect(path, timeout=1.0)) as file:
            problem = _find_problem(file)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):  # by a search that writes: then it is one of ours
            return
        problem = str(error)
    except sqlite3.DatabaseError as error:
        problem = str(error)
    if problem:
        raise StorageUnavailable(f"storage {path} cannot be opened as a database of studies ({problem}); {_ANEW}")


def _find_problem(file: sqlite3.Connection) -> str:
    """What is wrong with a database; empty where nothing is."""
    tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return ""
    if _OURS not in tables:
        return f"it holds tables of another program: {', '.join(sorted(tables)[:3])}"
    columns = [row[1] for row in file.execute(f"PRAGMA table_info({_OURS})")]
    if _NAME not in columns:
        return f"its table {_OURS} is of another program: it has no column {_NAME}"
    (verdict,) = file.execute("PRAGMA quick_check(1)").fetchone()
    return "" if verdict == "ok" else f"it is damaged: {str(verdict).splitlines()[-1]}"
