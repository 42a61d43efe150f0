"""What PostgreSQL's planner is told while a large job is written, and that nobody waits for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from queue_world import TENANT, only_postgres, person, settings
from sqlalchemy import Connection, text

from jobs.database import Database
from jobs.repository import jobs as job_rows
from jobs.repository import people as people_rows
from jobs.repository import planner
from jobs.repository.writer import JobWriter, PersonRows


def write(tx: Connection, people: list[PersonRows], key: str) -> None:
    """A job of registered people, as enqueueing writes it."""
    job_id = job_rows.add(tx, TENANT, key=key, content_hash=key, name=None, profile="fake", priority=0)
    writer = JobWriter(tx, TENANT, job_id, "fake", 0, age_seconds=60)
    writer.add(people, people_rows.find(tx, TENANT, people))
    writer.finish()


def known(database: Database, table: str) -> int:
    """How many rows the planner believes that a table has; -1 when nobody has told it."""
    with database.reading() as tx:
        rows = tx.execute(text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table})
        return int(rows.scalar_one())


@pytest.fixture
def crowd(database: Database, database_url: str, tmp_path: Path) -> list[PersonRows]:
    """Twelve registered people with three pictures each."""
    people = [person(f"p{n}", [3], settings(tmp_path, database_url)) for n in range(12)]
    with database.transaction() as tx:
        people_rows.register(tx, TENANT, people)
    return people


def test_a_large_job_tells_the_planner_its_size(
    database: Database, crowd: list[PersonRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given that ten rows are many, and a fresh installation
    monkeypatch.setattr(planner, "LEAST_ROWS", 10)
    # When a job of twelve units and 36 renders is written, then it is a job on either database
    with database.transaction() as tx:
        write(tx, crowd, "large")
    if not database.is_sqlite:
        # And whoever reads it next plans for so many
        assert (known(database, "units"), known(database, "renders")) == (12, 36)


@only_postgres
def test_a_job_that_is_small_beside_what_is_there_tells_nothing(
    database: Database, crowd: list[PersonRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a small job on a fresh installation, then nobody is told of it
    with database.transaction() as tx:
        write(tx, crowd, "small")
    assert known(database, "renders") == -1

    # When another comes that doubles the tables and no more
    monkeypatch.setattr(planner, "LEAST_ROWS", 10)
    with database.transaction() as tx:
        tx.execute(text("ANALYZE renders"))
        write(tx, crowd, "another")
    # Then what was known is near enough
    assert known(database, "renders") == 36


@only_postgres
def test_a_producer_does_not_wait_for_another_that_writes_a_large_job(
    database: Database, crowd: list[PersonRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a producer in the middle of a large job, which has told the planner
    monkeypatch.setattr(planner, "LEAST_ROWS", 10)
    with database.transaction() as first:
        write(first, crowd, "first")
        held = text("SELECT count(*) FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock' AND pid = pg_backend_pid()")
        assert first.execute(held).scalar_one() > 0

        # When another writes one that is larger still, then it is done although the first is not
        larger = [replace(one, units=[*one.units] * 3) for one in crowd]
        with database.transaction() as second:
            second.execute(text("SET LOCAL lock_timeout = '5s'"))
            write(second, larger, "second")
    with database.reading() as tx:
        assert sorted(tx.execute(text("SELECT key FROM jobs")).scalars()) == ["first", "second"]
