"""Jobs: accepting them, finding them, and what people may still change about them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, cast, func, insert, or_, select, update
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import Event, Job, PhotoSetMember, Render, Unit, WeightSet, WeightSetSource, new_id, utcnow
from jobs.repository import archive, shares

CANCELLED = "cancelled"


@dataclass(frozen=True)
class JobRow:
    """A job as it was accepted."""

    tenant_id: str
    id: uuid.UUID
    key: str
    name: str | None
    content_hash: str
    profile: str
    priority: int
    identities_total: int
    units_total: int
    renders_total: int


_JOB = tuple(getattr(Job, name) for name in JobRow.__dataclass_fields__)


def _find(tx: Connection, *conditions: ColumnElement[bool]) -> JobRow | None:
    row = tx.execute(select(*_JOB).where(*conditions).order_by(Job.id.desc()).limit(1)).one_or_none()
    return JobRow(*row) if row else None


def find_by_key(tx: Connection, tenant_id: str, key: str) -> JobRow | None:
    """The job of this tenant under this idempotency key."""
    return _find(tx, Job.tenant_id == tenant_id, Job.key == key)


def find_by_id(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> JobRow | None:
    """The job of this tenant under this id."""
    return _find(tx, Job.tenant_id == tenant_id, Job.id == job_id)


def newest(tx: Connection, tenant_id: str) -> JobRow | None:
    """The job this tenant enqueued last."""
    return _find(tx, Job.tenant_id == tenant_id)


def add(
    tx: Connection, tenant_id: str, *, key: str, content_hash: str, name: str | None, profile: str, priority: int
) -> uuid.UUID:
    """Insert a job of a registered tenant that has no units yet; its totals follow with `accept`."""
    job_id = new_id()
    row = {"tenant_id": tenant_id, "id": job_id, "key": key, "content_hash": content_hash, "name": name}
    row |= {"profile": profile, "priority": priority, "created_at": utcnow()}
    tx.execute(insert(Job).values(identities_total=0, units_total=0, renders_total=0, **row))
    return job_id


def accept(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, identities: int, units: int, renders: int) -> None:
    """Write down how much the job asks for; the last statement of its transaction."""
    totals = {"identities_total": identities, "units_total": units, "renders_total": renders}
    tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(**totals))
    record_event(tx, tenant_id, "job.enqueued", job_id=job_id, data=totals)


def unit_ids(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, chunk: int = 1_000) -> Iterator[list[uuid.UUID]]:
    """The ids of a job's units that wait, in the order they were made, in chunks."""
    last: uuid.UUID | None = None
    while True:
        waits = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state == "ready")
        statement = select(Unit.id).where(*waits)
        if last is not None:
            statement = statement.where(Unit.id > last)
        ids = list(tx.execute(statement.order_by(Unit.id).limit(chunk)).scalars())
        if not ids:
            return
        yield ids
        last = ids[-1]


def lock(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> None:
    """Hold off every other change of this job until the transaction ends. Raises JobArchived."""
    tx.execute(select(Job.id).where(Job.tenant_id == tenant_id, Job.id == job_id).with_for_update())
    archive.refuse_archived(tx, tenant_id, job_id)


def lock_units(tx: Connection, *which: ColumnElement[bool]) -> None:
    """Wait for whoever changes these units at this moment, and hold off every other change of them.

    What a later statement of this transaction reads of them is so: a claim that was under way has become a lease.
    """
    locked = select(Unit.id).where(*which).order_by(Unit.id).with_for_update().subquery()
    tx.execute(select(func.count()).select_from(locked))


def cancel(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> int:
    """Stop a job: nothing of it is drawn any more, what is drawn stays. Returns how many renders were cancelled.

    A worker in the middle of a batch loses its lease by this, and notices with its next heartbeat.
    """
    lock(tx, tenant_id, job_id)
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state.in_(("ready", "leased", "paused")))
    # Units first: their row locks hold off a worker that is about to claim one, or to record a render.
    lock_units(tx, *mine)
    held = select(Unit.tenant_id, Unit.id, Unit.profile).where(*mine, Unit.state == "leased")
    charges = shares.charged(tx, [(row.tenant_id, row.id, row.profile) for row in tx.execute(held)])
    tx.execute(
        update(Unit)
        .where(*mine)
        .values(
            state="cancelled",
            renders_cancelled=Unit.renders_total - Unit.renders_done - Unit.renders_failed,
            lease_token=Unit.lease_token + 1,
            lease_owner=None,
            lease_until=None,
            finished_at=utcnow(),
        )
    )
    waiting = (Render.tenant_id == tenant_id, Render.job_id == job_id, Render.state == "waiting")
    ended = {"state": "cancelled", "error_code": CANCELLED, "error": "cancelled by request", "finished_at": utcnow()}
    count = tx.execute(update(Render).where(*waiting).values(**ended)).rowcount
    tx.execute(
        update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(cancelled_at=utcnow(), paused_at=None)
    )
    record_event(tx, tenant_id, "job.cancelled", job_id=job_id, data={"renders": count})
    shares.give_back(tx, charges)
    return count


def retry(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, cancelled: bool = False) -> tuple[int, list[uuid.UUID]]:
    """Wait again for every failed render of a job (and the cancelled ones if asked).

    Returns how many wait again, and the units that may be drawn now: none of a paused job, where they are paused too.
    """
    lock(tx, tenant_id, job_id)
    states = ("failed", "cancelled") if cancelled else ("failed",)
    again = (Render.tenant_id == tenant_id, Render.job_id == job_id, Render.state.in_(states))
    touched = list(tx.execute(select(Render.unit_id).where(*again).distinct()).scalars())
    if not touched:
        return 0, []
    reopened_units: list[uuid.UUID] = []
    fresh = {"state": "waiting", "error_code": None, "error": None, "finished_at": None}
    count, state = 0, _state_of_new_units(tx, tenant_id, job_id)
    for unit_id in touched:
        # Settled units only: a unit that a worker holds is the worker's to count.
        unit = (Unit.tenant_id == tenant_id, Unit.id == unit_id, Unit.state.in_(("done", "failed", "cancelled")))
        reopened = tx.execute(
            update(Unit)
            .where(*unit)
            .values(
                state=state,
                ready_at=epoch_now(),
                attempts=0,
                renders_failed=0,
                renders_cancelled=0 if cancelled else Unit.renders_cancelled,
                message_sent_at=None,
                error_code=None,
                error=None,
                finished_at=None,
            )
        )
        if reopened.rowcount:
            reopened_units.append(unit_id)
            count += tx.execute(update(Render).where(*again, Render.unit_id == unit_id).values(**fresh)).rowcount
    _reopen_weight_sets(tx, tenant_id, job_id)
    if cancelled:
        tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(cancelled_at=None))
    record_event(tx, tenant_id, "job.retried", job_id=job_id, data={"renders": count})
    return count, reopened_units if state == "ready" else []


def _state_of_new_units(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> str:
    """What a unit that is added to a locked job is: ready, or paused with the job."""
    job = (Job.tenant_id == tenant_id, Job.id == job_id)
    return "ready" if tx.execute(select(Job.paused_at).where(*job)).scalar_one() is None else "paused"


def _reopen_weight_sets(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> None:
    """Let the failed weight sets of a job's people and sliders be generated anew."""
    people = select(Unit.photo_set_id).where(Unit.tenant_id == tenant_id, Unit.job_id == job_id)
    named = _slider_sets(tx, tenant_id, job_id)
    members = select(PhotoSetMember.member_photo_set_id).where(
        PhotoSetMember.tenant_id == tenant_id,
        or_(PhotoSetMember.photo_set_id.in_(people), PhotoSetMember.photo_set_id.in_(named)),
    )
    sources = select(WeightSetSource.weight_set_id).where(
        WeightSetSource.tenant_id == tenant_id,
        or_(WeightSetSource.photo_set_id.in_(people), WeightSetSource.photo_set_id.in_(members)),
    )
    failed = (WeightSet.tenant_id == tenant_id, WeightSet.state == "failed", WeightSet.id.in_(sources))
    tx.execute(update(WeightSet).where(*failed).values(state="pending", error_code=None, error=None))


def _slider_sets(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> list[uuid.UUID]:
    """The photo sets of the sliders that a job's renders name."""
    # As text: PostgreSQL cannot tell whether two values of type json are equal.
    told = cast(Render.options, Text)
    statement = select(told).where(
        Render.tenant_id == tenant_id, Render.job_id == job_id, Render.options.is_not(None), told.like('%"photo_set"%')
    )
    options = [json.loads(row) for row in tx.execute(statement.distinct()).scalars()]
    return sorted({uuid.UUID(slider["photo_set"]) for one in options for slider in one.get("sliders", ())})


def rerun(
    tx: Connection, tenant_id: str, render_id: uuid.UUID, *, seed: int, age_seconds: int
) -> tuple[uuid.UUID, uuid.UUID] | None:
    """Ask for a render once more, in a unit of its own, under `seed`.

    Returns the ids of the new render and its unit; None if the render is unknown.
    """
    asked = tx.execute(select(Render).where(Render.tenant_id == tenant_id, Render.id == render_id)).one_or_none()
    if asked is None:
        archive.refuse_archived_render(tx, tenant_id, render_id)
        return None
    lock(tx, tenant_id, asked.job_id)
    old = tx.execute(select(Unit).where(Unit.tenant_id == tenant_id, Unit.id == asked.unit_id)).one()
    now = tx.execute(select(epoch_now())).scalar_one()
    unit_id, new_render_id = new_id(), new_id()
    unit = {name: getattr(old, name) for name in ("job_id", "identity_id", "photo_set_id", "profile", "priority")}
    unit |= {"tenant_id": tenant_id, "id": unit_id, "ready_at": now, "renders_total": 1}
    unit["state"] = _state_of_new_units(tx, tenant_id, asked.job_id)
    tx.execute(insert(Unit).values(sort_key=now - old.priority * age_seconds, created_at=utcnow(), **unit))
    last = select(Render.ordinal).where(Render.tenant_id == tenant_id, Render.job_id == asked.job_id)
    ordinal = tx.execute(last.order_by(Render.ordinal.desc()).limit(1)).scalar_one() + 1
    kept = ("job_id", "identity_id", "prompt_name", "prompt", "negative_prompt", "width", "height", "steps")
    row = {name: getattr(asked, name) for name in (*kept, "guidance", "scheduler", "lora_weight", "options")}
    row |= {"tenant_id": tenant_id, "id": new_render_id, "unit_id": unit_id, "rerun_of": render_id, "state": "waiting"}
    tx.execute(insert(Render).values(ordinal=ordinal, seed=seed, created_at=utcnow(), **row))
    totals = {"units_total": Job.units_total + 1, "renders_total": Job.renders_total + 1}
    tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == asked.job_id).values(**totals))
    return new_render_id, unit_id


def record_event(
    tx: Connection,
    tenant_id: str,
    kind: str,
    *,
    job_id: uuid.UUID | None = None,
    unit_id: uuid.UUID | None = None,
    render_id: uuid.UUID | None = None,
    worker: str | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Note that something happened."""
    row = {"tenant_id": tenant_id, "id": new_id(), "at": utcnow(), "kind": kind, "data": data or {}}
    tx.execute(insert(Event).values(job_id=job_id, unit_id=unit_id, render_id=render_id, worker=worker, **row))
