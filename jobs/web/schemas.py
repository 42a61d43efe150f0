"""The shapes of the API: what it answers and what it takes."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in 64 hex digits of lower case.")]
MediaType = Literal["image/jpeg", "image/png", "image/webp"]


class Answer(BaseModel):
    """What is answered comes from rows that hold more: the rest is left out."""

    model_config = ConfigDict(extra="ignore")


class JobAnswer(Answer):
    """A job and how far it is. `waiting` counts all that is not finished, `running` the part that a worker holds."""

    job_id: uuid.UUID
    key: str
    name: str | None
    profile: str
    priority: int
    state: str = Field(description="waiting, running, paused, done, failed, partial or cancelled.")
    identities: int
    units: int
    renders: int
    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    created_at: dt.datetime
    finished_at: dt.datetime | None
    paused_at: dt.datetime | None
    archived_at: dt.datetime | None


class FailureAnswer(Answer):
    """How many pictures failed for one reason."""

    error_code: str | None
    example: str | None
    renders: int


class JobDetail(JobAnswer):
    """A job with the reasons of its failures, the most frequent first."""

    failures: list[FailureAnswer]


class JobsPage(Answer):
    """Jobs, the newest first; `next` is the `after` of the next page, null behind the last."""

    jobs: list[JobAnswer]
    next: uuid.UUID | None


class PersonAnswer(Answer):
    """One person of a job."""

    identity_id: uuid.UUID
    external_id: str
    state: str
    renders: int
    waiting: int
    done: int
    failed: int
    cancelled: int
    error_code: str | None
    error: str | None
    finished_at: dt.datetime | None


class PeoplePage(Answer):
    """People of a job in the order in which they became known."""

    people: list[PersonAnswer]
    next: uuid.UUID | None


class PictureAnswer(Answer):
    """One picture: what was asked, what was drawn, what each step took in seconds (its share of its batch)."""

    render_id: uuid.UUID
    job_id: uuid.UUID
    job_key: str
    identity_id: uuid.UUID
    external_id: str
    rerun_of: uuid.UUID | None
    ordinal: int
    prompt_name: str
    prompt: str
    final_prompt: str | None
    negative_prompt: str
    seed: int
    drawn_seed: int | None
    width: int
    height: int
    output_width: int | None
    output_height: int | None
    steps: int
    guidance: float
    scheduler: str
    lora_weight: float
    options: dict[str, Any] | None
    state: str
    error_code: str | None
    error: str | None
    media_type: str | None
    size_bytes: int | None
    sha256: str | None
    id_similarity: float | None
    id_similarity_reason: str | None
    recogniser: str | None
    model_fingerprint: str | None
    weight_set_fingerprint: str | None
    device: str | None
    batch_size: int | None
    draws: int | None
    seconds_weights: float | None
    seconds_merge: float | None
    seconds_denoise: float | None
    seconds_decode: float | None
    seconds_detail: float | None
    seconds_finish: float | None
    seconds_encode: float | None
    seconds_upload: float | None
    created_at: dt.datetime
    finished_at: dt.datetime | None
    file: str | None = Field(None, description="Path of the picture's file, below this API; null before it is drawn.")


class PicturesPage(Answer):
    """Pictures in the order in which they were asked for; `next` is the `ordinal` of the last one."""

    pictures: list[PictureAnswer]
    next: int | None


class OutputAnswer(Answer):
    """A further file that was made of a picture."""

    name: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    file: str


class PictureDetail(PictureAnswer):
    """A picture with its further files."""

    outputs: list[OutputAnswer]


class WorkerAnswer(Answer):
    """A worker of the fleet, which serves every tenant: what it does, and how long ago it said so."""

    name: str
    state: str = Field(description="starting, idle, working, unfit, drained, stopped; silent after a lease's time.")
    profile: str | None
    device: str | None
    version: str
    started_at: dt.datetime
    seconds_since_seen: float
    drawing_share: float | None = Field(None, description="Of the last minutes of a worker that works: time drawing.")
    busy_share: float | None = Field(None, description="Of the last shifts that ended within a day: time drawing.")
    idle_share: float | None = Field(None, description="Of the same: time between batches.")


class WorkersAnswer(Answer):
    """The workers that gave a sign of life within a day, the latest first."""

    workers: list[WorkerAnswer]
    fleet_paused_at: dt.datetime | None


class PhotoAnnounced(BaseModel):
    """A photo that is to be sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sha256: Sha256
    size_bytes: Annotated[int, Field(gt=0, le=2**40)]
    media_type: MediaType


class PhotoAddress(Answer):
    """Where to PUT a photo; where it is `known`, nothing is to be sent, and there is no address."""

    source: str = Field(description="How manifests name this photo.", examples=["sha256:9f86d0..."])
    known: bool
    method: Literal["PUT"] | None = None
    url: str | None = None
    headers: dict[str, str] | None = Field(None, description="Headers that must be sent as they are.")
    expires_at: dt.datetime | None = Field(None, description="Until when the address takes the photo.")
    kept_until: dt.datetime | None = Field(None, description="Until when a job must name the photo.")


class Enqueued(Answer):
    """A job that was taken; `created` is false when the same manifest had been enqueued before."""

    job_id: uuid.UUID
    key: str
    created: bool
    identities: int
    units: int
    renders: int
    warnings: list[str]


class PlannedPicture(Answer):
    """A picture that a manifest asks for."""

    external_id: str
    prompt_name: str
    prompt: str
    seed: int
    width: int
    height: int
    steps: int


class DryRun(Answer):
    """What a manifest asks for; nothing was written."""

    dry_run: Literal[True] = True
    key: str
    profile: str
    identities: int
    photos: int
    photo_bytes: int
    units: int
    renders: int
    warnings: list[str]
    first: list[PlannedPicture]


class Cancelled(Answer):
    """How many pictures were cancelled."""

    job_id: uuid.UUID
    cancelled: int
