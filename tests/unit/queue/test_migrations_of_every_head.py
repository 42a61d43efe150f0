"""From every earlier schema, with a row in each of its tables, to this one: nothing is lost, and work goes on."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from queue_world import World, settings
from sqlalchemy import Connection, inspect, select, text, update
from sqlalchemy.types import JSON, Boolean, DateTime, Float, Integer, LargeBinary, Numeric, String, TypeEngine, Uuid
from test_migrations import AT, ids, put, rows_of, write_as_0_1_0, write_as_0_2_0

from jobs.database import Database, _migrations_folder
from jobs.models import ARCHIVED_UNITS, Job, Unit
from jobs.repository import ends, queries
from worker.testing import FakeRenderer

# What a column must hold where any value of its type would be refused, or would mean something.
FITTING: dict[str, Any] = {"tenant_id": "acme", "profile": "other", "state": "done", "paused_at": None}
VALUES: list[tuple[type[TypeEngine[Any]], Any]] = [
    (Boolean, True),
    (Uuid, uuid.UUID(int=77)),
    (DateTime, AT),
    (JSON, {"a": 1}),
    (LargeBinary, b"x"),
    (Integer, 1),
    (Float, 1.0),
    (Numeric, 1.0),
    (String, "x"),
]


def heads() -> list[str]:
    """Every revision, the first first."""
    config = Config()
    config.set_main_option("script_location", str(_migrations_folder()))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def fill_empty_tables(tx: Connection) -> None:
    """A row in every table that has none, of another person and job: so nothing is on both sides of the archive."""
    for table in ("identities", "photo_sets", "jobs"):
        a_row(tx, table)
    counted = rows_of(tx)
    for table, _ in inspect(tx).get_sorted_table_and_fkc_names():
        if table is not None and counted.get(table) == 0:
            a_row(tx, table)


def a_row(tx: Connection, table: str) -> None:
    """What must be given, of each column's type; every id is the same."""
    columns = inspect(tx).get_columns(table)
    needed = [column for column in columns if not column["nullable"] and column["default"] is None]
    put(tx, table, **{column["name"]: _value(column["name"], column["type"], tx) for column in needed})


def _value(name: str, kind: TypeEngine[Any], tx: Connection) -> Any:
    if name in FITTING:
        return FITTING[name]
    if tx.dialect.name == "sqlite" and isinstance(kind, String) and kind.length == 32:
        return uuid.UUID(int=77)
    return next(value for type_, value in VALUES if isinstance(kind, type_))


def test_there_is_more_than_one_schema() -> None:
    assert heads()[:5] == ["0001", "0002", "0003", "0004", "0005"]


@pytest.mark.parametrize("head", heads())
def test_from_every_schema_rows_are_kept_and_work_goes_on(database_url: str, tmp_path: Path, head: str) -> None:
    # Given a database at an earlier schema, with a job half done and a row in every table
    database, known = Database(database_url), ids(1)
    database.upgrade(head)
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        (write_as_0_1_0 if head == "0001" else write_as_0_2_0)(tx, known, "spring")
        fill_empty_tables(tx)
        before = rows_of(tx)
    assert all(before.values()), before

    # When it is upgraded
    database.upgrade()
    database.require_current()

    # Then every row is there
    with database.reading() as tx:
        after = rows_of(tx)
    assert {name: after[name] for name in before} == before

    # When a worker comes, then it draws the picture that waited, and the one that was done stays
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    world.storage.put("spring.jpg", b"spring", content_type="image/jpeg")
    assert world.shift(known["unit"]).renders == 1
    with database.reading() as tx:
        row = queries.job(tx, "acme", known["job"])
        kept = tx.execute(text("SELECT storage_key FROM candidates WHERE chosen")).scalars().all()
    assert row is not None
    assert (row["state"], row["done"], row["waiting"], row["renders"]) == ("done", 2, 0, 2)
    assert "spring.png" in kept and len(kept) == 2
    database.dispose()


def test_what_ended_before_ends_were_told_is_told_to_nobody(database_url: str) -> None:
    # Given a database of the version before, with an open unit, and others that are over in the queue and the archive
    database, over, still_open = Database(database_url), ids(1), ids(100)
    database.upgrade("0006")
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_2_0(tx, over, "spring")
        fill_empty_tables(tx)
        for table in ("units", "archived_units"):
            tx.execute(text(f"UPDATE {table} SET state = 'done', finished_at = created_at"))
        write_as_0_1_0(tx, still_open, "autumn")

    # When it is upgraded, then no end waits to be told, and none is said of what is open
    database.upgrade()
    with database.reading() as tx:
        assert ends.next_job(tx) is None
        for table in (Unit.__table__, ARCHIVED_UNITS):
            told = tx.execute(select(table.c.told_at, table.c.finished_at)).all()
            assert all(row.told_at == row.finished_at for row in told) and any(row.told_at for row in told)
        jobs = {row.key: row.told_at for row in tx.execute(select(Job.key, Job.told_at))}
    assert jobs["spring"] is not None and jobs["autumn"] is None

    # And when the open one ends, that one is told
    with database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.id == still_open["unit"]).values(state="done", finished_at=AT))
    with database.reading() as tx:
        assert ends.next_job(tx) == ("acme", still_open["job"])
    database.dispose()
