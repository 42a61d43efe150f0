"""What migrations share: taking their locks beside a fleet at work, and changing views in place."""

from __future__ import annotations

import random
import time

import sqlalchemy as sa

from jobs.errors import DatabaseUnavailable

LOCK_MILLISECONDS = 300
LOCK_TRIES = 40
LOCK_NOT_AVAILABLE = "55P03"


def lock_tables(bind: sa.Connection, tables: str, tries: int = LOCK_TRIES) -> None:
    """Lock at once all that is changed (views first, then tables, with commas), so that a fleet at work waits for the
    upgrade and the upgrade never for the fleet. SQLite has one lock, which the upgrade holds already.

    Whoever works locks the same tables in other orders, row by row. So a lock that does not come within a moment is
    given up with those before it, sooner than PostgreSQL looks for deadlocks (1 s), and all are tried for anew.
    Raises DatabaseUnavailable when somebody uses them each time.
    """
    if bind.dialect.name != "postgresql":
        return
    for _ in range(tries):
        try:
            with bind.begin_nested():
                bind.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_MILLISECONDS}ms'")
                bind.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
                bind.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
            return
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
        time.sleep(random.uniform(0.05, 0.25))  # lets those pass who waited behind this
    raise DatabaseUnavailable(
        f"the tables {tables} were in use each of the {tries} times that this upgrade tried to lock them; nothing was "
        "changed; try `portraits db upgrade` again when no large job is being enqueued, or stop the workers first"
    )


def replace_view(bind: sa.Connection, name: str, query: str) -> None:
    """The view with columns added at its end; where the database can, in place, so that grants on it stay."""
    if bind.dialect.name == "postgresql":
        bind.exec_driver_sql(f"CREATE OR REPLACE VIEW {name} AS {query}")
    else:
        bind.exec_driver_sql(f"DROP VIEW {name}")
        bind.exec_driver_sql(f"CREATE VIEW {name} AS {query}")
