"""A small queue to test with: people, jobs and units written straight into the tables."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.database import Database
from jobs.repository import jobs as job_rows
from jobs.repository.writer import JobWriter, PersonRows
from jobs.settings import Settings
from jobs.storage import open_storage

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
}


def settings(tmp_path: Path, database_url: str, **changes: Any) -> Settings:
    """Settings with short times and everything in `tmp_path`."""
    values: dict[str, Any] = {
        "lease_seconds": 30.0,
        "reap_seconds": 0.05,
        "resend_seconds": 60.0,
        "retry_seconds": 0.01,
    }
    return Settings(home=tmp_path, database_url=database_url, **{**values, **changes})  # type: ignore[arg-type]


def person(name: str, units: Sequence[int], settings: Settings, *, tenant: str = TENANT, **asked: Any) -> PersonRows:
    """A person with one stored photo and units of so many renders; seeds count up from 0."""
    content = name.encode()
    sha256 = hashlib.sha256(content).hexdigest()
    key = f"{tenant}/photos/{sha256}.jpg"
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
        job_id = job_rows.add(tx, TENANT, key=key, content_hash=key, name=None, profile=profile, priority=priority)
        writer = JobWriter(tx, TENANT, job_id, profile, priority, age_seconds=60)
        writer.add(people)
        totals = {"identities": writer.identities, "units": writer.units, "renders": writer.renders}
        job_rows.accept(tx, TENANT, job_id, **totals)
    return job_id
