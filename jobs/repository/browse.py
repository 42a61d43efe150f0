"""What somebody who looks at one job asks for: some of its people, some of its pictures, a page at a time.

A page begins after the last key of the one before it. People and pictures are found by the units of the job, so that
a filter costs what it finds and not the whole job; of the archive as of the queue.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, RowMapping, Select, select, union_all
from sqlalchemy.sql import ColumnElement

from jobs.models import ARCHIVED_RENDERS, ARCHIVED_UNITS, Identity, Job, Render, Unit
from jobs.models_outside import Gallery
from jobs.repository import queries
from jobs.repository.tenants import OPEN_STATES

PeopleWith = Literal["failed", "open"]
_SIDES = ((Unit.__table__, Render.__table__), (ARCHIVED_UNITS, ARCHIVED_RENDERS))


@dataclass(frozen=True)
class Pictures:
    """Which of a job's pictures: of one person, in one state, of one prompt, failed for one reason; None: any."""

    identity_id: uuid.UUID | None = None
    state: str | None = None
    prompt_name: str | None = None
    error_code: str | None = None


@dataclass(frozen=True)
class People:
    """Which of a job's people: with failed or open pictures, with a name that begins so; None: any."""

    having: PeopleWith | None = None
    named: str | None = None


def pictures(
    tx: Connection, tenant_id: str, job_id: uuid.UUID, which: Pictures, *, after: int = -1, limit: int
) -> list[RowMapping]:
    """The next pictures after this ordinal, in the order in which they were asked for; from `render_metrics`."""
    ids = [row.id for row in tx.execute(pictures_page(tenant_id, job_id, which, after=after, limit=limit))]
    rows = tx.execute(queries.renders_of(tenant_id, ids)).mappings().all() if ids else ()
    return sorted(rows, key=lambda row: (row["ordinal"], row["render_id"].bytes))


def pictures_page(tenant_id: str, job_id: uuid.UUID, which: Pictures, *, after: int, limit: int) -> Select[Any]:
    """The ids of these pictures with their ordinals."""
    parts = []
    for units, renders in _SIDES:
        part = select(renders.c.id, renders.c.ordinal)
        part = part.where(renders.c.tenant_id == tenant_id, renders.c.ordinal > after)
        for condition in _of_pictures(tenant_id, job_id, which, units, renders):
            part = part.where(condition)
        parts.append(select(part.order_by(renders.c.ordinal).limit(limit).subquery()))
    both = union_all(*parts).subquery()
    return select(both.c.id, both.c.ordinal).order_by(both.c.ordinal).limit(limit)


def _of_pictures(
    tenant_id: str, job_id: uuid.UUID, which: Pictures, units: Any, renders: Any
) -> list[ColumnElement[bool]]:
    """What these pictures have in common. Where they are found by their units, which are the job's, the job itself is
    not named: SQLite, which nobody has told how large a job is, would read all of it by its index.
    """
    told: list[ColumnElement[bool]] = []
    of_job = select(units.c.id).where(units.c.tenant_id == tenant_id, units.c.job_id == job_id)
    if which.identity_id is not None:
        told.append(renders.c.unit_id.in_(of_job.where(units.c.identity_id == which.identity_id)))
    if which.state is not None:
        told.append(renders.c.state == which.state)
    if which.prompt_name is not None:
        told.append(renders.c.prompt_name == which.prompt_name)
    if which.error_code is not None:
        told.append(renders.c.error_code == which.error_code)
    if which.state == "failed":
        told.append(renders.c.unit_id.in_(of_job.where(units.c.renders_failed > 0)))
    is_by_units = which.identity_id is not None or which.state == "failed"
    return told if is_by_units else [renders.c.job_id == job_id, *told]


def beside(
    tx: Connection, tenant_id: str, job_id: uuid.UUID, ordinal: int
) -> tuple[uuid.UUID | None, uuid.UUID | None]:
    """The ids of the pictures of a job before and after this ordinal."""
    found = [tx.execute(neighbour(tenant_id, job_id, ordinal, is_next=is_next)).first() for is_next in (False, True)]
    before, after = (None if row is None else row.id for row in found)
    return before, after


def neighbour(tenant_id: str, job_id: uuid.UUID, ordinal: int, *, is_next: bool) -> Select[Any]:
    """The id of the next or previous picture of a job; a step in the index of each side."""
    parts = []
    for _, renders in _SIDES:
        beyond = renders.c.ordinal > ordinal if is_next else renders.c.ordinal < ordinal
        part = select(renders.c.id, renders.c.ordinal).where(renders.c.tenant_id == tenant_id)
        part = part.where(renders.c.job_id == job_id, beyond)
        order = renders.c.ordinal if is_next else renders.c.ordinal.desc()
        parts.append(select(part.order_by(order).limit(1).subquery()))
    both = union_all(*parts).subquery()
    return select(both.c.id).order_by(both.c.ordinal if is_next else both.c.ordinal.desc()).limit(1)


def people(
    tx: Connection, tenant_id: str, job_id: uuid.UUID, which: People, *, after: uuid.UUID | None = None, limit: int
) -> list[RowMapping]:
    """The next people in the order in which they became known; from the view `identity_status`."""
    ids = tx.execute(people_page(tenant_id, job_id, which, after=after, limit=limit)).scalars().all()
    return sorted(_people(tx, tenant_id, job_id, ids), key=lambda row: row["identity_id"].bytes)


def person(tx: Connection, tenant_id: str, job_id: uuid.UUID, identity_id: uuid.UUID) -> RowMapping | None:
    """One person of a job."""
    return next(iter(_people(tx, tenant_id, job_id, [identity_id])), None)


def _people(
    tx: Connection, tenant_id: str, job_id: uuid.UUID, identity_ids: Sequence[uuid.UUID]
) -> Sequence[RowMapping]:
    view = queries.IDENTITY_STATUS
    mine = (view.c.tenant_id == tenant_id, view.c.job_id == job_id, view.c.identity_id.in_(identity_ids))
    return tx.execute(select(view).where(*mine)).mappings().all() if identity_ids else ()


def people_page(
    tenant_id: str, job_id: uuid.UUID, which: People, *, after: uuid.UUID | None, limit: int
) -> Select[Any]:
    """The ids of these people."""
    parts = []
    for units, _ in _SIDES:
        part = select(units.c.identity_id).where(units.c.tenant_id == tenant_id, units.c.job_id == job_id)
        if after is not None:
            part = part.where(units.c.identity_id > after)
        if which.having == "failed":
            part = part.where(units.c.renders_failed > 0)
        if which.having == "open":
            part = part.where(units.c.state.in_(OPEN_STATES))
        if which.named:
            begins = Identity.external_id.startswith(which.named, autoescape=True)
            named = select(Identity.id).where(Identity.tenant_id == tenant_id, begins)
            part = part.where(units.c.identity_id.in_(named))
        part = part.group_by(units.c.identity_id).order_by(units.c.identity_id).limit(limit)
        parts.append(select(part.subquery()))
    both = union_all(*parts).subquery()
    return select(both.c.identity_id).distinct().order_by(both.c.identity_id).limit(limit)


def jobs_of_person(tx: Connection, tenant_id: str, identity_id: uuid.UUID, *, limit: int) -> list[Row[Any]]:
    """The newest jobs that a person is in: id, key, name and when each was enqueued."""
    parts = []
    for units, _ in _SIDES:
        parts.append(select(units.c.job_id).where(units.c.tenant_id == tenant_id, units.c.identity_id == identity_id))
    mine = (Job.tenant_id == tenant_id, Job.id.in_(union_all(*parts)))
    statement = select(Job.id, Job.key, Job.name, Job.created_at).where(*mine)
    return list(tx.execute(statement.order_by(Job.id.desc()).limit(limit)))


def gallery(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> RowMapping | None:
    """When a job's gallery was built, under which token, and whether it is to be built anew; None: never asked for."""
    mine = (Gallery.tenant_id == tenant_id, Gallery.job_id == job_id)
    statement = select(Gallery.built_at, Gallery.built_token, Gallery.due_at, Gallery.pictures).where(*mine)
    return tx.execute(statement).mappings().one_or_none()
