"""`portraits gallery`: a job's pictures as pages, where to open them, and for how long."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.durations import seconds
from worker.cli.options import AsJson, JobOrNewest, Tenant, load_settings
from worker.cli.output import ago, err, facts, hint, print_json

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from jobs.database import Database
    from jobs.gallery import Signed
    from jobs.repository.jobs import JobRow
    from jobs.settings import Settings
    from jobs.storage import Storage

MOST_SECONDS = 86_400


def gallery(
    job: JobOrNewest = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="How long the addresses live: 24h, 30m; a day at most. Of an S3 store."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the pages into this folder; thumbnails stay in the store.")
    ] = None,
    build: Annotated[bool, typer.Option("--build", help="Make it anew, as the job is now.")] = False,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Tell where a job's gallery can be opened: people down, prompts across, each picture with its making.

    The gallery of a finished job lies in the store beside its pictures; where it is missing, it is made. In an S3 store
    its addresses are signed anew by each call: whoever has one sees the thumbnails until it expires. Full pictures are
    shown by `portraits serve`.
    """
    from jobs.database import Database
    from jobs.reports import find_job
    from jobs.storage import open_storage

    settings = load_settings()
    life = _life(expires, settings)
    storage, database = open_storage(settings.storage_url, settings), Database.from_settings(settings)
    try:
        row = find_job(database, tenant or settings.tenant, job)
        found = _built(database, storage, settings, row, build=build)
    finally:
        database.dispose()
    signed = _opened(storage, settings, row, found, out, life)
    _tell(row, found, signed, settings, as_json=as_json)
    if expires is not None and signed.expires_at is None:
        hint("--expires changed nothing: addresses of a folder are not signed, and whoever may read it sees them")


def _life(expires: str | None, settings: Settings) -> int:
    """For how many seconds addresses are signed. Raises BadParameter."""
    life = settings.url_expires_seconds if expires is None else round(seconds(expires))
    if not 0 < life <= MOST_SECONDS:
        raise typer.BadParameter(f"--expires {expires}: addresses live a second at least and 24h at most")
    return life


def _built(database: Database, storage: Storage, settings: Settings, job: JobRow, *, build: bool) -> RowMapping:
    """The row of the job's gallery, which is made first where there is none, or where it is out of date."""
    from jobs.errors import GalleryOutdated
    from jobs.gallery import build_now
    from jobs.repository import galleries

    with database.reading(job.tenant_id) as tx:
        found = galleries.find(tx, job.tenant_id, job.id)
    if build or found is None or found["built_token"] is None or found["due_at"] is not None:
        with err().status(f"making the gallery of {job.renders_total} pictures"):
            build_now(database, storage, settings, job.tenant_id, job.id, owner=f"gallery-{os.getpid()}")
        with database.reading(job.tenant_id) as tx:
            found = galleries.find(tx, job.tenant_id, job.id)
    if found is None or found["built_token"] is None:
        reason = found["error"] if found is not None else None
        raise GalleryOutdated(f"the gallery of job {job.id} is not there: {reason or 'somebody removed it meanwhile'}")
    return found


def _opened(
    storage: Storage, settings: Settings, job: JobRow, found: RowMapping, out: Path | None, life: int
) -> Signed:
    """Where it can be opened: signed in the store, or written to `out`, or where it lies in a folder."""
    from jobs.gallery import Signed, StoredGallery, sign_stored, sign_to_folder
    from worker.results import OutputRefused

    stored = StoredGallery(job.tenant_id, job.id, found["built_token"], job.key)
    if out is not None:
        try:
            return sign_to_folder(storage, settings, stored, out, expires_seconds=life)
        except OSError as error:
            raise OutputRefused(f"cannot write to {out}: {error.strerror or error}") from error
    if settings.storage_url.startswith("file://"):
        return Signed(storage.url(f"{stored.prefix}index.html", life), 1, None)
    return sign_stored(storage, settings, stored, expires_seconds=life)


def _tell(job: JobRow, found: RowMapping, signed: Signed, settings: Settings, *, as_json: bool) -> None:
    from jobs.orm import utcnow

    if as_json:
        told = {"address": signed.address, "expires_at": signed.expires_at}
        print_json(
            {"job_id": job.id, "key": job.key, "pictures": found["pictures"], "built_at": found["built_at"], **told}
        )
        return
    until = signed.expires_at
    facts(
        {
            "job": job.key,
            "pictures": f"{found['pictures']} of {job.renders_total} shown",
            "made": f"{found['built_at']:%Y-%m-%d %H:%M} UTC",
            "open": signed.address,
            "expires": "never"
            if until is None
            else f"on {until:%Y-%m-%d at %H:%M} UTC, in {ago((until - utcnow()).total_seconds())}",
        }
    )
    if until is not None:
        hint("whoever has this address sees the thumbnails until then")
        if not settings.serve_url:
            hint("full pictures need `portraits serve` and PORTRAITS_SERVE_URL, or `portraits results`")
