"""Writing a job's units and renders in bulk, in bounded memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from jobs.database import epoch_now
from jobs.models import Render, Unit
from jobs.orm import new_id, utcnow
from jobs.repository import planner

ROWS_PER_STATEMENT = 5_000


@dataclass(frozen=True)
class MemberRow:
    """One of the photo sets that another is made of; `region` is a box of four shares, or {"mask": picture}."""

    photo_set_id: uuid.UUID
    weight: float
    region: list[float] | dict[str, Any] | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class PersonRows:
    """What one person adds to a job: an identity, a photo set, and units of up to K renders each.

    `faces` says for each photo which face is meant; it may be left empty when none says so.
    """

    external_id: str
    consent_reference: str | None
    purpose: str | None
    photos: Sequence[dict[str, Any]]  # sha256, storage_key, media_type, size_bytes, width, height
    photo_set_fingerprint: str
    units: Iterable[Sequence[dict[str, Any]]]  # each render: ordinal, prompt, seed, size and so on
    kind: str = "photos"
    weight_set_fingerprint: str | None = None
    faces: Sequence[str | None] = ()
    members: Sequence[MemberRow] = ()


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

    def add(self, people: Sequence[PersonRows], ids: Mapping[str, tuple[uuid.UUID, uuid.UUID]]) -> None:
        """Insert the units of some hundreds of registered people; `ids` is what `people.find` says of them.

        Who has no units is not drawn, and is not counted among the job's people.
        """
        for person in people:
            identity_id, photo_set_id = ids[person.external_id]
            before = self.units
            for asked in person.units:
                self._add_unit(identity_id, photo_set_id, asked)
            self.identities += self.units > before
        self._flush()
        planner.told(self._tx, "units", self.units)

    def finish(self) -> None:
        """All people are added: what reads the job next plans for as many rows as there are."""
        planner.told(self._tx, "units", self.units)
        planner.told(self._tx, "renders", self.renders)

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
