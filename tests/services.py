"""The servers some tests need: a missing one skips for a user and fails in CI."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

POSTGRES_URL = os.environ.get("PORTRAITS_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("PORTRAITS_TEST_REDIS_URL", "redis://127.0.0.1:6379")
RABBITMQ_URL = os.environ.get("PORTRAITS_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672")
S3_ENDPOINT = os.environ.get("PORTRAITS_TEST_S3_ENDPOINT", "")


def missing(what: str) -> None:
    """Skip this test, or fail it where every server must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing; CI must start it")
    pytest.skip(f"{what} is not reachable")


@contextmanager
def fresh_postgres(template: str | None = None) -> Iterator[str]:
    """A new database on the test server, dropped afterwards: empty, or a copy of `template`, a URL that this gave out.

    Nobody may be connected to a template while it is copied. Yields the database's SQLAlchemy URL.
    """
    try:
        admin = psycopg.connect(POSTGRES_URL, autocommit=True, connect_timeout=20)
    except psycopg.OperationalError:
        missing("PostgreSQL (PORTRAITS_TEST_POSTGRES_URL)")
        raise
    name = f"portraits_test_{uuid.uuid4().hex[:12]}"
    source = f' TEMPLATE "{template.rsplit("/", 1)[1]}"' if template else ""
    with admin:
        admin.execute(f'CREATE DATABASE "{name}"{source}')
        try:
            yield POSTGRES_URL.replace("postgresql://", "postgresql+psycopg://").rsplit("/", 1)[0] + f"/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
