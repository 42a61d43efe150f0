"""People in the tables: identities, photos and photo sets, known or new.

Registered in short transactions of their own before a job's, sorted by keys: so two producers that enqueue the same
people at once neither deadlock nor wait for each other's whole job, and the planner knows the tables' size before
hundreds of thousands of renders refer to them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import PersonErased
from jobs.models import Identity, JobPicture, Photo, PhotoSet, PhotoSetMember, PhotoSetPhoto, Tenant
from jobs.orm import Base, new_id, utcnow
from jobs.repository.jobs import record_event
from jobs.repository.writer import PersonRows

SetKey = tuple[uuid.UUID, str]
CONSENT = ("consent_reference", "purpose")
CONSENT_CHANGED = "consent.changed"


@dataclass(frozen=True)
class Named:
    """A person by id and by the caller's own name."""

    id: uuid.UUID
    external_id: str


def register(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> set[str]:
    """Insert what is new of some hundreds of people; what a person's consent says is brought up to date.

    Those that others are made of come in a call before them. Returns the SHA-256 of each photo whose row is new. Raises
    PersonErased, IntegrityError when one of them is erased at this moment.
    """
    _add_missing(tx, Tenant, [{"id": tenant_id, "created_at": utcnow()}], ["id"])
    # By fingerprint too: somebody may come with several sets at once, such as sliders, and another call may name those
    # in another order. PostgreSQL would end one of two that insert the same rows from both ends.
    in_order = sorted(people, key=lambda person: (person.external_id, person.photo_set_fingerprint))
    own = {"tenant_id": tenant_id, "created_at": utcnow()}
    rows = [{**own, "id": new_id(), "external_id": person.external_id} for person in in_order]
    _add_missing(tx, Identity, rows, ["tenant_id", "external_id"])
    _bring_consent_up_to_date(tx, tenant_id, in_order)
    photos = {photo["sha256"]: photo for person in people for photo in person.photos}
    new = register_pictures(tx, tenant_id, photos.values())
    _add_photo_sets(tx, tenant_id, in_order, sorted(photos))
    return new


def _bring_consent_up_to_date(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> None:
    """Keep what these people's consent is said to be now; that it was another before is noted, without what it was."""
    columns = (Identity.id, Identity.external_id, *(getattr(Identity, name) for name in CONSENT))
    named = Identity.external_id.in_([person.external_id for person in people])
    rows = tx.execute(select(*columns).where(Identity.tenant_id == tenant_id, named).order_by(Identity.external_id))
    known = {row.external_id: row for row in rows}
    for person in people:
        row = known.get(person.external_id)
        told = {name: value for name in CONSENT if (value := getattr(person, name)) is not None}
        changed = [name for name, value in told.items() if row is not None and getattr(row, name) != value]
        if row is None or not changed:
            continue
        tx.execute(update(Identity).where(Identity.tenant_id == tenant_id, Identity.id == row.id).values(**told))
        if any(getattr(row, name) is not None for name in changed):
            record_event(tx, tenant_id, CONSENT_CHANGED, data={"identity": str(row.id), "changed": changed})


def register_pictures(tx: Connection, tenant_id: str, pictures: Iterable[Mapping[str, Any]]) -> set[str]:
    """Insert the rows of photos, or of other given pictures, that are new; the tenant is registered. Returns the
    SHA-256 of those.
    """
    own = {"tenant_id": tenant_id, "created_at": utcnow()}
    rows = [{**own, "id": new_id(), **one} for one in sorted(pictures, key=lambda one: str(one["sha256"]))]
    _add_missing(tx, Photo, rows, ["tenant_id", "sha256"])
    made = {row["id"] for row in rows}
    found = _photo_ids(tx, tenant_id, [row["sha256"] for row in rows])
    return {sha256 for sha256, photo_id in found.items() if photo_id in made}


def look_up(tx: Connection, tenant_id: str, identity: str | uuid.UUID) -> Named | None:
    """The person with this external id or, where nobody has it, with this id."""
    columns = select(Identity.id, Identity.external_id).where(Identity.tenant_id == tenant_id)
    row = tx.execute(columns.where(Identity.external_id == str(identity))).one_or_none()
    if row is None:
        try:
            row = tx.execute(columns.where(Identity.id == uuid.UUID(str(identity)))).one_or_none()
        except ValueError:  # no id either
            return None
    return None if row is None else Named(*row)


def name_pictures(tx: Connection, tenant_id: str, job_id: uuid.UUID, sha256s: Sequence[str]) -> None:
    """Note which registered pictures a job was given. Raises PersonErased when one is there no longer."""
    own, found = {"tenant_id": tenant_id, "job_id": job_id}, _photo_ids(tx, tenant_id, sha256s)
    _require_all(tenant_id, sha256s, found)
    rows = [{**own, "photo_id": photo_id} for photo_id in found.values()]
    _add_missing(tx, JobPicture, rows, ["tenant_id", "job_id", "photo_id"])


def find(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> dict[str, tuple[uuid.UUID, uuid.UUID]]:
    """For each external id of registered people: (identity id, photo set id). Raises PersonErased when one of them is
    there no longer.
    """
    identities = _identity_ids(tx, tenant_id, people)
    sets = _photo_set_ids(tx, tenant_id, people, identities)
    _require_all(tenant_id, ((identities[one.external_id], one.photo_set_fingerprint) for one in people), sets)
    return {
        person.external_id: (
            identities[person.external_id],
            sets[identities[person.external_id], person.photo_set_fingerprint],
        )
        for person in people
    }


def _require_all(tenant_id: str, wanted: Iterable[Any], found: Mapping[Any, Any]) -> None:
    if any(one not in found for one in wanted):
        raise PersonErased(f"somebody of tenant {tenant_id!r} was erased while a job was enqueued; enqueue it again")


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
            "kind": person.kind,
            "weight_set_fingerprint": person.weight_set_fingerprint,
        }
        for person in people
    ]
    _add_missing(tx, PhotoSet, rows, ["tenant_id", "identity_id", "fingerprint"])
    sets = _photo_set_ids(tx, tenant_id, people, identities)
    photo_ids = _photo_ids(tx, tenant_id, sha256s)
    _require_all(tenant_id, ((identities[one.external_id], one.photo_set_fingerprint) for one in people), sets)
    _require_all(tenant_id, sha256s, photo_ids)
    places, members = [], []
    for person in people:
        set_id = sets[identities[person.external_id], person.photo_set_fingerprint]
        own = {"tenant_id": tenant_id, "photo_set_id": set_id}
        faces = person.faces or [None] * len(person.photos)
        for position, (photo, face) in enumerate(zip(person.photos, faces, strict=True)):
            places.append({**own, "position": position, "photo_id": photo_ids[photo["sha256"]], "face": face})
        for position, one in enumerate(person.members):
            made = {"member_photo_set_id": one.photo_set_id, "weight": one.weight}
            members.append({**own, "position": position, **made, "region": one.region, "prompt": one.prompt})
    _add_missing(tx, PhotoSetPhoto, places, ["tenant_id", "photo_set_id", "position"])
    _add_missing(tx, PhotoSetMember, members, ["tenant_id", "photo_set_id", "position"])


def _photo_ids(tx: Connection, tenant_id: str, sha256s: Sequence[str]) -> dict[str, uuid.UUID]:
    found: dict[str, uuid.UUID] = {}
    for start in range(0, len(sha256s), 500):
        mine = (Photo.tenant_id == tenant_id, Photo.sha256.in_(sha256s[start : start + 500]))
        found |= {row.sha256: row.id for row in tx.execute(select(Photo.sha256, Photo.id).where(*mine))}
    return found


def _identity_ids(tx: Connection, tenant_id: str, people: Sequence[PersonRows]) -> dict[str, uuid.UUID]:
    named = Identity.external_id.in_([person.external_id for person in people])
    statement = select(Identity.external_id, Identity.id).where(Identity.tenant_id == tenant_id, named)
    found = {row.external_id: row.id for row in tx.execute(statement)}
    _require_all(tenant_id, (person.external_id for person in people), found)
    return found


def _photo_set_ids(
    tx: Connection, tenant_id: str, people: Sequence[PersonRows], identities: dict[str, uuid.UUID]
) -> dict[SetKey, uuid.UUID]:
    wanted = [(identities[person.external_id], person.photo_set_fingerprint) for person in people]
    statement = select(PhotoSet.identity_id, PhotoSet.fingerprint, PhotoSet.id).where(
        PhotoSet.tenant_id == tenant_id, tuple_(PhotoSet.identity_id, PhotoSet.fingerprint).in_(wanted)
    )
    return {(row.identity_id, row.fingerprint): row.id for row in tx.execute(statement)}
