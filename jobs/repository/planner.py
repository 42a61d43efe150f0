"""Telling PostgreSQL's planner how large a table has become, before anybody plans for an empty one.

It plans by what ANALYZE last saw, and of a fresh table that is nothing: then the check of each render's foreign key
reads every unit of the tenant, a claim every render, and work grows with the square of a job. Autovacuum would come a
minute later, and never sees what is not committed.

ANALYZE locks its table against another ANALYZE until the transaction ends. So whoever finds somebody else at it goes on
without: a producer must not wait for another's whole job.

Only a table's owner may ANALYZE it; anybody else gets a warning of the server's and nothing happens. So a tenants' role
asks a function that `portraits db roles --apply` makes, which does it with its owner's rights.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, get_args

from sqlalchemy import Connection, text

log = logging.getLogger(__name__)

LEAST_ROWS = 200
"""What is less than that is written soon enough by any plan."""
_LOCK = 7236002

Table = Literal["identities", "photo_sets", "units", "renders"]
FUNCTION = "portraits_analyze"


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
    return _analyze(tx, table)


def _analyze(tx: Connection, table: Table) -> bool:
    """ANALYZE with one's own rights or the function's; False when one has neither, which is said once."""
    rights = text(
        "SELECT pg_has_role(current_user, relowner, 'USAGE') AS owns, "
        "coalesce(has_function_privilege(to_regprocedure(:function), 'EXECUTE'), false) AS may_ask "
        "FROM pg_class WHERE oid = to_regclass(:name)"
    )
    found = tx.execute(rights, {"function": f"{FUNCTION}(text)", "name": table}).one()
    if found.owns:
        tx.execute(text(f"ANALYZE {table}"))
    elif found.may_ask:
        tx.execute(text(f"SELECT {FUNCTION}(:name)"), {"name": table})
    else:
        _say_once()
    return bool(found.owns or found.may_ask)


@cache
def _say_once() -> None:
    log.warning(
        "this role may not ANALYZE the tables, wanted for large jobs, which PostgreSQL writes slowly without; "
        "run `portraits db roles --apply` as their owner"
    )


def function_statements(role: str) -> list[str]:
    """The SQL that makes the function and lets `role` alone use it. It knows the tables by name and looks in their
    schema first, so that nobody can put another table, or code, in their place.
    """
    cases = " ".join(f"WHEN ''{table}'' THEN ANALYZE {table};" for table in get_args(Table))
    make = (
        f"CREATE OR REPLACE FUNCTION {FUNCTION}(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = ' || quote_ident(current_schema()) || ', pg_temp "
        f"AS $body$ BEGIN CASE name {cases} END CASE; END $body$"
    )
    return [
        f"DO $make$ BEGIN EXECUTE '{make}'; END $make$",
        f"REVOKE ALL ON FUNCTION {FUNCTION}(text) FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION {FUNCTION}(text) TO {role}",
    ]
