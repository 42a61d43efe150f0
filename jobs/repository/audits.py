"""What was erased, when, by whom and how much: rows that tell of nobody, and outlive everybody they are about."""

from __future__ import annotations

import datetime as dt
import getpass
import socket
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from jobs.models_outside import Audit
from jobs.orm import new_id, utcnow

FORGET_PERSON, FORGET_TENANT, RETENTION = "person.forgotten", "tenant.forgotten", "retention"
MAX_ACTOR, MAX_REASON = 200, 500


def actor() -> str:
    """Who runs this process: the user's name at this machine's."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "nobody"
    return f"{user}@{socket.gethostname()}"[:MAX_ACTOR]


def add(
    tx: Connection, action: str, tenant: str, *, actor: str, reason: str | None, counts: Mapping[str, int]
) -> dict[str, Any]:
    """Note an erasure; returns the row."""
    row: dict[str, Any] = {"id": new_id(), "at": utcnow(), "action": action, "tenant": tenant}
    row |= {"actor": actor[:MAX_ACTOR], "reason": reason, "counts": dict(counts)}
    tx.execute(insert(Audit).values(**row))
    return row


def newest(
    tx: Connection, *, tenant: str | None = None, since: dt.datetime | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The latest erasures, the newest first."""
    statement = select(Audit.__table__).order_by(Audit.at.desc(), Audit.id.desc())
    if tenant is not None:
        statement = statement.where(Audit.tenant == tenant)
    if since is not None:
        statement = statement.where(Audit.at >= since)
    return [dict(row) for row in tx.execute(statement.limit(limit)).mappings()]
