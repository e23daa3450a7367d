"""What every test relies on: one thread per test process, no hub, no telemetry, a cache of its own."""

import gc
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
    RAY_worker_niceness="0",  # beside other test processes, nice workers hardly get a turn
)
sys.path.extend(sorted({str(file.parent) for file in Path(__file__).parent.rglob("*.py")}))  # tests share pieces

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from postgres import Postgres

torch.set_num_threads(1)
# How long an example takes is the machine's affair: beside other processes it says nothing.
for profile, examples in {"quick": 30, "all": 100}.items():
    settings.register_profile(
        profile, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def pytest_configure(config: pytest.Config) -> None:
    """Fewer examples of what has no number of its own, unless the slow tests are run too."""
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what all tests share: libraries are millions of objects that stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@event.listens_for(Engine, "connect")
def _never_sync(connection: object, _: object) -> None:
    """Let no SQLite file of this process wait for the disk: a test kills processes, and never cuts the power."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """A PostgreSQL server of this test process; who kills it starts it again."""
    from postgres import server

    with server() as running:
        yield running
