"""Writing a job's rows in bulk: people, photo sets, units and renders, in bounded memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.database import epoch_now
from jobs.models import Base, Identity, Photo, PhotoSet, PhotoSetPhoto, Render, Unit, new_id, utcnow

ROWS_PER_STATEMENT = 5_000


@dataclass(frozen=True)
class PersonRows:
    """What one person adds to a job: an identity, a photo set, and units of up to K renders each."""

    external_id: str
    consent_reference: str | None
    purpose: str | None
    photos: Sequence[dict[str, Any]]  # sha256, storage_key, media_type, size_bytes, width, height
    photo_set_fingerprint: str
    units: Iterable[Sequence[dict[str, Any]]]  # each render: ordinal, prompt, seed, size and so on


def add_missing(tx: Connection, table: type[Base], rows: Sequence[dict[str, Any]], key: Sequence[str]) -> None:
    """Insert the rows whose key is not there yet; others may be inserting the same at this moment."""
    if rows:
        statement = (sqlite if tx.dialect.name == "sqlite" else postgresql).insert(table)
        tx.execute(statement.on_conflict_do_nothing(index_elements=list(key)), list(rows))


class JobWriter:
    """Adds people to one job inside one transaction and counts what it added."""

    def __init__(
        self, tx: Connection, tenant_id: str, job_id: uuid.UUID, profile: str, priority: int, *, age_seconds: int
    ) -> None:
        self._tx, self._tenant, self._job = tx, tenant_id, job_id
        now = tx.execute(select(epoch_now())).scalar_one()
        self._unit = {
            "tenant_id": tenant_id,
            "job_id": job_id,
            "profile": profile,
            "priority": priority,
            "state": "ready",
            "ready_at": now,
            "sort_key": now - priority * age_seconds,
        }
        self._units: list[dict[str, Any]] = []
        self._renders: list[dict[str, Any]] = []
        self.identities = self.units = self.renders = 0

    def add(self, people: Sequence[PersonRows]) -> None:
        """Insert a chunk of people; `people` should be some hundreds at most."""
        identity_ids = self._add_identities(people)
        photo_set_ids = self._add_photo_sets(people, identity_ids)
        for person in people:
            identity_id = identity_ids[person.external_id]
            photo_set_id = photo_set_ids[identity_id, person.photo_set_fingerprint]
            for asked in person.units:
                self._add_unit(identity_id, photo_set_id, asked)
        self.identities += len(people)
        self._flush()

    def _add_unit(self, identity_id: uuid.UUID, photo_set_id: uuid.UUID, asked: Sequence[dict[str, Any]]) -> None:
        unit_id, now = new_id(), utcnow()
        self._units.append(
            {
                **self._unit,
                "id": unit_id,
                "identity_id": identity_id,
                "photo_set_id": photo_set_id,
                "renders_total": len(asked),
                "created_at": now,
            }
        )
        owner = {"tenant_id": self._tenant, "job_id": self._job, "unit_id": unit_id, "identity_id": identity_id}
        self._renders += [{**owner, "id": new_id(), "state": "waiting", "created_at": now, **row} for row in asked]
        self.units += 1
        self.renders += len(asked)
        if len(self._renders) >= ROWS_PER_STATEMENT:
            self._flush()

    def _flush(self) -> None:
        if self._units:
            self._tx.execute(insert(Unit), self._units)
        if self._renders:
            self._tx.execute(insert(Render), self._renders)
        self._units, self._renders = [], []

    def _add_identities(self, people: Sequence[PersonRows]) -> dict[str, uuid.UUID]:
        rows = [
            {"tenant_id": self._tenant, "id": new_id(), "external_id": p.external_id, "created_at": utcnow()}
            for p in people
        ]
        add_missing(self._tx, Identity, rows, ["tenant_id", "external_id"])
        for person in people:
            told = {"consent_reference": person.consent_reference, "purpose": person.purpose}
            told = {name: value for name, value in told.items() if value is not None}
            if told:
                mine = (Identity.tenant_id == self._tenant, Identity.external_id == person.external_id)
                self._tx.execute(update(Identity).where(*mine).values(**told))
        statement = select(Identity.external_id, Identity.id).where(
            Identity.tenant_id == self._tenant, Identity.external_id.in_([p.external_id for p in people])
        )
        return {row.external_id: row.id for row in self._tx.execute(statement)}

    def _add_photo_sets(
        self, people: Sequence[PersonRows], identity_ids: dict[str, uuid.UUID]
    ) -> dict[tuple[uuid.UUID, str], uuid.UUID]:
        photo_ids = self._add_photos(people)
        wanted = [(identity_ids[p.external_id], p.photo_set_fingerprint) for p in people]
        mine = tuple_(PhotoSet.identity_id, PhotoSet.fingerprint).in_(wanted)
        statement = select(PhotoSet.identity_id, PhotoSet.fingerprint, PhotoSet.id).where(
            PhotoSet.tenant_id == self._tenant, mine
        )
        rows = [
            {
                "tenant_id": self._tenant,
                "id": new_id(),
                "identity_id": owner,
                "fingerprint": mark,
                "created_at": utcnow(),
            }
            for owner, mark in wanted
        ]
        add_missing(self._tx, PhotoSet, rows, ["tenant_id", "identity_id", "fingerprint"])
        found = {(row.identity_id, row.fingerprint): row.id for row in self._tx.execute(statement)}
        places = [
            {
                "tenant_id": self._tenant,
                "photo_set_id": found[identity_ids[person.external_id], person.photo_set_fingerprint],
                "position": position,
                "photo_id": photo_ids[photo["sha256"]],
            }
            for person in people
            for position, photo in enumerate(person.photos)
        ]
        add_missing(self._tx, PhotoSetPhoto, places, ["tenant_id", "photo_set_id", "position"])
        return found

    def _add_photos(self, people: Sequence[PersonRows]) -> dict[str, uuid.UUID]:
        photos = {photo["sha256"]: photo for person in people for photo in person.photos}
        rows = [
            {**photo, "tenant_id": self._tenant, "id": new_id(), "created_at": utcnow()} for photo in photos.values()
        ]
        add_missing(self._tx, Photo, rows, ["tenant_id", "sha256"])
        found: dict[str, uuid.UUID] = {}
        names = list(photos)
        for start in range(0, len(names), 500):
            statement = select(Photo.sha256, Photo.id).where(
                Photo.tenant_id == self._tenant, Photo.sha256.in_(names[start : start + 500])
            )
            found |= {row.sha256: row.id for row in self._tx.execute(statement)}
        return found
