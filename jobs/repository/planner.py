"""Telling PostgreSQL's planner how large a table has become, before anybody plans for an empty one.

It plans by what ANALYZE last saw, and of a fresh table that is nothing: then the check of each render's foreign key
reads every unit of the tenant, a claim every render, and work grows with the square of a job. Autovacuum would come a
minute later, and never sees what is not committed.

ANALYZE locks its table against another ANALYZE until the transaction ends. So whoever finds somebody else at it goes on
without: a producer must not wait for another's whole job.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, text

LEAST_ROWS = 200
"""What is less than that is written soon enough by any plan."""
_LOCK = 7236002

Table = Literal["identities", "photo_sets", "units", "renders"]


def told(tx: Connection, table: Table, added: int) -> bool:
    """ANALYZE the table if this transaction's job has more than doubled it; False when there was no need, or no way.

    SQLite does without.
    """
    if tx.dialect.name != "postgresql" or added < LEAST_ROWS:
        return False
    known = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)")
    if tx.execute(known, {"name": table}).scalar_one() * 2 > added:
        return False
    if not tx.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}).scalar_one():
        return False
    tx.execute(text(f"ANALYZE {table}"))
    return True
