"""The schema: made by migrations alone, the same as the models, and safe to make twice."""

from __future__ import annotations

import threading

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from jobs.database import Database
from jobs.errors import JobsError
from jobs.models import Base

FLEET_TABLES = {"workers", "leaders", "alembic_version", "tenants"}


def test_migrations_make_what_the_models_say(database: Database) -> None:
    with database.transaction() as tx:
        assert compare_metadata(MigrationContext.configure(tx), Base.metadata) == []
    found, wanted = database.revisions()
    assert found == wanted


def test_the_tenant_leads_every_table_and_unique_key(database: Database) -> None:
    with database.reading() as tx:
        schema = inspect(tx)
        for table in schema.get_table_names():
            if table in FLEET_TABLES:
                continue
            assert schema.get_columns(table)[0]["name"] == "tenant_id", table
            assert schema.get_pk_constraint(table)["constrained_columns"][0] == "tenant_id", table
            for key in schema.get_unique_constraints(table):
                assert key["column_names"][0] == "tenant_id", (table, key)
        assert set(schema.get_view_names()) >= {"job_status", "identity_status", "render_metrics"}


def test_four_upgrades_at_once(database_url: str) -> None:
    # Given an empty database and four processes' worth of eagerness
    opened = [Database(database_url) for _ in range(4)]
    failures: list[Exception] = []
    barrier = threading.Barrier(4)

    def upgrade(database: Database) -> None:
        barrier.wait()
        try:
            database.upgrade()
        except JobsError as error:
            failures.append(error)

    # When all upgrade together
    threads = [threading.Thread(target=upgrade, args=(database,)) for database in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then none failed, and the schema is there once
    assert failures == []
    opened[0].require_current()
    for database in opened:
        database.dispose()
