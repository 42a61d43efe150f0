"""A small queue to test with: people, jobs and units written straight into the tables."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from jobs.database import Database
from jobs.models import Unit
from jobs.repository import fleet, queries
from jobs.repository import jobs as job_rows
from jobs.repository import people as people_rows
from jobs.repository.writer import JobWriter, PersonRows
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.aside import Outages
from worker.costs import Costs
from worker.leases import Leases
from worker.plan import BatchSizes
from worker.recorder import Recorder
from worker.shift import Shift, ShiftReport
from worker.testing import FakeRenderer
from worker.weights import WeightSets

# For what only several writers at a time can show; SQLite has one.
only_postgres = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
TENANT = "acme"
ASKED: dict[str, Any] = {
    "prompt_name": "office",
    "prompt": "a portrait",
    "negative_prompt": "",
    "width": 16,
    "height": 16,
    "steps": 2,
    "guidance": 5.0,
    "scheduler": "euler",
    "lora_weight": 0.8,
    "options": None,
}


def settings(tmp_path: Path, database_url: str, **changes: Any) -> Settings:
    """Settings with short times and everything in `tmp_path`."""
    values: dict[str, Any] = {
        "lease_seconds": 30.0,
        "reap_seconds": 0.05,
        "resend_seconds": 60.0,
        "retry_seconds": 3600.0,
    }
    return Settings(home=tmp_path, database_url=database_url, **{**values, **changes})  # type: ignore[arg-type]


def person(name: str, units: Sequence[int], settings: Settings, *, tenant: str = TENANT, **asked: Any) -> PersonRows:
    """A person with one stored photo and units of so many renders; seeds count up from 0."""
    content = name.encode()
    sha256 = hashlib.sha256(content).hexdigest()
    key = f"{tenant}/photos/{sha256}"
    open_storage(settings.storage_url, settings).put(key, content, content_type="image/jpeg")
    photo = {"sha256": sha256, "storage_key": key, "media_type": "image/jpeg", "size_bytes": len(content)}
    seed = iter(range(1_000_000))
    return PersonRows(
        external_id=name,
        consent_reference=None,
        purpose=None,
        photos=[{**photo, "width": 8, "height": 8}],
        photo_set_fingerprint=sha256,
        units=[[{**ASKED, **asked, "ordinal": n, "seed": n} for n in (next(seed) for _ in range(k))] for k in units],
    )


def add_job(
    database: Database, people: Sequence[PersonRows], *, key: str = "job", profile: str = "fake", priority: int = 0
) -> uuid.UUID:
    """Write a job with these people."""
    with database.transaction() as tx:
        people_rows.register(tx, TENANT, people)
        job_id = job_rows.add(tx, TENANT, key=key, content_hash=key, name=None, profile=profile, priority=priority)
        writer = JobWriter(tx, TENANT, job_id, profile, priority, age_seconds=60)
        writer.add(people, people_rows.find(tx, TENANT, people))
        totals = {"identities": writer.identities, "units": writer.units, "renders": writer.renders}
        job_rows.accept(tx, TENANT, job_id, **totals)
    return job_id


def wait_for_the_queue(database: Database) -> None:
    """Until somebody waits for a lock of this PostgreSQL database."""
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 30
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.execute(asked).scalar_one():
            assert time.monotonic() < deadline, "nobody waits"


class World:
    """A database, a folder store and a renderer, and shifts over them in this process."""

    def __init__(self, database: Database, settings: Settings, renderer: FakeRenderer, owner: str = "worker-1") -> None:
        self.database, self.settings, self.renderer, self.owner = database, settings, renderer, owner
        self.storage: Any = open_storage(settings.storage_url, settings)
        self.stop = threading.Event()
        self.sizes = BatchSizes(renderer.batch_size)
        self.weight_sets = WeightSets(database, self.storage, renderer, owner, lease_seconds=settings.lease_seconds)
        self.leases: Leases | None = None
        self.recorder: Recorder | None = None
        self.costs: Costs | None = None
        self.outages: Outages | None = None
        self.overdue: Callable[[], str | None] = lambda: None
        self.give_up: Callable[[], None] = lambda: None

    def use_storage(self, storage: Any) -> None:
        """Put another store in the place of the folder."""
        self.storage = storage
        self.weight_sets = WeightSets(
            self.database, storage, self.renderer, self.owner, lease_seconds=self.settings.lease_seconds
        )

    def shift(self, unit_id: uuid.UUID | None = None) -> ShiftReport:
        """Run one shift from this unit, or from the first that waits."""
        if unit_id is None:
            with self.database.reading() as tx:
                first = select(Unit.id).where(Unit.state == "ready").order_by(Unit.sort_key, Unit.id).limit(1)
                unit_id = tx.execute(first).scalar_one_or_none() or uuid.uuid4()
        self.leases = Leases(
            self.database,
            self.owner,
            lease_seconds=self.settings.lease_seconds,
            also=(self._sign_of_life, self.weight_sets.heartbeat),
            overdue=self.overdue,
            give_up=self.give_up,
        )
        self.recorder = recorder = Recorder(
            self.database,
            self.storage,
            self.renderer,
            self.owner,
            worker_name=self.owner,
            threads=2,
            queue=4,
            outages=self.outages,
        )
        try:
            with self.leases:
                return Shift(
                    self.database,
                    self.settings,
                    self.storage,
                    self.renderer,
                    self.weight_sets,
                    self.leases,
                    recorder,
                    self.owner,
                    sizes=self.sizes,
                    should_stop=self.stop.is_set,
                    costs=self.costs,
                ).run(unit_id)
        finally:
            recorder.close()

    def _sign_of_life(self, tx: Connection) -> None:
        fleet.seen(tx, self.owner, name=self.owner, pid=1, version="0")

    def job(self, job_id: uuid.UUID) -> dict[str, Any]:
        """The job's row in the view."""
        with self.database.reading() as tx:
            row = queries.job(tx, TENANT, job_id)
        assert row is not None
        return dict(row)

    def renders(self, job_id: uuid.UUID) -> list[dict[str, Any]]:
        """The job's renders in the view."""
        with self.database.reading() as tx:
            return [dict(row) for row in queries.renders(tx, TENANT, job_id)]

    def pictures(self) -> list[str]:
        """The keys of all stored pictures."""
        return sorted(key for key in self.storage.list("") if key.endswith((".png", ".jpg", ".webp")))
