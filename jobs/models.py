"""The tables: what was asked for and what became of it.

`tenant_id` leads every table that holds a tenant's data, and every unique key, so that no statement can cross
tenants by accident. Ids are UUIDv7: made by whoever writes the row, and sorted by time.
Moments that people read are timestamps in UTC; moments that the queue computes with (`ready_at`, `sort_key`,
`lease_until`, `message_sent_at`) are seconds since 1970 on the database's own clock.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import SchemaItem

from jobs import models_fleet, models_outside  # noqa: F401 - so that the metadata knows every table
from jobs.orm import Base, Owned, one_of, own, utcnow

UNIT_STATES = ("ready", "leased", "done", "failed", "cancelled", "paused")
RENDER_STATES = ("waiting", "done", "failed", "cancelled")
WEIGHT_SET_STATES = ("pending", "generating", "ready", "failed")
WEIGHT_SET_KINDS = ("photos", "mix", "slider", "refined")
# How an identity, or a slider, is given. `together` and `weights` have no weight set of their own.
PHOTO_SET_KINDS = ("photos", "mix", "together", "slider", "weights")


class Tenant(Base):
    """Who owns people, jobs and pictures; nothing is shared between two tenants.

    `weight` is its share of each profile's workers beside others; a limit that is NULL does not limit.
    """

    __tablename__ = "tenants"
    __table_args__ = (CheckConstraint("weight > 0 AND weight <= 1000", name="weight"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")
    max_people: Mapped[int | None] = mapped_column(BigInteger)
    max_waiting_renders: Mapped[int | None] = mapped_column(BigInteger)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_renders_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    # How many days people, photos and pictures are kept; NULL: until somebody removes them.
    retention_days: Mapped[int | None]
    requires_consent: Mapped[bool] = mapped_column(server_default=false())


class Share(Base):
    """How much of a profile's workers a tenant has had, per weight, in standard pictures.

    `served_at` is the virtual time at which it was last its turn: the greatest of a profile is that profile's clock.
    """

    __tablename__ = "shares"
    __table_args__ = (Index("ix_shares_served", "profile", "served_at"),)
    tenant_id: Mapped[str] = mapped_column(String(64), ForeignKey("tenants.id"), primary_key=True)
    profile: Mapped[str] = mapped_column(String(100), primary_key=True)
    virtual_time: Mapped[float] = mapped_column(default=0.0)
    served_at: Mapped[float] = mapped_column(default=0.0)


class Identity(Owned, Base):
    """A person, known by reference photos; `external_id` is the caller's own name for them."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("tenant_id", "external_id"),)
    external_id: Mapped[str] = mapped_column(String(200))
    consent_reference: Mapped[str | None] = mapped_column(String(500))
    purpose: Mapped[str | None] = mapped_column(String(500))
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)


class Photo(Owned, Base):
    """One photo or other picture as it was given, stored once per tenant under its SHA-256."""

    __tablename__ = "photos"
    __table_args__ = (UniqueConstraint("tenant_id", "sha256"),)
    sha256: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(500))
    media_type: Mapped[str] = mapped_column(String(100))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)


class PhotoSet(Owned, Base):
    """What one job said an identity is: photos, or other people mixed or side by side, or a stored weight set.

    New photos of a known person are a new set. A slider is a set too, of two members: edited and original.
    """

    __tablename__ = "photo_sets"
    __table_args__ = (
        own("identities", "identity_id"),
        UniqueConstraint("tenant_id", "identity_id", "fingerprint"),
        Index("ix_photo_sets_weight_set", "tenant_id", "weight_set_fingerprint"),
    )
    identity_id: Mapped[uuid.UUID]
    fingerprint: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    kind: Mapped[str] = mapped_column(String(16), default="photos", server_default="photos")
    weight_set_fingerprint: Mapped[str | None] = mapped_column(String(64))


class PhotoSetMember(Base):
    """One of the photo sets that a mix, several people in one picture, or a slider is made of."""

    __tablename__ = "photo_set_members"
    __table_args__ = (
        own("photo_sets", "photo_set_id"),
        own("photo_sets", "member_photo_set_id"),
        Index("ix_photo_set_members_member", "tenant_id", "member_photo_set_id"),
    )
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    photo_set_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    member_photo_set_id: Mapped[uuid.UUID]
    weight: Mapped[float] = mapped_column(default=1.0)
    region: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    prompt: Mapped[str | None] = mapped_column(Text)


class PhotoSetPhoto(Base):
    """A photo's place in a set, and what the worker found in it."""

    __tablename__ = "photo_set_photos"
    __table_args__ = (
        own("photo_sets", "photo_set_id"),
        own("photos", "photo_id"),
        Index("ix_photo_set_photos_photo", "tenant_id", "photo_id"),
    )
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    photo_set_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    photo_id: Mapped[uuid.UUID]
    verdict: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[str | None] = mapped_column(Text)
    face: Mapped[str | None] = mapped_column(String(16))


class WeightSet(Owned, Base):
    """The LoRA of one person under one HyperLoRA checkpoint, generated once and stored once."""

    __tablename__ = "weight_sets"
    __table_args__ = (
        UniqueConstraint("tenant_id", "fingerprint"),
        one_of("state", WEIGHT_SET_STATES),
        one_of("kind", WEIGHT_SET_KINDS),
    )
    fingerprint: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16), default="photos")
    state: Mapped[str] = mapped_column(String(16), default="pending")
    hyperlora_fingerprint: Mapped[str] = mapped_column(String(64))
    recogniser: Mapped[str | None] = mapped_column(String(100))
    reference_embedding: Mapped[bytes | None] = mapped_column(LargeBinary)
    storage_key: Mapped[str | None] = mapped_column(String(500))
    sha256: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    generations: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_token: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_until: Mapped[float | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[dt.datetime | None]
    branch: Mapped[str] = mapped_column(String(8), default="id", server_default="id")


class WeightSetSource(Base):
    """What a weight set was made from, so that erasing a person reaches every set made from that person."""

    __tablename__ = "weight_set_sources"
    __table_args__ = (
        own("weight_sets", "weight_set_id"),
        own("photo_sets", "photo_set_id"),
        own("weight_sets", "source_weight_set_id"),
        Index("ix_weight_set_sources_photo_set", "tenant_id", "photo_set_id"),
        Index("ix_weight_set_sources_source", "tenant_id", "source_weight_set_id"),
        CheckConstraint("(photo_set_id IS NULL) <> (source_weight_set_id IS NULL)", name="one_source"),
    )
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    weight_set_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    photo_set_id: Mapped[uuid.UUID | None]
    source_weight_set_id: Mapped[uuid.UUID | None]
    weight: Mapped[float] = mapped_column(default=1.0)


class Job(Owned, Base):
    """One enqueued manifest."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant_id", "key"),
        Index("ix_jobs_archive", "tenant_id", "archive_state", "id"),
    )
    key: Mapped[str] = mapped_column(String(200))
    content_hash: Mapped[str] = mapped_column(String(64))
    name: Mapped[str | None] = mapped_column(String(200))
    profile: Mapped[str] = mapped_column(String(100))
    priority: Mapped[int] = mapped_column(Integer, default=0)
    identities_total: Mapped[int] = mapped_column(default=0)
    units_total: Mapped[int] = mapped_column(default=0)
    renders_total: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    cancelled_at: Mapped[dt.datetime | None]
    paused_at: Mapped[dt.datetime | None]
    # What of it lies in the archive: NULL as long as nothing does, else moving, archived or restoring.
    archive_state: Mapped[str | None] = mapped_column(String(16))
    archived_at: Mapped[dt.datetime | None]
    archived_finished_at: Mapped[dt.datetime | None]
    archived_units: Mapped[int] = mapped_column(default=0, server_default="0")
    archived_done: Mapped[int] = mapped_column(default=0, server_default="0")
    archived_failed: Mapped[int] = mapped_column(default=0, server_default="0")
    archived_cancelled: Mapped[int] = mapped_column(default=0, server_default="0")
    # The `finished_at` of the end that was told to whoever waits for it; see `jobs.repository.ends`.
    told_at: Mapped[dt.datetime | None]
    # W3C trace context of the enqueueing, so that spans of workers join it.
    traceparent: Mapped[str | None] = mapped_column(String(64))


class JobPicture(Base):
    """A picture that a job was given beside photos (a pose, a start picture, a mask), so that erasure reaches it."""

    __tablename__ = "job_pictures"
    __table_args__ = (
        own("jobs", "job_id"),
        own("photos", "photo_id"),
        Index("ix_job_pictures_photo", "tenant_id", "photo_id"),
    )
    tenant_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    photo_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class Unit(Owned, Base):
    """One person of one job with a bounded number of renders: what is claimed, leased and tried again."""

    __tablename__ = "units"
    __table_args__ = (
        own("jobs", "job_id"),
        own("identities", "identity_id"),
        own("photo_sets", "photo_set_id"),
        one_of("state", UNIT_STATES),
        Index("ix_units_id", "id"),
        Index("ix_units_claim", "profile", "state", "sort_key", "id"),
        Index("ix_units_share", "profile", "state", "tenant_id", "sort_key", "id"),
        Index("ix_units_tenant_claim", "tenant_id", "state", "sort_key"),
        Index("ix_units_group", "tenant_id", "photo_set_id", "profile", "state"),
        Index("ix_units_job", "tenant_id", "job_id", "identity_id"),
        Index("ix_units_lease", "state", "lease_until"),
        Index("ix_units_owner", "lease_owner", "state"),
        Index("ix_units_identity", "tenant_id", "identity_id"),
        Index(
            "ix_units_untold",
            "tenant_id",
            "job_id",
            sqlite_where=text("finished_at IS NOT NULL AND told_at IS NOT finished_at"),
            postgresql_where=text("finished_at IS NOT NULL AND told_at IS DISTINCT FROM finished_at"),
        ),
    )
    job_id: Mapped[uuid.UUID]
    identity_id: Mapped[uuid.UUID]
    photo_set_id: Mapped[uuid.UUID]
    profile: Mapped[str] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(16), default="ready")
    priority: Mapped[int] = mapped_column(default=0)
    ready_at: Mapped[float]
    sort_key: Mapped[float]
    attempts: Mapped[int] = mapped_column(default=0)
    lost_workers: Mapped[int] = mapped_column(default=0, server_default="0")
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_token: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_until: Mapped[float | None]
    message_sent_at: Mapped[float | None]
    renders_total: Mapped[int]
    renders_done: Mapped[int] = mapped_column(default=0)
    renders_failed: Mapped[int] = mapped_column(default=0)
    renders_cancelled: Mapped[int] = mapped_column(default=0)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[dt.datetime | None]
    told_at: Mapped[dt.datetime | None]


class Render(Owned, Base):
    """One picture: what was asked, what was drawn, how long each step took."""

    __tablename__ = "renders"
    __table_args__ = (
        own("jobs", "job_id"),
        own("units", "unit_id"),
        own("identities", "identity_id"),
        one_of("state", RENDER_STATES),
        Index("ix_renders_unit", "tenant_id", "unit_id", "state"),
        Index("ix_renders_job", "tenant_id", "job_id", "ordinal"),
        Index("ix_renders_identity", "tenant_id", "identity_id"),
    )
    job_id: Mapped[uuid.UUID]
    unit_id: Mapped[uuid.UUID]
    identity_id: Mapped[uuid.UUID]
    rerun_of: Mapped[uuid.UUID | None]
    ordinal: Mapped[int]
    prompt_name: Mapped[str] = mapped_column(String(200))
    prompt: Mapped[str] = mapped_column(Text)
    negative_prompt: Mapped[str] = mapped_column(Text, default="")
    seed: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    steps: Mapped[int]
    guidance: Mapped[float]
    scheduler: Mapped[str] = mapped_column(String(64))
    lora_weight: Mapped[float]

    state: Mapped[str] = mapped_column(String(16), default="waiting")
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    final_prompt: Mapped[str | None] = mapped_column(Text)
    storage_key: Mapped[str | None] = mapped_column(String(500))
    media_type: Mapped[str | None] = mapped_column(String(100))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    id_similarity: Mapped[float | None]
    id_similarity_reason: Mapped[str | None] = mapped_column(String(200))
    recogniser: Mapped[str | None] = mapped_column(String(100))
    model_fingerprint: Mapped[str | None] = mapped_column(String(64))
    weight_set_fingerprint: Mapped[str | None] = mapped_column(String(64))
    device: Mapped[str | None] = mapped_column(String(100))
    worker: Mapped[str | None] = mapped_column(String(200))
    batch_size: Mapped[int | None]
    seconds_weights: Mapped[float | None]
    seconds_merge: Mapped[float | None]
    seconds_denoise: Mapped[float | None]
    seconds_decode: Mapped[float | None]
    seconds_encode: Mapped[float | None]
    seconds_upload: Mapped[float | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[dt.datetime | None]

    options: Mapped[dict[str, Any] | None]
    drawn_seed: Mapped[int | None] = mapped_column(BigInteger)
    draws: Mapped[int | None]
    output_width: Mapped[int | None]
    output_height: Mapped[int | None]
    seconds_detail: Mapped[float | None]
    seconds_finish: Mapped[float | None]
    detail_faces: Mapped[int | None]


class Candidate(Owned, Base):
    """A picture drawn for a render; at most one of a render's candidates is chosen."""

    __tablename__ = "candidates"
    __table_args__ = (
        own("renders", "render_id"),
        UniqueConstraint("tenant_id", "storage_key"),
        Index("ix_candidates_render", "tenant_id", "render_id"),
        Index(
            "uq_candidates_chosen",
            "tenant_id",
            "render_id",
            unique=True,
            sqlite_where=text("chosen = 1"),
            postgresql_where=text("chosen"),
        ),
    )
    render_id: Mapped[uuid.UUID]
    lease_token: Mapped[int] = mapped_column(BigInteger)
    seed: Mapped[int] = mapped_column(BigInteger)
    storage_key: Mapped[str] = mapped_column(String(500))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    id_similarity: Mapped[float | None]
    chosen: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)


class Output(Owned, Base):
    """A further file that was made of a finished render; the first one stands on the render's own row."""

    __tablename__ = "outputs"
    __table_args__ = (
        own("renders", "render_id"),
        UniqueConstraint("tenant_id", "storage_key"),
        UniqueConstraint("tenant_id", "render_id", "name"),
    )
    render_id: Mapped[uuid.UUID]
    name: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(500))
    media_type: Mapped[str] = mapped_column(String(100))
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)


class Event(Owned, Base):
    """Something that happened to a job, unit, render or weight set, kept for whoever asks why."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job", "tenant_id", "job_id"),)
    at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    kind: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[uuid.UUID | None]
    unit_id: Mapped[uuid.UUID | None]
    render_id: Mapped[uuid.UUID | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


def _archive_of(model: type[Base], *more: SchemaItem) -> Table:
    """The table that keeps a table's rows when nothing is done with them any more: the same columns, fewer indexes."""
    columns = [
        Column(column.name, column.type, primary_key=column.primary_key, nullable=column.nullable)
        for column in model.__table__.columns
    ]
    return Table(f"archived_{model.__tablename__}", Base.metadata, *columns, *more)


def _goes_with(table: str, column: str) -> ForeignKeyConstraint:
    """A reference to a row of the same tenant, with which this one goes: erasing a person reaches the archive."""
    return ForeignKeyConstraint(["tenant_id", column], [f"{table}.tenant_id", f"{table}.id"], ondelete="CASCADE")


ARCHIVED_UNITS = _archive_of(
    Unit,
    own("jobs", "job_id"),
    _goes_with("identities", "identity_id"),
    Index("ix_archived_units_job", "tenant_id", "job_id", "identity_id"),
    Index("ix_archived_units_identity", "tenant_id", "identity_id"),
)
ARCHIVED_RENDERS = _archive_of(
    Render,
    _goes_with("archived_units", "unit_id"),
    Index("ix_archived_renders_unit", "tenant_id", "unit_id"),
    Index("ix_archived_renders_job", "tenant_id", "job_id", "ordinal"),
)
ARCHIVED_CANDIDATES = _archive_of(
    Candidate,
    _goes_with("archived_renders", "render_id"),
    Index("ix_archived_candidates_render", "tenant_id", "render_id"),
)
ARCHIVED_OUTPUTS = _archive_of(
    Output,
    _goes_with("archived_renders", "render_id"),
    Index("ix_archived_outputs_render", "tenant_id", "render_id", "name"),
)
ARCHIVED_EVENTS = _archive_of(
    Event, ForeignKeyConstraint(["tenant_id"], ["tenants.id"]), Index("ix_archived_events_job", "tenant_id", "job_id")
)

# Every table there is: to be read from here, as only then all of them are known.
METADATA = Base.metadata
