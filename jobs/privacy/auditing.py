"""What was erased here: rows without a person in them."""

from __future__ import annotations

from typing import Any

from jobs.reports import opened
from jobs.repository import audits as rows
from jobs.settings import Settings


def audits(*, tenant: str | None = None, limit: int = 50, settings: Settings | None = None) -> list[dict[str, Any]]:
    """The latest erasures, of one tenant or of all: when, what, how much, by whom and why."""
    with opened(settings) as (_, database), database.reading() as tx:
        return rows.newest(tx, tenant=tenant, limit=limit)
