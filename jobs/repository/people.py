"""People in the tables: identities, photos and photo sets, known or new.

Registered in short transactions of their own before a job's, sorted by key: so two producers that enqueue the same
people at once neither deadlock nor wait for each other's whole job, and the planner knows the tables' size before
hundreds of thousands of renders refer to them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.models import Base, Identity, Photo, PhotoSet, PhotoSetPhoto, Tenant, new_id, utcnow
from jobs.repository.writer import PersonRows

SetKey = tuple[uuid.UUID, str]


def register(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> None:
    """Insert what is new of some hundreds of people; what a person's consent says is brought up to date."""
    _add_missing(tx, Tenant, [{"id": tenant_id, "created_at": utcnow()}], ["id"])
    in_order = sorted(people, key=lambda person: person.external_id)
    own = {"tenant_id": tenant_id, "created_at": utcnow()}
    rows = [{**own, "id": new_id(), "external_id": person.external_id} for person in in_order]
    _add_missing(tx, Identity, rows, ["tenant_id", "external_id"])
    for person in in_order:
        told = {"consent_reference": person.consent_reference, "purpose": person.purpose}
        told = {name: value for name, value in told.items() if value is not None}
        if told:
            mine = (Identity.tenant_id == tenant_id, Identity.external_id == person.external_id)
            tx.execute(update(Identity).where(*mine).values(**told))
    photos = {photo["sha256"]: photo for person in people for photo in person.photos}
    rows = [{**own, "id": new_id(), **photos[sha256]} for sha256 in sorted(photos)]
    _add_missing(tx, Photo, rows, ["tenant_id", "sha256"])
    _add_photo_sets(tx, tenant_id, in_order, sorted(photos))


def find(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> dict[str, tuple[uuid.UUID, uuid.UUID]]:
    """For each external id of registered people: (identity id, photo set id)."""
    identities = _identity_ids(tx, tenant_id, people)
    sets = _photo_set_ids(tx, tenant_id, people, identities)
    return {
        person.external_id: (
            identities[person.external_id],
            sets[identities[person.external_id], person.photo_set_fingerprint],
        )
        for person in people
    }


def analyze(tx: Connection) -> None:
    """Tell PostgreSQL's planner how large the tables of people have become; SQLite does without."""
    if tx.dialect.name == "postgresql":
        tx.execute(text("ANALYZE identities, photo_sets"))


def _add_missing(tx: Connection, table: type[Base], rows: Sequence[dict[str, Any]], key: Sequence[str]) -> None:
    """Insert the rows whose key is not there yet; others may be inserting the same at this moment."""
    if rows:
        statement = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert(table)
        tx.execute(statement.on_conflict_do_nothing(index_elements=list(key)), list(rows))


def _add_photo_sets(tx: Connection, tenant_id: str, people: Sequence[PersonRows], sha256s: Sequence[str]) -> None:
    identities = _identity_ids(tx, tenant_id, people)
    rows = [
        {
            "tenant_id": tenant_id,
            "id": new_id(),
            "identity_id": identities[person.external_id],
            "fingerprint": person.photo_set_fingerprint,
            "created_at": utcnow(),
        }
        for person in people
    ]
    _add_missing(tx, PhotoSet, rows, ["tenant_id", "identity_id", "fingerprint"])
    sets = _photo_set_ids(tx, tenant_id, people, identities)
    photo_ids: dict[str, uuid.UUID] = {}
    for start in range(0, len(sha256s), 500):
        mine = (Photo.tenant_id == tenant_id, Photo.sha256.in_(sha256s[start : start + 500]))
        photo_ids |= {row.sha256: row.id for row in tx.execute(select(Photo.sha256, Photo.id).where(*mine))}
    places = [
        {
            "tenant_id": tenant_id,
            "photo_set_id": sets[identities[person.external_id], person.photo_set_fingerprint],
            "position": position,
            "photo_id": photo_ids[photo["sha256"]],
        }
        for person in people
        for position, photo in enumerate(person.photos)
    ]
    _add_missing(tx, PhotoSetPhoto, places, ["tenant_id", "photo_set_id", "position"])


def _identity_ids(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> dict[str, uuid.UUID]:
    named = Identity.external_id.in_([person.external_id for person in people])
    statement = select(Identity.external_id, Identity.id).where(Identity.tenant_id == tenant_id, named)
    return {row.external_id: row.id for row in tx.execute(statement)}


def _photo_set_ids(
    tx: Connection, tenant_id: str, people: Sequence[PersonRows], identities: dict[str, uuid.UUID]
) -> dict[SetKey, uuid.UUID]:
    wanted = [(identities[person.external_id], person.photo_set_fingerprint) for person in people]
    statement = select(PhotoSet.identity_id, PhotoSet.fingerprint, PhotoSet.id).where(
        PhotoSet.tenant_id == tenant_id, tuple_(PhotoSet.identity_id, PhotoSet.fingerprint).in_(wanted)
    )
    return {(row.identity_id, row.fingerprint): row.id for row in tx.execute(statement)}
