"""The tables of what leads out of the queue: galleries, tokens, webhooks, uploads, erasure.

They hang on jobs and tenants, and nothing of the queue hangs on them: a picture is drawn and recorded without.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from jobs.orm import Base, Owned, new_id, one_of, own, utcnow

DELIVERY_STATES = ("waiting", "done", "failed")


class Gallery(Base):
    """A job's gallery: the pages that are stored beside its pictures, and when to make them anew.

    `due_at` is NULL where nothing is to be done. Whoever builds holds a lease, as a unit's worker does.
    """

    __tablename__ = "galleries"
    __table_args__ = (own("jobs", "job_id"), Index("ix_galleries_due", "due_at"))
    tenant_id: Mapped[str] = mapped_column(String(64), ForeignKey("tenants.id"), primary_key=True)
    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    due_at: Mapped[float | None]
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_token: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_until: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    built_at: Mapped[dt.datetime | None]
    built_token: Mapped[int | None] = mapped_column(BigInteger)
    pictures: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)


class Token(Owned, Base):
    """A token with which somebody may ask for a tenant's jobs over HTTP: its own text names the tenant, and only its
    SHA-256 is kept. `ended_sessions` are the logins with it that were ended before their time: until when each would
    have lasted, by its id.
    """

    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("tenant_id", "sha256"),)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    may_write: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
    last_used_at: Mapped[dt.datetime | None]
    ended_sessions: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Webhook(Owned, Base):
    """Where a tenant wants to be told of ends, and the secret under which what it is told is signed.

    Whoever delivers holds a lease on the whole endpoint, so that a slow one holds up nobody else. `retry_at`,
    `failures` and `failing_since` are the endpoint's: while it does not answer, none of its deliveries is tried.
    """

    __tablename__ = "webhooks"
    url: Mapped[str] = mapped_column(String(2000))
    secret: Mapped[str] = mapped_column(String(200))
    kinds: Mapped[list[Any]] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[float | None]
    served_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    retry_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    failing_since: Mapped[float | None]
    disabled_at: Mapped[dt.datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)


class Delivery(Owned, Base):
    """One thing to tell one webhook, until it was told or given up; `id` is the message's id at each try."""

    __tablename__ = "deliveries"
    __table_args__ = (
        own("webhooks", "webhook_id"),
        one_of("state", DELIVERY_STATES),
        Index("ix_deliveries_due", "state", "due_at"),
        Index("ix_deliveries_webhook", "tenant_id", "webhook_id", "state", "due_at"),
        Index("ix_deliveries_job", "tenant_id", "job_id"),
    )
    webhook_id: Mapped[uuid.UUID]
    kind: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[uuid.UUID | None]
    unit_id: Mapped[uuid.UUID | None]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    due_at: Mapped[float]
    attempts: Mapped[int] = mapped_column(default=0)
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    ended_at: Mapped[dt.datetime | None]


class Upload(Owned, Base):
    """A photo that somebody may send, or has sent, before a job names it by its SHA-256; removed if none does."""

    __tablename__ = "uploads"
    __table_args__ = (UniqueConstraint("tenant_id", "sha256"), Index("ix_uploads_expires", "expires_at"))
    sha256: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(500))
    media_type: Mapped[str] = mapped_column(String(100))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    expires_at: Mapped[dt.datetime]


class Audit(Base):
    """That something was erased, by whom and how much of it; nothing that tells whom it was about.

    No foreign key: a tenant's own erasure is noted here too, and outlives it.
    """

    __tablename__ = "audits"
    __table_args__ = (Index("ix_audits_at", "at"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    action: Mapped[str] = mapped_column(String(64))
    tenant: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(500))
    counts: Mapped[dict[str, Any]]


class Forgetting(Base):
    """What is still to be done after an erasure, by names that tell of nobody.

    Every worker drops `names` from memory and disk: weight sets by fingerprint, units by id. `keys` are objects that
    are to go from the store, NULL when they have; `prefixes` are where a worker that was drawing then may have stored
    one more, and are looked at once every worker has obeyed. The fleet's, as `workers` are; removed after that.
    """

    __tablename__ = "forgettings"
    __table_args__ = (Index("ix_forgettings_at", "at"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    at: Mapped[float]
    tenant: Mapped[str] = mapped_column(String(64))
    names: Mapped[dict[str, Any]]
    keys: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    prefixes: Mapped[list[Any]] = mapped_column(JSON(none_as_null=True))
