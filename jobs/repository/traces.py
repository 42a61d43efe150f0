"""What is known of a person that is about to be erased, and what of it may lie elsewhere than in the tables.

Read before the rows go: workers are told of it, the store is cleared by it, and whoever wants to verify looks for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from jobs.models import ARCHIVED_RENDERS, ARCHIVED_UNITS, Identity, Render, Unit, WeightSet
from jobs.repository.parts import parts


@dataclass
class Traces:
    """Ids and names of what goes: people by id with their external ids, units, renders, photo sets, weight sets by id
    and fingerprint, photos by SHA-256.

    `claimed` are those of the units that a worker has had, so that its spool may hold pictures of them. `prefixes` are
    where a worker that draws or generates at this moment may yet store an object. `galleries` are the touched jobs with
    the token up to which their pages are older than the erasure. `folders` are those of every render that a worker has
    had: objects of lost claims may have been there that no row names, and a bucket may keep versions of them.
    """

    people: dict[uuid.UUID, str] = field(default_factory=dict)
    units: list[uuid.UUID] = field(default_factory=list)
    claimed: list[uuid.UUID] = field(default_factory=list)
    renders: list[uuid.UUID] = field(default_factory=list)
    photo_sets: list[uuid.UUID] = field(default_factory=list)
    weight_sets: list[uuid.UUID] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    galleries: dict[uuid.UUID, int] = field(default_factory=dict)


def of(
    tx: Connection,
    tenant_id: str,
    *,
    people: Iterable[uuid.UUID],
    photo_sets: Sequence[uuid.UUID],
    weight_sets: Sequence[uuid.UUID],
) -> Traces:
    """The traces of these people and of what was made from them; photos and galleries follow as they are erased."""
    found = Traces(photo_sets=list(photo_sets), weight_sets=list(weight_sets))
    for some in parts(sorted(people)):
        names = select(Identity.id, Identity.external_id).where(Identity.tenant_id == tenant_id, Identity.id.in_(some))
        found.people |= {row.id: row.external_id for row in tx.execute(names)}
    for some in parts(weight_sets):
        _add_weight_sets(tx, tenant_id, some, found)
    for some in parts(photo_sets):
        _add_units(tx, tenant_id, some, found)
    return found


def _add_weight_sets(tx: Connection, tenant_id: str, ids: Sequence[uuid.UUID], found: Traces) -> None:
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.id.in_(ids))
    for row in tx.execute(select(WeightSet.fingerprint, WeightSet.state).where(*mine)):
        found.fingerprints.append(row.fingerprint)
        if row.state == "generating":
            found.prefixes.append(f"{tenant_id}/weights/{row.fingerprint}-")


def _add_units(tx: Connection, tenant_id: str, sets: Sequence[uuid.UUID], found: Traces) -> None:
    for units, renders in ((Unit.__table__, Render.__table__), (ARCHIVED_UNITS, ARCHIVED_RENDERS)):
        mine = (units.c.tenant_id == tenant_id, units.c.photo_set_id.in_(sets))
        rows = tx.execute(select(units.c.id, units.c.lease_token).where(*mine)).all()
        found.units += [row.id for row in rows]
        claimed = {row.id for row in rows if row.lease_token}
        found.claimed += claimed
        of_units = (renders.c.tenant_id == tenant_id, renders.c.unit_id.in_(select(units.c.id).where(*mine)))
        columns: tuple[Any, ...] = (renders.c.id, renders.c.job_id, renders.c.unit_id, renders.c.state)
        for row in tx.execute(select(*columns).where(*of_units)):
            found.renders.append(row.id)
            folder = f"{tenant_id}/{row.job_id}/{row.id}/"
            if row.unit_id in claimed:
                found.folders.append(folder)
            if row.state == "waiting" and row.unit_id in claimed:
                found.prefixes.append(folder)
