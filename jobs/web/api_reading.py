"""The API's reading half: jobs, people, pictures, workers."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from jobs.repository.browse import People, Pictures
from jobs.web import schemas
from jobs.web.access import Reader
from jobs.web.files import picture_answer, thumbnail_answer
from jobs.web.reading import Reading
from jobs.web.responses import NOT_FOUND, REFUSED, picture_responses
from jobs.web.services import services_of

router = APIRouter(responses=REFUSED)
MOST = 500
LAST_ORDINAL = 2**31 - 1
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows of a page.")]
JobName = Annotated[str, Path(min_length=1, max_length=200, description="Id or key of a job.")]
RenderId = Annotated[uuid.UUID, Path(description="Id of a picture.")]
After = Annotated[uuid.UUID | None, Query(description="`next` of the page before.")]
Text = Annotated[str | None, Query(min_length=1, max_length=200)]


@router.get("/jobs", operation_id="listJobs", tags=["jobs"])
def list_jobs(request: Request, caller: Reader, limit: Limit = 50, after: After = None) -> schemas.JobsPage:
    """Jobs of the token's tenant, the newest first."""
    found = Reading(services_of(request), caller).jobs(limit=limit, after=after)
    return schemas.JobsPage.model_validate({"jobs": found, "next": _next(found, limit, "job_id")})


@router.get("/jobs/{job}", operation_id="getJob", tags=["jobs"], responses=NOT_FOUND)
def get_job(request: Request, caller: Reader, job: JobName) -> schemas.JobDetail:
    """How far a job is, and why pictures of it failed."""
    return schemas.JobDetail.model_validate(Reading(services_of(request), caller).job(job))


@router.get("/jobs/{job}/people", operation_id="listPeople", tags=["jobs"], responses=NOT_FOUND)
def list_people(
    request: Request,
    caller: Reader,
    job: JobName,
    having: Annotated[
        Literal["failed", "open"] | None, Query(description="Only people with failed pictures, or with open ones.")
    ] = None,
    named: Annotated[
        str | None, Query(min_length=1, max_length=200, description="Only people whose `external_id` begins so.")
    ] = None,
    limit: Limit = 100,
    after: After = None,
) -> schemas.PeoplePage:
    """People of a job, in the order in which they became known."""
    reading = Reading(services_of(request), caller)
    found = reading.people(reading.job_id(job), People(having, named), limit=limit, after=after)
    return schemas.PeoplePage.model_validate({"people": found, "next": _next(found, limit, "identity_id")})


@router.get("/jobs/{job}/pictures", operation_id="listPictures", tags=["pictures"], responses=NOT_FOUND)
def list_pictures(
    request: Request,
    caller: Reader,
    job: JobName,
    identity: Annotated[uuid.UUID | None, Query(description="Only this person's, by `identity_id`.")] = None,
    state: Annotated[Literal["waiting", "done", "failed", "cancelled"] | None, Query()] = None,
    prompt: Text = None,
    error_code: Text = None,
    limit: Limit = 100,
    after: Annotated[int, Query(ge=-1, le=LAST_ORDINAL, description="`next` of the page before.")] = -1,
) -> schemas.PicturesPage:
    """Pictures of a job, in the order in which they were asked for."""
    reading = Reading(services_of(request), caller)
    which = Pictures(identity, state, prompt, error_code)
    found = reading.pictures(reading.job_id(job), which, limit=limit, after=after)
    pictures = [_picture(one) for one in found]
    return schemas.PicturesPage.model_validate({"pictures": pictures, "next": _next(found, limit, "ordinal")})


@router.get("/pictures/{render}", operation_id="getPicture", tags=["pictures"], responses=NOT_FOUND)
def get_picture(request: Request, caller: Reader, render: RenderId) -> schemas.PictureDetail:
    """One picture: what was asked, what was drawn, what each step took."""
    found = Reading(services_of(request), caller).picture(render)
    outputs = [{**one, "file": f"/pictures/{render}/file?output={one['name']}"} for one in found["outputs"]]
    return schemas.PictureDetail.model_validate({**_picture(found), "outputs": outputs})


@router.get(
    "/pictures/{render}/file",
    operation_id="getPictureFile",
    tags=["pictures"],
    response_class=Response,
    responses=picture_responses("The picture."),
)
def get_picture_file(
    request: Request,
    caller: Reader,
    render: RenderId,
    output: Annotated[str | None, Query(max_length=64, description="Name of a further file of the picture.")] = None,
) -> Response:
    """The picture itself, or where the store gives it for a few minutes."""
    services = services_of(request)
    return picture_answer(services, request, Reading(services, caller).picture(render), output)


@router.get(
    "/pictures/{render}/thumbnail",
    operation_id="getPictureThumbnail",
    tags=["pictures"],
    response_class=Response,
    responses=picture_responses("A small WebP of the picture."),
)
def get_picture_thumbnail(request: Request, caller: Reader, render: RenderId) -> Response:
    """The picture, at most 320 pixels wide and high."""
    services = services_of(request)
    return thumbnail_answer(services, request, Reading(services, caller).picture(render))


@router.get("/workers", operation_id="listWorkers", tags=["workers"])
def list_workers(request: Request, caller: Reader) -> schemas.WorkersAnswer:
    """The workers of the fleet and their last signs of life."""
    return schemas.WorkersAnswer.model_validate(Reading(services_of(request), caller).workers())


def _next(found: list[dict[str, Any]], limit: int, name: str) -> Any:
    """The key after which the next page begins; None behind the last page."""
    return found[-1][name] if len(found) == limit else None


def _picture(row: dict[str, Any]) -> dict[str, Any]:
    file = f"/pictures/{row['render_id']}/file" if row["state"] == "done" and row["storage_key"] else None
    return {**row, "file": file}
