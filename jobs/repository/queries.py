"""What people ask, read from the documented views.

These are `job_status`, `identity_status`, `render_metrics`, `render_outputs` and, of the fleet, `shift_metrics`; each
reads the archive too. Whatever is listed is read a page at a time: a page begins after the last key of the one before
it and walks an index, so that the last page costs as much as the first.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import JSON, Boolean, Connection, RowMapping, Select, and_, func, select, table, union_all
from sqlalchemy.sql import column
from sqlalchemy.types import TypeEngine
from sqlalchemy.types import Uuid as UuidType

from jobs.database import epoch_now
from jobs.models import ARCHIVED_EVENTS, ARCHIVED_RENDERS, ARCHIVED_UNITS, Event, Job, Render, Unit
from jobs.models_fleet import Worker
from jobs.orm import Utc, utcnow

PAGE = 1_000
_IDS_AT_ONCE = 500
_LAST_ORDINAL = 2**31 - 1  # more than the column can hold is an error on PostgreSQL

_TYPES: dict[str, TypeEngine[Any]] = {
    "job_id": UuidType(),
    "identity_id": UuidType(),
    "unit_id": UuidType(),
    "render_id": UuidType(),
    "rerun_of": UuidType(),
    "created_at": Utc(),
    "finished_at": Utc(),
    "paused_at": Utc(),
    "archived_at": Utc(),
    "options": JSON(none_as_null=True),
    "id": UuidType(),
    "began_at": Utc(),
    "ended_at": Utc(),
    "batch_sizes": JSON(none_as_null=True),
    "ran_dry": Boolean(),
}


def _view(name: str, columns: str) -> Any:
    return table(name, *(column(c, _TYPES.get(c)) for c in columns.split()))


JOB_STATUS = _view(
    "job_status",
    "tenant_id job_id key name profile priority state identities units renders waiting running done failed cancelled "
    "created_at finished_at paused_at archived_at",
)
IDENTITY_STATUS = _view(
    "identity_status",
    "tenant_id job_id identity_id external_id state renders waiting done failed cancelled error_code error finished_at",
)
RENDER_METRICS = _view(
    "render_metrics",
    "tenant_id job_id job_key identity_id external_id unit_id render_id rerun_of ordinal prompt_name prompt "
    "final_prompt negative_prompt seed width height steps guidance scheduler lora_weight state error_code error "
    "storage_key media_type size_bytes sha256 id_similarity id_similarity_reason recogniser model_fingerprint "
    "weight_set_fingerprint device worker batch_size seconds_weights seconds_merge seconds_denoise seconds_decode "
    "seconds_encode seconds_upload created_at finished_at options drawn_seed draws output_width output_height "
    "seconds_detail seconds_finish detail_faces",
)
RENDER_OUTPUTS = _view(
    "render_outputs", "tenant_id job_id render_id name storage_key media_type width height size_bytes sha256"
)
SHIFT_METRICS = _view(
    "shift_metrics",
    "id worker worker_id profile device version began_at ended_at seconds units people renders pictures places batches "
    "mixed generated batch_sizes ran_dry seconds_loading seconds_warming seconds_before seconds_drawing "
    "seconds_between seconds_preparing idle_share busy_share fill",
)


def jobs(tx: Connection, tenant_id: str, *, limit: int = 50, after: uuid.UUID | None = None) -> list[RowMapping]:
    """The tenant's newest jobs, or those made before the job `after`; from the view `job_status`.

    A page of ids first, then each of them: a view that sums cannot be asked for several without summing all.
    """
    ids = tx.execute(jobs_page(tenant_id, limit=limit, after=after)).scalars().all()
    found = (job(tx, tenant_id, job_id) for job_id in ids)
    return [row for row in found if row is not None]


def jobs_page(tenant_id: str, *, limit: int, after: uuid.UUID | None) -> Select[Any]:
    """The ids of a tenant's next jobs, the newest first."""
    wanted = select(Job.id).where(Job.tenant_id == tenant_id)
    if after is not None:
        wanted = wanted.where(Job.id < after)
    return wanted.order_by(Job.id.desc()).limit(limit)


def job(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> RowMapping | None:
    """One job's counts and state, from the view `job_status`."""
    statement = select(JOB_STATUS).where(JOB_STATUS.c.tenant_id == tenant_id, JOB_STATUS.c.job_id == job_id)
    return tx.execute(statement).mappings().one_or_none()


def people(
    tx: Connection, tenant_id: str, job_id: uuid.UUID, *, limit: int = PAGE, after: uuid.UUID | None = None
) -> list[RowMapping]:
    """The people of a job in the order in which they became known, from the view `identity_status`.

    `after` is the `identity_id` of the last one seen.
    """
    view, found, last = IDENTITY_STATUS, list[RowMapping](), after
    while (size := limit - len(found)) > 0:  # a second time where somebody was erased between the two statements
        ids = tx.execute(people_page(tenant_id, job_id, limit=size, after=last)).scalars().all()
        for part in _parts(ids):
            statement = select(view).where(view.c.tenant_id == tenant_id, view.c.job_id == job_id)
            found += tx.execute(statement.where(view.c.identity_id.in_(part))).mappings().all()
        if len(ids) < size:
            break
        last = ids[-1]
    return sorted(found, key=lambda row: row["identity_id"].bytes)


def people_page(tenant_id: str, job_id: uuid.UUID, *, limit: int, after: uuid.UUID | None) -> Select[Any]:
    """The ids of a job's next people, of the queue's tables and the archive's; a person is in one of them."""
    parts = []
    for table_ in (Unit.__table__, ARCHIVED_UNITS):
        part = select(table_.c.identity_id).where(table_.c.tenant_id == tenant_id, table_.c.job_id == job_id)
        if after is not None:
            part = part.where(table_.c.identity_id > after)
        part = part.group_by(table_.c.identity_id).order_by(table_.c.identity_id).limit(limit)
        parts.append(select(part.subquery()))
    both = union_all(*parts).subquery()
    return select(both.c.identity_id).order_by(both.c.identity_id).limit(limit)


def renders(
    tx: Connection,
    tenant_id: str,
    job_id: uuid.UUID,
    *,
    state: str | None = None,
    after: int = -1,
    limit: int | None = None,
) -> Iterator[RowMapping]:
    """The pictures of a job in the order they were asked for, from the view `render_metrics`; a page at a time.

    `after` is the `ordinal` of the last one seen; `limit` of them, and fewer only where there are no more.
    """
    last, left = min(after, _LAST_ORDINAL), limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = tx.execute(renders_page(tenant_id, job_id, state=state, after=last, limit=size)).all()
        found: list[RowMapping] = []
        for part in _parts([row.id for row in page]):
            found += tx.execute(renders_of(tenant_id, part, state=state)).mappings().all()
        yield from sorted(found, key=lambda row: (row["ordinal"], row["render_id"].bytes))
        if len(page) < size:
            return
        last, left = page[-1].ordinal, None if left is None else left - len(found)


def renders_page(tenant_id: str, job_id: uuid.UUID, *, after: int, limit: int, state: str | None = None) -> Select[Any]:
    """Id and ordinal of a job's next renders, of the queue's tables and the archive's.

    Ids first, and then their rows: PostgreSQL puts all that is left of a job in order for a page of the joined view.
    """
    parts = []
    for table_ in (Render.__table__, ARCHIVED_RENDERS):
        mine = (table_.c.tenant_id == tenant_id, table_.c.job_id == job_id, table_.c.ordinal > after)
        part = select(table_.c.id, table_.c.ordinal).where(*mine).order_by(table_.c.ordinal).limit(limit)
        parts.append(select((part if state is None else part.where(table_.c.state == state)).subquery()))
    both = union_all(*parts).subquery()
    return select(both.c.id, both.c.ordinal).order_by(both.c.ordinal).limit(limit)


def renders_of(tenant_id: str, render_ids: Sequence[uuid.UUID], *, state: str | None = None) -> Select[Any]:
    """The rows of these renders; those that have left the state meanwhile are left out.

    Their job is not named: SQLite, which nobody has told how large a job is, would read all of it by its index.
    """
    view = RENDER_METRICS
    mine = (view.c.tenant_id == tenant_id, view.c.render_id.in_(render_ids))
    statement = select(view).where(*mine)
    return statement if state is None else statement.where(view.c.state == state)


def render(tx: Connection, tenant_id: str, render_id: uuid.UUID) -> RowMapping | None:
    """One picture, from the view `render_metrics`."""
    statement = select(RENDER_METRICS).where(
        RENDER_METRICS.c.tenant_id == tenant_id, RENDER_METRICS.c.render_id == render_id
    )
    return tx.execute(statement).mappings().one_or_none()


def outputs(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> Iterator[dict[str, Any]]:
    """The further files of a job's pictures, from the view `render_outputs`: in the renders' order, then by name.

    Each has its render's `ordinal`. A page of renders first, then their files: so both walk an index.
    """
    last = -1
    while True:
        rows = tx.execute(renders_page(tenant_id, job_id, after=last, limit=PAGE)).all()
        page = {row.id: row.ordinal for row in rows}
        found: list[dict[str, Any]] = []
        for part in _parts(list(page)):
            rows_of = tx.execute(outputs_of(tenant_id, part)).mappings()
            found += [{**row, "ordinal": page[row["render_id"]]} for row in rows_of]
        yield from sorted(found, key=lambda row: (row["ordinal"], row["render_id"].bytes, row["name"]))
        if len(page) < PAGE:
            return
        last = max(page.values())


def outputs_of(tenant_id: str, render_ids: Sequence[uuid.UUID]) -> Select[Any]:
    """The further files of these renders."""
    view = RENDER_OUTPUTS
    return select(view).where(view.c.tenant_id == tenant_id, view.c.render_id.in_(render_ids))


def failures(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> list[RowMapping]:
    """How many renders of a job failed for which reason, most frequent first; found by the units that count some."""
    parts = []
    for units, kept in ((Unit.__table__, Render.__table__), (ARCHIVED_UNITS, ARCHIVED_RENDERS)):
        of_unit = and_(kept.c.tenant_id == units.c.tenant_id, kept.c.unit_id == units.c.id, kept.c.state == "failed")
        part = select(kept.c.error_code, kept.c.error).select_from(units).join(kept, of_unit)
        of_job = (units.c.tenant_id == tenant_id, units.c.job_id == job_id, units.c.renders_failed > 0)
        parts.append(part.where(*of_job))
    failed, count = union_all(*parts).subquery(), func.count()
    statement = (
        select(failed.c.error_code, func.min(failed.c.error).label("example"), count.label("renders"))
        .group_by(failed.c.error_code)
        .order_by(count.desc(), failed.c.error_code)
    )
    return list(tx.execute(statement).mappings())


def owners(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> list[str]:
    """Under which names workers hold units of a job now; those that fell silent are left out."""
    mine = (Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state == "leased")
    statement = select(Unit.lease_owner).where(*mine, Unit.lease_until >= epoch_now()).distinct()
    return sorted(owner for owner in tx.execute(statement).scalars() if owner is not None)


def _parts(ids: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE))


def workers(tx: Connection, *, since_seconds: float = 86_400.0) -> list[RowMapping]:
    """The workers that gave a sign of life lately, the latest first; read a page at a time."""
    found: list[RowMapping] = []
    last = ""
    while True:
        page = tx.execute(workers_page(since_seconds=since_seconds, after=last, limit=PAGE)).mappings().all()
        found += page
        if len(page) < PAGE:
            return sorted(found, key=lambda row: -row["last_seen_at"])
        last = page[-1]["id"]


def workers_page(*, since_seconds: float, after: str, limit: int) -> Select[Any]:
    """The next workers by their ids."""
    table_ = Worker.__table__
    recent = (table_.c.last_seen_at > epoch_now() - since_seconds, table_.c.id > after)
    return select(*table_.c).where(*recent).order_by(table_.c.id).limit(limit)


def shifts(tx: Connection, *, per_worker: int, since_seconds: float = 86_400.0) -> list[RowMapping]:
    """The last shifts of each worker that ended lately, from the view `shift_metrics`, the newest first."""
    view = SHIFT_METRICS
    place = func.row_number().over(partition_by=view.c.worker, order_by=(view.c.ended_at.desc(), view.c.id.desc()))
    since = utcnow() - dt.timedelta(seconds=since_seconds)
    numbered = select(view, place.label("place")).where(view.c.ended_at > since).subquery()
    statement = select(*(numbered.c[column.name] for column in view.c)).where(numbered.c.place <= per_worker)
    return list(tx.execute(statement.order_by(numbered.c.ended_at.desc(), numbered.c.id.desc())).mappings())


def events(
    tx: Connection, tenant_id: str, job_id: uuid.UUID, *, after: uuid.UUID | None = None, limit: int = 10 * PAGE
) -> list[RowMapping]:
    """What happened to a job, oldest first; `after` is the id of the last one seen."""
    return list(tx.execute(events_page(tenant_id, job_id, after=after, limit=limit)).mappings())


def events_page(tenant_id: str, job_id: uuid.UUID, *, after: uuid.UUID | None, limit: int) -> Select[Any]:
    """A job's next events, of the queue's table and the archive's."""
    parts = []
    for table_ in (Event.__table__, ARCHIVED_EVENTS):
        part = select(table_).where(table_.c.tenant_id == tenant_id, table_.c.job_id == job_id)
        if after is not None:
            part = part.where(table_.c.id > after)
        parts.append(select(part.order_by(table_.c.id).limit(limit).subquery()))
    both = union_all(*parts).subquery()
    return select(both).order_by(both.c.id).limit(limit)
