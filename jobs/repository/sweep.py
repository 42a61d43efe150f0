"""Which objects of the store rows name, and which a worker at work may be about to name."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, and_, select, union_all

from jobs.models import (
    ARCHIVED_CANDIDATES,
    ARCHIVED_OUTPUTS,
    ARCHIVED_RENDERS,
    Candidate,
    Output,
    Photo,
    Render,
    Tenant,
    Unit,
    WeightSet,
)
from jobs.models_outside import Upload
from jobs.repository.tenants import OPEN_STATES

_NAMING = (Render, Candidate, Output, Photo, Upload, WeightSet)


def tenants(tx: Connection) -> list[str]:
    """Every tenant, by name."""
    return list(tx.execute(select(Tenant.id).order_by(Tenant.id)).scalars())


def tokens_of_waiting(tx: Connection, tenant_id: str, render_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, int]:
    """The token under which each of these renders, where it still waits, can be recorded: that of its unit's last
    claim, whether the lease runs, has run out, or was handed back. A picture may lie in a worker's spool so long.
    """
    of_unit = and_(Unit.tenant_id == Render.tenant_id, Unit.id == Render.unit_id)
    statement = (
        select(Render.id, Unit.lease_token)
        .join(Unit, of_unit)
        .where(Render.tenant_id == tenant_id, Render.id.in_(render_ids))
        .where(Render.state == "waiting", Unit.state.in_(OPEN_STATES))
    )
    return {row.id: row.lease_token for row in tx.execute(statement)}


def tokens_of_made(tx: Connection, tenant_id: str, fingerprints: Sequence[str]) -> dict[str, int]:
    """The token under which each of these weight sets is being generated."""
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.fingerprint.in_(fingerprints))
    statement = select(WeightSet.fingerprint, WeightSet.lease_token).where(*mine, WeightSet.state == "generating")
    return {row.fingerprint: row.lease_token for row in tx.execute(statement)}


def named(tx: Connection, tenant_id: str, render_ids: Sequence[uuid.UUID], keys: Sequence[str]) -> set[str]:
    """Those of these keys that a row of the tenant names; `render_ids` are the renders in whose folders they lie.

    One statement, and so one moment: a row that moves from one table to another is in one of them.
    """
    parts = []
    for table in _NAMING:
        mine = select(table.storage_key).where(table.tenant_id == tenant_id, table.storage_key.in_(keys))
        if table is Render:  # by its id: the renders have no index over keys
            mine = mine.where(Render.id.in_(render_ids))
        if table is Photo or table is Upload:  # by its hash, which is in its key
            mine = mine.where(table.sha256.in_([_stem(key) for key in keys]))
        if table is WeightSet:  # by its fingerprint, likewise
            mine = mine.where(WeightSet.fingerprint.in_([_stem(key).rpartition("-")[0] for key in keys]))
        parts.append(mine)
    for kept in (ARCHIVED_RENDERS, ARCHIVED_CANDIDATES, ARCHIVED_OUTPUTS):  # by their renders, too
        of_render = (kept.c.id if kept is ARCHIVED_RENDERS else kept.c.render_id).in_(render_ids)
        mine = select(kept.c.storage_key).where(kept.c.tenant_id == tenant_id, of_render)
        parts.append(mine.where(kept.c.storage_key.in_(keys)))
    return {key for key in tx.execute(union_all(*parts)).scalars() if key is not None}


def named_photos(tx: Connection, tenant_id: str, sha256s: Sequence[str]) -> set[str]:
    """Those of these photos, by their hashes, that rows of the tenant name."""
    found: set[str] = set()
    for start in range(0, len(sha256s), 500):
        part = sha256s[start : start + 500]
        mine = (Photo.tenant_id == tenant_id, Photo.sha256.in_(part))
        found.update(tx.execute(select(Photo.sha256).where(*mine)).scalars())
    return found


def _stem(key: str) -> str:
    """The last part of a key without its ending."""
    return key.rpartition("/")[2].partition(".")[0]
