"""The tables of the fleet: workers, what they did, what people have told them. They name no tenant, person or job."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.orm import Base, new_id, utcnow


class Worker(Base):
    """A worker process and its last sign of life. Workers serve every tenant."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    profile: Mapped[str | None] = mapped_column(String(100))
    device: Mapped[str | None] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[dt.datetime] = mapped_column(default=utcnow)
    last_seen_at: Mapped[float]
    drain_requested_at: Mapped[float | None]
    busy: Mapped[bool | None]
    # Up to which moment of `forgettings.at` it has dropped what it was told to.
    forgot_until: Mapped[float | None]
    # The part of the last minutes in which its device drew, 0 to 1; NULL where it is at no shift.
    drawing_share: Mapped[float | None]


class Shift(Base):
    """What a worker drew in one stretch of claiming, and how long its device drew and stood still, in seconds.

    Workers serve every tenant within one shift, so it is the fleet's: it names no tenant, person, job or picture.
    `pictures` are those of all batches, follow-ups included; `places` what these batches could have held;
    `batch_sizes` how many batches there were of each number of pictures; `seconds_before` passed before the first
    batch, `seconds_between` between batches. Loading and warming come before the shift begins.
    """

    __tablename__ = "shifts"
    __table_args__ = (Index("ix_shifts_ended", "ended_at"), Index("ix_shifts_worker", "worker", "ended_at"))
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    worker: Mapped[str] = mapped_column(String(200))
    worker_id: Mapped[str] = mapped_column(String(100))
    profile: Mapped[str] = mapped_column(String(100))
    device: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(32))
    began_at: Mapped[dt.datetime]
    ended_at: Mapped[dt.datetime]
    seconds: Mapped[float]
    units: Mapped[int]
    people: Mapped[int]
    renders: Mapped[int]
    pictures: Mapped[int]
    places: Mapped[int]
    batches: Mapped[int]
    mixed: Mapped[int]
    generated: Mapped[int]
    batch_sizes: Mapped[dict[str, Any]]
    ran_dry: Mapped[bool]
    seconds_loading: Mapped[float]
    seconds_warming: Mapped[float]
    seconds_before: Mapped[float]
    seconds_drawing: Mapped[float]
    seconds_between: Mapped[float]
    seconds_preparing: Mapped[float]


class Control(Base):
    """What people have told the whole fleet; one row, `fleet`, which every claim reads."""

    __tablename__ = "controls"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    paused_at: Mapped[dt.datetime | None]


class Leader(Base):
    """A task of which only one process of the fleet does its turn, such as the reaper."""

    __tablename__ = "leaders"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(100))
    until: Mapped[float] = mapped_column(default=0.0)
