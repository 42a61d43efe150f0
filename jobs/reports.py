"""What became of a job, for Python callers and the command line: status, pictures, cancel, retry, rerun."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.broker import Broker
from jobs.database import Database
from jobs.errors import UnknownJob
from jobs.intake import announce
from jobs.quotas import check_waiting_again
from jobs.repository import again, queries
from jobs.repository import jobs as job_rows
from jobs.repository.jobs import JobRow
from jobs.settings import Settings, get_settings
from jobs.storage import open_storage

QUARANTINED_LEFT = (
    "{left} quarantined pictures were left: too many workers were lost with them; look into the workers' logs, then "
    "`portraits retry {job}{tenant} --quarantined`"
)
FINISHED_STATES = frozenset({"done", "failed", "partial", "cancelled"})


@dataclass(frozen=True)
class JobStatus:
    """A job's counts, people and reasons at one moment; plain values that JSON can hold."""

    job: dict[str, Any]
    people: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    next: uuid.UUID | None = None
    """The `after` of the next page of people; None where these are the last."""

    @property
    def finished(self) -> bool:
        """Whether nothing of the job waits or is being drawn any more."""
        return self.job["state"] in FINISHED_STATES


@contextmanager
def opened(settings: Settings | None) -> Iterator[tuple[Settings, Database]]:
    """These settings, or those of this process, and their database."""
    chosen = settings or get_settings()
    database = Database.from_settings(chosen)
    try:
        yield chosen, database
    finally:
        database.dispose()


def find_job(database: Database, tenant: str, job: str | uuid.UUID | None) -> JobRow:
    """The job that `job` names: its id, its key, or None for the newest one. Raises UnknownJob."""
    with database.reading(tenant) as tx:
        if job is None:
            row = job_rows.newest(tx, tenant)
            wanted = "any job"
        else:
            wanted = f"a job with the id or key {str(job)!r}"
            as_id = _as_uuid(job)
            row = job_rows.find_by_id(tx, tenant, as_id) if as_id else None
            row = row or job_rows.find_by_key(tx, tenant, str(job))
    if row is None:
        raise UnknownJob(f"tenant {tenant!r} has not enqueued {wanted} here; `portraits status` lists its jobs")
    return row


def _as_uuid(text: str | uuid.UUID) -> uuid.UUID | None:
    if isinstance(text, uuid.UUID):
        return text
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def status(
    job: str | uuid.UUID | None = None,
    *,
    tenant: str | None = None,
    people: int = 1_000,
    after: uuid.UUID | None = None,
    settings: Settings | None = None,
) -> JobStatus:
    """How far a job is; `job` is its id or key, None for the newest. Raises UnknownJob.

    `people` of its people at most, in the order in which they became known; the next ones with `after`, the
    `identity_id` of the last one seen.
    """
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.reading(row.tenant_id) as tx:
            found = queries.job(tx, row.tenant_id, row.id)
            page = queries.people(tx, row.tenant_id, row.id, limit=people + 1, after=after)
            failures = queries.failures(tx, row.tenant_id, row.id)
    if found is None:
        raise UnknownJob(f"job {row.id} has no units; it asks for nothing")
    shown = [dict(person) for person in page[:people]]
    further = shown[-1]["identity_id"] if len(page) > people else None
    return JobStatus(dict(found), shown, [dict(failure) for failure in failures], further)


def list_jobs(
    *,
    tenant: str | None = None,
    limit: int = 50,
    after: uuid.UUID | None = None,
    settings: Settings | None = None,
) -> list[dict[str, Any]]:
    """The tenant's newest jobs with their counts; the next page with `after`, the `job_id` of the last one seen."""
    with opened(settings) as (chosen, database):
        owner = tenant or chosen.tenant
        with database.reading(owner) as tx:
            return [dict(row) for row in queries.jobs(tx, owner, limit=limit, after=after)]


def results(
    job: str | uuid.UUID | None = None,
    *,
    tenant: str | None = None,
    state: str | None = None,
    urls: bool = False,
    after: int = -1,
    limit: int | None = None,
    settings: Settings | None = None,
) -> Iterator[dict[str, Any]]:
    """The renders of a job in the order they were asked for, with their metrics; lazily.

    `limit` of them at most; the next page with `after`, the `ordinal` of the last one seen. `state` keeps only waiting,
    done, failed or cancelled ones; `urls` adds a `url` to each finished picture: presigned for
    `PORTRAITS_URL_EXPIRES_SECONDS`, or a file URL. Raises UnknownJob.
    """
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        storage = open_storage(chosen.storage_url, chosen)
        with database.reading(row.tenant_id) as tx:
            for render in queries.renders(tx, row.tenant_id, row.id, state=state, after=after, limit=limit):
                found = dict(render)
                if urls:
                    key = found["storage_key"]
                    found["url"] = storage.url(key, chosen.url_expires_seconds) if key else None
                yield found


def outputs(
    job: str | uuid.UUID | None = None, *, tenant: str | None = None, settings: Settings | None = None
) -> Iterator[dict[str, Any]]:
    """The further files of a job's pictures (`render_id`, `name`, `storage_key`, size), in the pictures' order; lazily.

    The first file of each picture is the picture itself, which `results` names. Raises UnknownJob.
    """
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.reading(row.tenant_id) as tx:
            for output in queries.outputs(tx, row.tenant_id, row.id):
                yield dict(output)


def cancel(job: str | uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None) -> int:
    """Stop a job; what is drawn stays. Returns how many renders were cancelled. Raises UnknownJob."""
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction(row.tenant_id) as tx:
            return job_rows.cancel(tx, row.tenant_id, row.id)


def retry(
    job: str | uuid.UUID,
    *,
    failed: bool | None = None,
    quarantined: bool = False,
    cancelled: bool = False,
    code: str | None = None,
    tenant: str | None = None,
    settings: Settings | None = None,
) -> tuple[int, list[str]]:
    """Wait again for a job's failed renders. Returns how many, and warnings, such as of what was left.

    Those that are quarantined, as too many workers were lost with them, are left unless `quarantined` says so; then
    others are only tried where `failed` does too. `cancelled`: those too. `code`: of the failed, quarantined or not,
    only those with this code. Raises UnknownJob, JobArchived, QuotaExceeded.
    """
    ordinary = failed if failed is not None else not quarantined
    which = again.Which(failed=ordinary, quarantined=quarantined, cancelled=cancelled, code=code)
    with opened(settings) as (chosen, database):
        row = find_job(database, tenant or chosen.tenant, job)
        with database.transaction(row.tenant_id) as tx:
            count, reopened = again.retry(tx, row.tenant_id, row.id, which)
            check_waiting_again(tx, row.tenant_id, count)
            left = 0 if quarantined else again.quarantined(tx, row.tenant_id, row.id)
        named = "" if row.tenant_id == chosen.tenant else f" --tenant {row.tenant_id}"
        told = [QUARANTINED_LEFT.format(left=left, job=job, tenant=named)] if left else []
        return count, [*told, *wake(database, chosen, reopened, row.tenant_id)]


def rerun(
    render_id: uuid.UUID, *, seed: int | None = None, tenant: str | None = None, settings: Settings | None = None
) -> tuple[uuid.UUID, int, list[str]]:
    """Draw one render once more, under `seed` or a fresh one. Returns the new render's id, its seed, and warnings.

    Raises UnknownJob, JobArchived, QuotaExceeded.
    """
    chosen_seed = secrets.randbits(32) if seed is None else seed
    with opened(settings) as (chosen, database):
        owner = tenant or chosen.tenant
        with database.transaction(owner) as tx:
            made = again.rerun(tx, owner, render_id, seed=chosen_seed, age_seconds=chosen.priority_age_seconds)
            check_waiting_again(tx, owner, int(made is not None))
        if made is None:
            raise UnknownJob(
                f"tenant {owner!r} has no render {render_id}; `portraits results JOB --format jsonl` lists them"
            )
        new_id, unit_id = made
        return new_id, chosen_seed, wake(database, chosen, [unit_id], owner)


def wake(database: Database, settings: Settings, unit_ids: Sequence[uuid.UUID], tenant: str | None = None) -> list[str]:
    """Send the messages of these units, which are one tenant's or the fleet's; returns warnings."""
    broker = Broker(settings)
    try:
        return announce(database, broker, [unit_ids], tenant)[1]
    finally:
        broker.close()
