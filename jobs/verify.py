"""Checking that what counters and states say is what the rows say, and, if asked, that no object is lost or cut."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.database import Database
from jobs.reports import find_job, opened
from jobs.repository import queries
from jobs.repository import sweep as tenant_rows
from jobs.repository import verify as rows
from jobs.repository.sight import require_sight
from jobs.settings import Settings
from jobs.storage import Storage, open_storage

THREADS = 8
PAGE = 500
"""Pictures whose objects are looked for at a time."""
NO_COPY = "bring it back from a backup; `portraits rerun {render_id}` draws another picture, under a seed of its own"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be: of what kind, where, and in words what was wanted and found."""

    kind: str
    tenant: str
    job_id: uuid.UUID | None
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Verified:
    """What was looked at and what is wrong; `corrected` units have right counters now."""

    jobs: int
    differences: list[Difference]
    corrected: int = 0


def differences(tx: Connection | Database, tenant: str, job_id: uuid.UUID) -> list[Difference]:
    """Where a job's counters and states differ from its rows; an empty list when all is well."""
    if isinstance(tx, Database):
        with tx.reading() as connection:
            return differences(connection, tenant, job_id)
    return [Difference(kind, tenant, job_id, *told) for kind, *told in _of_job(tx, tenant, job_id)]


def weight_set_differences(tx: Connection | Database, tenant: str) -> list[Difference]:
    """Weight sets of a tenant whose rows contradict themselves."""
    if isinstance(tx, Database):
        with tx.reading() as connection:
            return weight_set_differences(connection, tenant)
    return [
        Difference(
            "weight_set",
            tenant,
            None,
            f"weight set {row.fingerprint}",
            f"is {row.state} with the object {row.storage_key}, after {row.generations} generations in {row.attempts} "
            "tries; a worker makes it anew when it is asked for",
        )
        for row in rows.weight_sets(tx, tenant)
    ]


def object_differences(database: Database, storage: Storage, tenant: str, job_id: uuid.UUID) -> Iterator[Difference]:
    """Objects of a job's finished pictures, and of their further files, that are not in the store (`object`) or have
    another size there than their rows say (`object_size`).

    No transaction is open while the store is asked.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        for page in _objects(database, tenant, job_id):
            sizes = pool.map(storage.size, [key for _, key, _ in page])
            for (render_id, key, wanted), found in zip(page, sizes, strict=True):
                if found == wanted:
                    continue
                kind = "object" if found is None else "object_size"
                told = (
                    "is not in the store" if found is None else f"has {found} bytes in the store, recorded are {wanted}"
                )
                message = f"its object {key} {told}; {NO_COPY.format(render_id=render_id)}"
                yield Difference(kind, tenant, job_id, f"render {render_id}", message)


def verify(
    job: str | uuid.UUID | None = None,
    *,
    every: bool = False,
    objects: bool = False,
    fix: bool = False,
    tenant: str | None = None,
    settings: Settings | None = None,
) -> Verified:
    """Verify one job (None: the newest), or `every` job of a tenant, or of all when no tenant is given.

    `fix` sets the counters of settled units to what their renders say, and looks again. Raises UnknownJob, and
    SettingsInvalid for a login that does not see every tenant.
    """
    report = Verified(0, [])
    with opened(settings) as (chosen, database):
        with database.reading() as tx:
            require_sight(tx)
        storage = open_storage(chosen.storage_url, chosen) if objects else None
        for owner, job_id in _chosen(database, chosen, job, tenant, every=every):
            report.jobs += 1
            if fix:
                report.corrected += _correct(database, owner, job_id)
            report.differences += differences(database, owner, job_id)
            if storage is not None:
                report.differences += object_differences(database, storage, owner, job_id)
        for owner in _owners(database, tenant) if every else [tenant or chosen.tenant]:
            report.differences += weight_set_differences(database, owner)
    return report


def _of_job(tx: Connection, tenant: str, job_id: uuid.UUID) -> Iterator[tuple[str, str, str]]:
    """(kind, where, message) of each difference."""
    for unit in rows.units(tx, tenant, job_id):
        told = [
            f"{name} {getattr(unit, f'renders_{name}')}, counted {getattr(unit, f'counted_{name}')}"
            for name in ("total", *rows.COUNTED)
            if getattr(unit, f"renders_{name}") != getattr(unit, f"counted_{name}")
        ]
        yield "unit_counters", f"unit {unit.id}", f"is {unit.state} and says of its renders: {'; '.join(told)}"
    for unit in rows.states(tx, tenant, job_id):
        yield "unit_state", f"unit {unit.id}", f"is {unit.state}, and {unit.waiting} of its renders wait"
    for render in rows.chosen(tx, tenant, job_id):
        yield (
            "chosen",
            f"render {render.id}",
            f"is {render.state} with the object {render.storage_key} and has {render.chosen} chosen candidates"
            + (f", {render.chosen_key}" if render.chosen_key else ""),
        )
    for name, (said, counted) in rows.totals(tx, tenant, job_id).items():
        if said != counted:
            yield "job_counters", f"job {job_id}", f"says {name} {said}, counted {counted}"


def _chosen(
    database: Database, settings: Settings, job: str | uuid.UUID | None, tenant: str | None, *, every: bool
) -> Iterator[tuple[str, uuid.UUID]]:
    """The jobs to verify, with their tenants."""
    if not every:
        row = find_job(database, tenant or settings.tenant, job)
        yield row.tenant_id, row.id
        return
    for owner in _owners(database, tenant):
        last: uuid.UUID | None = None
        while True:
            with database.reading() as tx:
                ids = rows.jobs(tx, owner, after=last)
            yield from ((owner, job_id) for job_id in ids)
            if not ids:
                break
            last = ids[-1]


def _owners(database: Database, tenant: str | None) -> list[str]:
    if tenant is not None:
        return [tenant]
    with database.reading() as tx:
        return tenant_rows.tenants(tx)


def _correct(database: Database, tenant: str, job_id: uuid.UUID) -> int:
    with database.transaction() as tx:
        rows.lock_job(tx, tenant, job_id)  # first, and units by their ids, as everybody locks them
        ids = sorted(unit.id for unit in rows.units(tx, tenant, job_id))
        return sum(rows.correct(tx, tenant, unit_id) for unit_id in ids)


def _objects(database: Database, tenant: str, job_id: uuid.UUID) -> Iterator[list[tuple[uuid.UUID, str, int]]]:
    """A job's finished pictures and their further files as (render id, key, bytes), a page at a time."""
    last = -1
    while True:
        with database.reading() as tx:
            page = list(queries.renders(tx, tenant, job_id, state="done", after=last, limit=PAGE))
            further = tx.execute(queries.outputs_of(tenant, [row["render_id"] for row in page])).mappings().all()
        yield [(row["render_id"], str(row["storage_key"]), row["size_bytes"]) for row in (*page, *further)]
        if len(page) < PAGE:
            return
        last = page[-1]["ordinal"]
