"""Asking again: the failed or cancelled pictures of a job, or one picture under another seed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Text, and_, case, cast, false, func, insert, or_, select, update
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import Job, PhotoSetMember, Render, Unit, WeightSet, WeightSetSource
from jobs.orm import new_id, utcnow
from jobs.repository import archive, weight_sets
from jobs.repository.jobs import lock, record_event
from jobs.repository.reaping import QUARANTINED

SETTLED = ("done", "failed", "cancelled")
CHUNK = 500


@dataclass(frozen=True)
class Which:
    """The renders that are to wait again: those that failed, are quarantined, were cancelled; with a `code`, of the
    first two kinds those that have it.
    """

    failed: bool = True
    quarantined: bool = False
    cancelled: bool = False
    code: str | None = None

    def renders(self) -> ColumnElement[bool]:
        """The condition that a render meets which is to wait again."""
        is_quarantined = Render.error_code == QUARANTINED
        ordinary = Render.error_code.is_(None) | ~is_quarantined
        kinds = [ordinary] * self.failed + [is_quarantined] * self.quarantined
        failed = or_(false(), *kinds) if self.code is None else Render.error_code == self.code
        cancelled = [Render.state == "cancelled"] * self.cancelled
        return or_(and_(Render.state == "failed", failed), *cancelled)


def retry(tx: Connection, tenant_id: str, job_id: uuid.UUID, which: Which | None = None) -> tuple[int, list[uuid.UUID]]:
    """Wait again for a job's renders that ended without a picture: those failed for another reason than quarantine, or
    `which`.

    Returns how many wait again, and the units that may be drawn now: none of a paused job, where they are paused too.
    Raises JobArchived. The caller looks at the tenant's limits, in the same transaction.
    """
    which = which or Which()
    lock(tx, tenant_id, job_id)
    again = (Render.tenant_id == tenant_id, Render.job_id == job_id, which.renders())
    touched = select(Render.unit_id).where(*again).distinct().order_by(Render.unit_id)
    ids = list(tx.execute(touched).scalars())
    count, reopened, state = 0, [], _state_of_new_units(tx, tenant_id, job_id)
    for start in range(0, len(ids), CHUNK):
        # Settled units only: a unit that a worker holds is the worker's to count.
        mine = (Unit.tenant_id == tenant_id, Unit.id.in_(ids[start : start + CHUNK]), Unit.state.in_(SETTLED))
        settled = list(tx.execute(select(Unit.id).where(*mine).order_by(Unit.id).with_for_update()).scalars())
        fresh = {"state": "waiting", "error_code": None, "error": None, "finished_at": None}
        count += tx.execute(update(Render).where(*again, Render.unit_id.in_(settled)).values(**fresh)).rowcount
        _reopen(tx, tenant_id, settled, state)
        reopened += settled
    if not reopened:
        return 0, []
    _reopen_weight_sets(tx, tenant_id, job_id, which)
    if which.cancelled:
        tx.execute(update(Job).where(Job.tenant_id == tenant_id, Job.id == job_id).values(cancelled_at=None))
    record_event(tx, tenant_id, "job.retried", job_id=job_id, data={"renders": count})
    return count, reopened if state == "ready" else []


def _reopen(tx: Connection, tenant_id: str, unit_ids: Sequence[uuid.UUID], state: str) -> None:
    """Let settled units wait, with the counters that their renders say.

    One that a worker was lost with stays suspected: it is drawn alone, and ends after two more.
    """
    left = {name: _count_of(name) for name in ("failed", "cancelled")}
    keeps_reason = left["failed"] > 0
    tx.execute(
        update(Unit)
        .where(Unit.tenant_id == tenant_id, Unit.id.in_(unit_ids))
        .values(
            state=state,
            lease_owner=None,
            ready_at=epoch_now(),
            attempts=0,
            lost_workers=case((Unit.lost_workers > 0, 1), else_=0),
            renders_failed=left["failed"],
            renders_cancelled=left["cancelled"],
            message_sent_at=None,
            error_code=case((keeps_reason, Unit.error_code), else_=None),
            error=case((keeps_reason, Unit.error), else_=None),
            finished_at=None,
        )
    )


def _count_of(state: str) -> ColumnElement[int]:
    """How many renders of the unit that is updated are in this state."""
    mine = (Render.tenant_id == Unit.tenant_id, Render.unit_id == Unit.id, Render.state == state)
    return select(func.count()).select_from(Render).where(*mine).correlate(Unit).scalar_subquery()


def quarantined(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> int:
    """How many renders of a job are quarantined."""
    mine = (Render.tenant_id == tenant_id, Render.job_id == job_id, Render.state == "failed")
    statement = select(func.count()).select_from(Render).where(*mine, Render.error_code == QUARANTINED)
    return tx.execute(statement).scalar_one()


def _state_of_new_units(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> str:
    """What a unit that is added to a locked job is: ready, or paused with the job."""
    job = (Job.tenant_id == tenant_id, Job.id == job_id)
    return "ready" if tx.execute(select(Job.paused_at).where(*job)).scalar_one() is None else "paused"


def _reopen_weight_sets(tx: Connection, tenant_id: str, job_id: uuid.UUID, which: Which) -> None:
    """Let the failed weight sets of a job's people and sliders be generated anew: quarantined ones, and those that
    were left by lost workers, with a clean slate where quarantined renders are asked for, else not.
    """
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
    failed, code = WeightSet.state == "failed", WeightSet.error_code
    again = and_(failed, or_(code.is_(None), code != QUARANTINED))
    if which.quarantined or which.code == QUARANTINED:
        again = or_(failed, weight_sets.is_expired())
    fresh = {"state": "pending", "attempts": 0, "error_code": None, "error": None}
    mine = (WeightSet.tenant_id == tenant_id, WeightSet.id.in_(sources))
    tx.execute(update(WeightSet).where(*mine, again).values(**fresh))


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
    mine = select(Render).where(Render.tenant_id == tenant_id, Render.id == render_id)
    asked = tx.execute(mine).one_or_none()
    if asked is not None:
        lock(tx, tenant_id, asked.job_id)
        asked = tx.execute(mine).one_or_none()  # somebody who held the lock may have erased it
    if asked is None:
        archive.refuse_archived_render(tx, tenant_id, render_id)
        return None
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
