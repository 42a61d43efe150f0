"""What people ask, read from the documented views.

These are `job_status`, `identity_status`, `render_metrics`, `render_outputs` and, of the fleet, `shift_metrics`.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import JSON, Boolean, Connection, RowMapping, and_, func, select, table, tuple_
from sqlalchemy.sql import column
from sqlalchemy.types import TypeEngine
from sqlalchemy.types import Uuid as UuidType

from jobs.database import epoch_now
from jobs.models import Event, Render, Utc, Worker, utcnow

PAGE = 1_000

_TYPES: dict[str, TypeEngine[Any]] = {
    "job_id": UuidType(),
    "identity_id": UuidType(),
    "unit_id": UuidType(),
    "render_id": UuidType(),
    "rerun_of": UuidType(),
    "created_at": Utc(),
    "finished_at": Utc(),
    "paused_at": Utc(),
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
    "created_at finished_at paused_at",
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


def jobs(tx: Connection, tenant_id: str, *, limit: int = 50) -> list[RowMapping]:
    """The tenant's newest jobs, from the view `job_status`."""
    statement = select(JOB_STATUS).where(JOB_STATUS.c.tenant_id == tenant_id)
    return list(tx.execute(statement.order_by(JOB_STATUS.c.job_id.desc()).limit(limit)).mappings())


def job(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> RowMapping | None:
    """One job's counts and state, from the view `job_status`."""
    statement = select(JOB_STATUS).where(JOB_STATUS.c.tenant_id == tenant_id, JOB_STATUS.c.job_id == job_id)
    return tx.execute(statement).mappings().one_or_none()


def people(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, limit: int = 1_000) -> list[RowMapping]:
    """The people of a job, from the view `identity_status`."""
    view = IDENTITY_STATUS
    statement = select(view).where(view.c.tenant_id == tenant_id, view.c.job_id == job_id)
    return list(tx.execute(statement.order_by(view.c.external_id).limit(limit)).mappings())


def renders(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, state: str | None = None) -> Iterator[RowMapping]:
    """The pictures of a job in the order they were asked for, from the view `render_metrics`; a page at a time."""
    view, last = RENDER_METRICS, -1
    while True:
        statement = select(view).where(view.c.tenant_id == tenant_id, view.c.job_id == job_id, view.c.ordinal > last)
        if state is not None:
            statement = statement.where(view.c.state == state)
        page = list(tx.execute(statement.order_by(view.c.ordinal).limit(PAGE)).mappings())
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]["ordinal"]


def render(tx: Connection, tenant_id: str, render_id: uuid.UUID) -> RowMapping | None:
    """One picture, from the view `render_metrics`."""
    statement = select(RENDER_METRICS).where(
        RENDER_METRICS.c.tenant_id == tenant_id, RENDER_METRICS.c.render_id == render_id
    )
    return tx.execute(statement).mappings().one_or_none()


def outputs(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> Iterator[RowMapping]:
    """The further files of a job's pictures, from the view `render_outputs`: in the renders' order, then by name."""
    view, last = RENDER_OUTPUTS, (-1, "")
    of_render = and_(Render.tenant_id == view.c.tenant_id, Render.id == view.c.render_id)
    while True:
        statement = (
            select(view, Render.ordinal)
            .join(Render, of_render)
            .where(view.c.tenant_id == tenant_id, view.c.job_id == job_id)
            .where(tuple_(Render.ordinal, view.c.name) > tuple_(*last))
        )
        page = list(tx.execute(statement.order_by(Render.ordinal, view.c.name).limit(PAGE)).mappings())
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]["ordinal"], page[-1]["name"]


def failures(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> list[RowMapping]:
    """How many renders of a job failed for which reason, most frequent first."""
    count = func.count()
    statement = (
        select(Render.error_code, func.min(Render.error).label("example"), count.label("renders"))
        .where(Render.tenant_id == tenant_id, Render.job_id == job_id, Render.state == "failed")
        .group_by(Render.error_code)
        .order_by(count.desc(), Render.error_code)
    )
    return list(tx.execute(statement).mappings())


def workers(tx: Connection, *, since_seconds: float = 86_400.0) -> list[RowMapping]:
    """The workers that gave a sign of life lately."""
    table_ = Worker.__table__
    statement = select(*table_.c).where(table_.c.last_seen_at > epoch_now() - since_seconds)
    return list(tx.execute(statement.order_by(table_.c.last_seen_at.desc())).mappings())


def shifts(tx: Connection, *, per_worker: int, since_seconds: float = 86_400.0) -> list[RowMapping]:
    """The last shifts of each worker that ended lately, from the view `shift_metrics`, the newest first."""
    view = SHIFT_METRICS
    place = func.row_number().over(partition_by=view.c.worker, order_by=(view.c.ended_at.desc(), view.c.id.desc()))
    since = utcnow() - dt.timedelta(seconds=since_seconds)
    numbered = select(view, place.label("place")).where(view.c.ended_at > since).subquery()
    statement = select(*(numbered.c[column.name] for column in view.c)).where(numbered.c.place <= per_worker)
    return list(tx.execute(statement.order_by(numbered.c.ended_at.desc(), numbered.c.id.desc())).mappings())


def events(tx: Connection, tenant_id: str, job_id: uuid.UUID) -> list[RowMapping]:
    """What happened to a job, oldest first."""
    table_ = Event.__table__
    statement = select(*table_.c).where(table_.c.tenant_id == tenant_id, table_.c.job_id == job_id)
    return list(tx.execute(statement.order_by(table_.c.id)).mappings())
