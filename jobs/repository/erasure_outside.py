"""Erasing what leads out of the queue: what webhooks are told of a person, photos that were sent ahead, galleries."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Text, cast, delete, select

from jobs.models import Event
from jobs.models_outside import Delivery, Gallery, Upload
from jobs.repository import galleries as gallery_rows
from jobs.repository.parts import parts
from jobs.repository.people import CONSENT_CHANGED

EVERY_TOKEN = 2**63 - 1
"""Of a job that is gone: whatever was built for it goes."""


def deliveries(
    tx: Connection, tenant_id: str, jobs: Sequence[uuid.UUID], units: Sequence[uuid.UUID], empty: Sequence[uuid.UUID]
) -> int:
    """Remove what is to be told, or was told, of these units of these jobs, and of jobs that nothing is left of; how
    many.
    """
    removed = 0
    for some in parts(sorted(jobs)):
        of_job = Delivery.job_id.in_(some)
        for part in parts(units):
            mine = (Delivery.tenant_id == tenant_id, of_job, Delivery.unit_id.in_(part))
            removed += tx.execute(delete(Delivery).where(*mine)).rowcount
    for some in parts(sorted(empty)):
        gone = delete(Delivery).where(Delivery.tenant_id == tenant_id, Delivery.job_id.in_(some))
        removed += tx.execute(gone).rowcount
    return removed


def uploads(tx: Connection, tenant_id: str, sha256s: Sequence[str]) -> list[str]:
    """Remove what was sent ahead of these photos; returns the keys of the objects."""
    keys: list[str] = []
    for some in parts(sorted(sha256s)):
        mine = (Upload.tenant_id == tenant_id, Upload.sha256.in_(some))
        keys += tx.execute(select(Upload.storage_key).where(*mine)).scalars()
        tx.execute(delete(Upload).where(*mine))
    return keys


def consents(tx: Connection, tenant_id: str, people: Iterable[uuid.UUID]) -> None:
    """Remove what was noted when the consent of these people changed. Such events are of no job, and so few."""
    of_none = (Event.tenant_id == tenant_id, Event.job_id.is_(None), Event.kind == CONSENT_CHANGED)
    for person in people:
        tx.execute(delete(Event).where(*of_none, cast(Event.data, Text).like(f"%{person}%")))


def galleries(
    tx: Connection, tenant_id: str, jobs: Sequence[uuid.UUID], empty: Sequence[uuid.UUID]
) -> dict[uuid.UUID, int]:
    """Fence out whoever builds the galleries of these jobs and make them due; those of empty jobs go.

    Returns for each the token up to which what was built shows the person.
    """
    found: dict[uuid.UUID, int] = {}
    gone = set(empty)
    for some in parts(sorted(jobs)):
        mine = (Gallery.tenant_id == tenant_id, Gallery.job_id.in_(some))
        rows = tx.execute(select(Gallery.job_id, Gallery.lease_token).where(*mine).with_for_update()).all()
        found |= {row.job_id: EVERY_TOKEN if row.job_id in gone else row.lease_token for row in rows}
        gallery_rows.void(tx, tenant_id, some)
        gallery_rows.drop(tx, tenant_id, [job_id for job_id in some if job_id in gone])
    return found
