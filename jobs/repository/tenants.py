"""Tenants: their shares and limits, and how much of each they have used."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, func, select, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import SettingsInvalid
from jobs.models import (
    ARCHIVED_CANDIDATES,
    ARCHIVED_OUTPUTS,
    ARCHIVED_RENDERS,
    Candidate,
    Identity,
    Job,
    Output,
    Photo,
    Render,
    Tenant,
    Unit,
    WeightSet,
)
from jobs.models_outside import Upload
from jobs.orm import utcnow

MINUTE_SECONDS = 60.0
OPEN_STATES = ("ready", "leased", "paused")
LIMITS = ("max_people", "max_waiting_renders", "max_stored_bytes", "max_renders_per_minute")
MOST_WEIGHT = 1000.0
CHUNK = 500
_STORED: tuple[Any, ...] = (
    *(model.__table__ for model in (Photo, Upload, WeightSet, Render, Output, Candidate)),
    *(ARCHIVED_RENDERS, ARCHIVED_OUTPUTS, ARCHIVED_CANDIDATES),
)


@dataclass(frozen=True)
class TenantRow:
    """A tenant's weight beside others, and its limits; None does not limit."""

    id: str
    weight: float = 1.0
    max_people: int | None = None
    max_waiting_renders: int | None = None
    max_stored_bytes: int | None = None
    max_renders_per_minute: int | None = None
    retention_days: int | None = None
    requires_consent: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether anything limits this tenant."""
        return any(getattr(self, name) is not None for name in LIMITS)


_COLUMNS = tuple(getattr(Tenant, name) for name in TenantRow.__dataclass_fields__)


def find(tx: Connection, tenant_id: str, *, lock: bool = False) -> TenantRow:
    """A tenant; one that has no row yet has no limits. `lock` holds off others that enqueue for it.

    It does not hold off who writes rows of the tenant: they only need its name to stay.
    """
    statement = select(*_COLUMNS).where(Tenant.id == tenant_id)
    row = tx.execute(statement.with_for_update(key_share=True) if lock else statement).one_or_none()
    return TenantRow(tenant_id) if row is None else TenantRow(*row)


def every(tx: Connection) -> list[TenantRow]:
    """All tenants, by name."""
    return [TenantRow(*row) for row in tx.execute(select(*_COLUMNS).order_by(Tenant.id))]


def change(tx: Connection, tenant_id: str, **changes: Any) -> TenantRow:
    """Set a tenant's weight or limits; a tenant that has no row yet is made.

    Raises SettingsInvalid for a weight that is no number above 0 and up to `MOST_WEIGHT`.
    """
    weight = changes.get("weight", 1.0)
    if not 0.0 < weight <= MOST_WEIGHT:  # nor is it NaN, which is neither
        raise SettingsInvalid(
            f"a tenant's weight is above 0 and at most {MOST_WEIGHT:g}, found {weight}; 1 is ordinary"
        )
    upsert = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert
    tx.execute(upsert(Tenant).values(id=tenant_id, created_at=utcnow()).on_conflict_do_nothing(index_elements=["id"]))
    if changes:
        tx.execute(update(Tenant).where(Tenant.id == tenant_id).values(**changes))
    return find(tx, tenant_id)


def people(tx: Connection, tenant_id: str) -> int:
    """How many people of this tenant are known."""
    return tx.execute(select(func.count()).select_from(Identity).where(Identity.tenant_id == tenant_id)).scalar_one()


def unknown_people(tx: Connection, tenant_id: str, names: Iterable[str]) -> int:
    """How many of these people are not known yet; each is named once."""
    rest, unknown = iter(names), 0
    while chunk := list(islice(rest, CHUNK)):
        known = select(func.count()).where(Identity.tenant_id == tenant_id, Identity.external_id.in_(chunk))
        unknown += len(chunk) - tx.execute(known).scalar_one()
    return unknown


def unknown_bytes(tx: Connection, tenant_id: str, files: Iterable[tuple[str, int]]) -> int:
    """The bytes of those of these photos (SHA-256 and size) that are not stored yet, nor announced as uploads.

    One that is named again more than `CHUNK` later counts again: so memory stays bounded.
    """
    rest, unknown = iter(files), 0
    while chunk := dict(islice(rest, CHUNK)):
        found = (
            select(table.sha256).where(table.tenant_id == tenant_id, table.sha256.in_(list(chunk)))
            for table in (Photo, Upload)
        )
        counted = set(tx.execute(union_all(*found)).scalars())
        unknown += sum(size for sha256, size in chunk.items() if sha256 not in counted)
    return unknown


def waiting_renders(tx: Connection, tenant_id: str) -> int:
    """How many pictures of this tenant wait, are drawn, or are paused."""
    left = Unit.renders_total - Unit.renders_done - Unit.renders_failed - Unit.renders_cancelled
    mine = (Unit.tenant_id == tenant_id, Unit.state.in_(OPEN_STATES))
    return int(tx.execute(select(func.coalesce(func.sum(left), 0)).where(*mine)).scalar_one())


def stored_bytes(tx: Connection, tenant_id: str) -> int:
    """Bytes of this tenant's photos, uploads, weight sets, pictures (chosen or not) and further files, archived too."""
    total = 0
    for table in _STORED:
        size = select(func.sum(table.c.size_bytes)).where(table.c.tenant_id == tenant_id)
        # The chosen candidate is the picture of its render's row.
        asked = size.where(table.c.chosen.is_(False)) if "chosen" in table.c else size
        total += int(tx.execute(asked).scalar_one() or 0)
    return total


def renders_of_last_minute(tx: Connection, tenant_id: str) -> int:
    """How many pictures this tenant has asked for within a minute; found by the ids, which begin with their time."""
    since = uuid.UUID(int=int((time.time() - MINUTE_SECONDS) * 1000) << 80)
    recent = (Job.tenant_id == tenant_id, Job.id >= since)
    return int(tx.execute(select(func.coalesce(func.sum(Job.renders_total), 0)).where(*recent)).scalar_one())
