"""The API's writing half: photos are announced and sent, jobs are enqueued and cancelled."""

from __future__ import annotations

import time
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from jobs import uploads
from jobs.errors import UploadRefused
from jobs.orm import utcnow
from jobs.repository import jobs as job_rows
from jobs.repository.uploads import UploadRow
from jobs.storage import Announced
from jobs.uploads import upload_key
from jobs.web import schemas
from jobs.web.access import Writer
from jobs.web.api_reading import JobName
from jobs.web.reading import Reading
from jobs.web.responses import NOT_FOUND, READ_ONLY, REFUSED, TOO_LARGE, Responses
from jobs.web.services import Services, services_of
from jobs.web.submitting import MANIFEST_TYPES, Body, Submission, submit

router = APIRouter(responses={**REFUSED, **READ_ONLY})
UPLOAD = "upload"
_CONFLICT: Responses = {409: {"model": REFUSED[401]["model"], "description": "The key has other content."}}
_MANIFEST = {"schema": {"type": "object", "description": "A manifest; see docs/manifest.md."}}


@router.post("/photos", operation_id="announcePhoto", tags=["photos"], responses=TOO_LARGE)
def announce_photo(request: Request, caller: Writer, photo: schemas.PhotoAnnounced) -> schemas.PhotoAddress:
    """Ask where to send a photo. Nothing is to be sent where it is known already.

    PUT the file to `url` with `headers` as they are; then a manifest names it as `source`.
    """
    services = services_of(request)
    what = Announced(photo.sha256, photo.size_bytes, photo.media_type)
    row = uploads.announce(services.database, services.storage, services.settings, caller.tenant, what)
    source = f"sha256:{photo.sha256}"
    if row is None:
        return schemas.PhotoAddress(source=source, known=True)
    return _address(services, request, row, what, source)


def _address(
    services: Services, request: Request, row: UploadRow, what: Announced, source: str
) -> schemas.PhotoAddress:
    seconds = min(services.settings.url_expires_seconds, services.settings.upload_seconds)
    place = services.storage.put_address(row.storage_key, what, seconds) if services.is_direct else None
    until = utcnow().timestamp() + seconds
    headers = {"Content-Type": what.media_type, "Content-Length": str(what.size_bytes)}
    if place is None:
        told = {"tenant": row.tenant_id, "sha256": what.sha256, "size": what.size_bytes, "type": what.media_type}
        signed = services.signer.sign(UPLOAD, {**told, "until": until})
        url = f"{services.address(request)}/api/v1/uploads/{signed}"
    else:
        url, headers = place.url, place.headers
    return schemas.PhotoAddress.model_validate(
        {
            "source": source,
            "known": False,
            "method": "PUT",
            "url": url,
            "headers": headers,
            "expires_at": until,
            "kept_until": row.expires_at,
        }
    )


@router.put(
    "/uploads/{signed}",
    operation_id="sendPhoto",
    tags=["photos"],
    status_code=204,
    response_class=Response,
    responses=TOO_LARGE,
    openapi_extra={
        "security": [],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
async def send_photo(
    request: Request, signed: Annotated[str, Path(max_length=2_000, description="What `POST /photos` has signed.")]
) -> Response:
    """Send a photo to an address of `POST /photos`; the address itself is what allows it."""
    services = services_of(request)
    told = services.signer.read(UPLOAD, signed)
    if told is None or told["until"] <= time.time():
        raise UploadRefused("this address takes no photo, or no longer; announce the photo again (POST /photos)")
    what = Announced(told["sha256"], told["size"], told["type"])
    with services.uploads.taken(upload_key(told["tenant"], what.sha256)):
        data = await request.body()
        await run_in_threadpool(uploads.accept, services.database, services.storage, told["tenant"], what, data)
    return Response(status_code=204)


@router.post(
    "/jobs",
    operation_id="enqueueJob",
    tags=["jobs"],
    status_code=201,
    responses={
        200: {"model": schemas.Enqueued | schemas.DryRun, "description": "Enqueued before, or a dry run."},
        201: {"model": schemas.Enqueued, "description": "Enqueued."},
        **_CONFLICT,
        **TOO_LARGE,
    },
    openapi_extra={"requestBody": {"required": True, "content": {name: _MANIFEST for name in MANIFEST_TYPES}}},
)
async def enqueue_job(
    request: Request,
    response: Response,
    caller: Writer,
    dry_run: Annotated[bool, Query(description="Check and count; write nothing.")] = False,
    again: Annotated[bool, Query(description="A new job, although the same was enqueued before.")] = False,
) -> Any:
    """Enqueue a manifest: the same fields as a file's, in JSON or YAML.

    The same key and content again is the same job (200). Photos and pictures are named as `sha256:...`, sent before,
    or lie in a bucket that the server's settings name; a manifest names no file of the server.
    """
    services = services_of(request)
    how = Submission(dry_run=dry_run, again=again)
    with services.manifests.taken(caller.tenant):
        body = Body.of(request.headers.get("content-type", ""), await request.body())
        found = await to_thread.run_sync(submit, services, caller, body, how, limiter=services.enqueueing)
    response.status_code = 201 if isinstance(found, schemas.Enqueued) and found.created else 200
    return found


@router.post("/jobs/{job}/cancel", operation_id="cancelJob", tags=["jobs"], responses={**NOT_FOUND, **_CONFLICT})
def cancel_job(request: Request, caller: Writer, job: JobName) -> schemas.Cancelled:
    """Stop a job; what is drawn stays."""
    services = services_of(request)
    job_id = Reading(services, caller).job_id(job)
    with services.database.transaction(caller.tenant) as tx:
        count = job_rows.cancel(tx, caller.tenant, job_id)
    return schemas.Cancelled(job_id=job_id, cancelled=count)
