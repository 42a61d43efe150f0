"""Everything that the tables hold of a tenant: counted, read and removed table by table, as the metadata lists them.

So a table that is added later cannot be forgotten.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from sqlalchemy import Connection, Row, Table, delete, func, select, tuple_
from sqlalchemy.engine import Result

from jobs.models import METADATA, Identity
from jobs.models_outside import Delivery, Forgetting, Token, Webhook
from jobs.repository import security

ROWS = 2_000


def exists(tx: Connection, tenant_id: str) -> bool:
    """Whether there is a tenant of this name."""
    table = METADATA.tables["tenants"]
    return tx.execute(select(table.c.id).where(table.c.id == tenant_id)).one_or_none() is not None


def is_being_cleared(tx: Connection, tenant_id: str) -> bool:
    """Whether something of this tenant, that is gone, is still to be removed from the store."""
    return tx.execute(select(Forgetting.id).where(Forgetting.tenant == tenant_id).limit(1)).one_or_none() is not None


def counts(tx: Connection, tenant_id: str) -> dict[str, int]:
    """How many rows each table holds of a tenant; tables without one are left out."""
    found = {}
    for table, owner in _tables():
        statement = select(func.count()).select_from(table).where(table.c[owner] == tenant_id)
        if count := tx.execute(statement).scalar_one():
            found[table.name] = int(count)
    return found


def people(tx: Connection, tenant_id: str, *, limit: int) -> list[uuid.UUID]:
    """Some of a tenant's people."""
    mine = select(Identity.id).where(Identity.tenant_id == tenant_id)
    return list(tx.execute(mine.order_by(Identity.id).limit(limit)).scalars())


def shut(tx: Connection, tenant_id: str) -> None:
    """Let nobody in over HTTP any more, and tell nobody outside."""
    for model in (Token, Delivery, Webhook):
        tx.execute(delete(model).where(model.tenant_id == tenant_id))


def remove_some(tx: Connection, tenant_id: str) -> int:
    """Remove a bounded number of a tenant's rows, those first that refer to others; 0 when nothing but its own row is
    left.
    """
    for table, owner in _tables():
        if table.name == "tenants":
            continue
        keys = [column for column in table.primary_key]
        some = select(*keys).where(table.c[owner] == tenant_id).limit(ROWS)
        removed = tx.execute(delete(table).where(tuple_(*keys).in_(some))).rowcount
        if removed:
            return removed
    return 0


def remove_itself(tx: Connection, tenant_id: str) -> None:
    """Remove a tenant of which nothing is left; IntegrityError where something has come meanwhile."""
    table = METADATA.tables["tenants"]
    tx.execute(delete(table).where(table.c.id == tenant_id))


def rows(tx: Connection, tenant_id: str | None) -> Iterator[tuple[Table, Row[tuple[object, ...]]]]:
    """Every row of a tenant in every table, and every row of the fleet's own; None: those of every tenant.

    Not what is noted to be dropped (`forgettings`), which names what is gone until everybody has dropped it.
    """
    owners = security.tenant_tables()
    for table in METADATA.sorted_tables:
        if table.name == Forgetting.__tablename__:
            continue
        statement = select(table).execution_options(yield_per=ROWS)
        if table.name in owners and tenant_id is not None:
            statement = statement.where(table.c[owners[table.name]] == tenant_id)
        found: Result[tuple[object, ...]] = tx.execute(statement)
        for row in found:
            yield table, row


def _tables() -> list[tuple[Table, str]]:
    """The tables that hold a tenant's rows, those first that refer to others, with the column that names it."""
    owners = security.tenant_tables()
    return [(table, owners[table.name]) for table in reversed(METADATA.sorted_tables) if table.name in owners]
