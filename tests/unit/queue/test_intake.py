"""Enqueueing: what is written when, and what is not."""

from __future__ import annotations

import dataclasses
import errno
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, current_app
from PIL import Image
from sqlalchemy import func, select

from jobs import enqueue, rerun, results, status
from jobs.broker import make_app
from jobs.database import Database
from jobs.errors import (
    BucketMissing,
    DatabaseOutdated,
    DatabaseUnavailable,
    KeyConflict,
    ManifestInvalid,
    StorageFull,
    UnknownJob,
)
from jobs.models import Event, Identity, Job, Photo, PhotoSet, PhotoSetPhoto, Render, Unit
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.reaper import turn

TABLES = (Job, Identity, Photo, PhotoSet, PhotoSetPhoto, Unit, Render)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with two photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"ada.png": "red", "alan.png": "blue"}.items():
        Image.new("RGB", (96, 64), colour).save(folder / name)
    return folder


@pytest.fixture
def settings(database: Database, database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database_url)  # type: ignore[arg-type]


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "key": "spring",
        "defaults": {"size": 64, "steps": 2},
        "prompts": [{"name": "office", "text": "portrait of {subject}", "seeds": 3}],
        "identities": [
            {"id": "ada", "subject": "a woman", "photos": ["ada.png"], "consent": "form 12", "purpose": "team page"},
            {"id": "alan", "subject": "a man", "photos": ["alan.png", "ada.png"]},
        ],
        **changes,
    }


def counts(database: Database) -> list[int]:
    with database.reading() as tx:
        return [tx.execute(select(func.count()).select_from(table)).scalar_one() for table in TABLES]


def test_rows_photos_and_messages(settings: Settings, database: Database, base: Path) -> None:
    # When a manifest of two people and three seeds is enqueued
    job = enqueue(manifest(), settings=settings, base=base)

    # Then there is one job, two people, two photos (one shared), two sets, two units and six renders
    assert (job.created, job.identities, job.units, job.renders, job.messages_sent) == (True, 2, 2, 6, 2)
    assert counts(database) == [1, 2, 2, 2, 3, 2, 6]
    stored = sorted(open_storage(settings.storage_url, settings).list("default/photos/"))
    assert len(stored) == 2
    with database.reading() as tx:
        ada = tx.execute(select(Identity).where(Identity.external_id == "ada")).one()
        assert (ada.consent_reference, ada.purpose) == ("form 12", "team page")
        assert tx.execute(select(Event.kind)).scalars().all() == ["job.enqueued"]
    rows = list(results("spring", settings=settings))
    assert [row["ordinal"] for row in rows] == list(range(6))
    assert rows[0]["prompt"] == "portrait of a woman"
    assert len({row["seed"] for row in rows}) == 6


def test_a_photo_that_no_row_names_yet_is_written_anew_so_that_no_sweep_takes_it(
    settings: Settings, database: Database, base: Path
) -> None:
    # Given photos that lie in the store since long ago, of an enqueueing that was killed before its rows
    storage: Any = open_storage(settings.storage_url, settings)
    enqueue(manifest(tenant="other"), settings=settings, base=base)
    for entry in list(storage.entries("other/photos/")):
        key = entry.key.replace("other/", "default/")
        storage.put(key, storage.get(entry.key), content_type="image/png")
        os.utime(storage.root / key, (1.0, 1.0))

    # When they are enqueued, then they are young
    enqueue(manifest(), settings=settings, base=base)
    young = list(storage.entries("default/photos/"))
    assert len(young) == 2 and all(entry.modified_at > 1_000.0 for entry in young)

    # And those that rows name are left alone
    for entry in young:
        os.utime(storage.root / entry.key, (1.0, 1.0))
    enqueue(manifest(key="other"), settings=settings, base=base)
    assert {entry.modified_at for entry in storage.entries("default/photos/")} == {1.0}


def test_the_same_again_is_the_same_job(settings: Settings, database: Database, base: Path) -> None:
    # Given an enqueued manifest
    first = enqueue(manifest(), settings=settings, base=base)

    # When it is enqueued again, as a whole and as a new job
    second = enqueue(manifest(), settings=settings, base=base)
    content = {name: value for name, value in manifest().items() if name != "key"}
    third = enqueue(content, settings=settings, base=base)
    fourth = enqueue(content, settings=settings, base=base)
    again = enqueue(content, settings=settings, base=base, again=True)

    # Then key and content decide; people and photos are not doubled
    assert (second.job_id, second.created) == (first.job_id, False)
    assert (fourth.job_id, fourth.created) == (third.job_id, False)
    assert again.created
    assert again.job_id != third.job_id
    assert counts(database) == [3, 2, 2, 2, 3, 6, 18]


def test_the_same_key_with_other_content_is_refused(settings: Settings, database: Database, base: Path) -> None:
    enqueue(manifest(), settings=settings, base=base)
    before = counts(database)
    with pytest.raises(KeyConflict, match="'spring' belongs to job"):
        enqueue(manifest(defaults={"size": 64, "steps": 3}), settings=settings, base=base)
    assert counts(database) == before


def test_a_tenant_sees_only_its_own(settings: Settings, base: Path) -> None:
    # Given the same manifest of two tenants
    mine = enqueue(manifest(), settings=settings, base=base, overrides={"tenant": "acme"})
    theirs = enqueue(manifest(), settings=settings, base=base, overrides={"tenant": "globex"})

    # Then they are two jobs, and neither sees the other's
    assert mine.job_id != theirs.job_id
    assert status("spring", tenant="acme", settings=settings).job["job_id"] == mine.job_id
    with pytest.raises(UnknownJob):
        status(theirs.job_id, tenant="acme", settings=settings)


def test_new_photos_of_a_known_person_are_a_new_set(settings: Settings, database: Database, base: Path) -> None:
    # Given a job, and another with other photos of the same person
    enqueue(manifest(), settings=settings, base=base)
    people = [{"id": "ada", "subject": "a woman", "photos": ["ada.png", "alan.png"]}]
    enqueue(manifest(key="summer", identities=people), settings=settings, base=base)

    # Then the person is one, with two photo sets; alan's set of the same two photos is his own
    with database.reading() as tx:
        assert tx.execute(select(func.count()).select_from(Identity)).scalar_one() == 2
        sets = tx.execute(select(PhotoSet.identity_id, PhotoSet.fingerprint)).all()
    assert len(sets) == 3
    assert len({row.fingerprint for row in sets}) == 2


def test_units_are_cut(settings: Settings, base: Path) -> None:
    # Given at most two renders in a unit and three renders for each of two people
    small = settings.model_copy(update={"renders_per_unit": 2})

    # When the manifest is enqueued
    job = enqueue(manifest(), settings=small, base=base)

    # Then each person has a unit of two and one of one
    assert job.units == 4
    people = status(settings=small).people
    assert [(row["external_id"], row["renders"]) for row in people] == [("ada", 3), ("alan", 3)]


def test_faults_are_told_together_and_nothing_is_written(settings: Settings, database: Database, base: Path) -> None:
    # Given a missing photo, an unknown field in a prompt, a doubled person, no prompt at all for them
    people = [
        {"id": "ada", "photos": ["missing.png"]},
        {"id": "ada", "subject": "x", "photos": ["ada.png"]},
        {"id": "eve", "subject": "x", "photos": ["../settings.py"]},
    ]

    # When it is enqueued
    with pytest.raises(ManifestInvalid) as caught:
        enqueue(manifest(identities=people), settings=settings, base=base)

    # Then each is named, and neither rows nor objects exist
    told = str(caught.value)
    assert caught.value.total >= 4
    for words in ("missing.png", "subject", "ada", "../settings.py"):
        assert words in told
    assert counts(database) == [0] * 7
    assert list(open_storage(settings.storage_url, settings).list("")) == []


def test_a_large_job_sends_a_few_messages_and_the_reaper_the_rest(
    settings: Settings, database: Database, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given that three messages are as many as one enqueueing sends
    monkeypatch.setattr("jobs.intake.MESSAGES_PER_CHUNK", 1)
    monkeypatch.setattr("jobs.intake.MOST_CHUNKS", 3)

    # When a job of five units is enqueued
    many = [{"id": f"p{n}", "subject": "a woman", "photos": ["ada.png"]} for n in range(5)]
    job = enqueue(manifest(identities=many), settings=settings, base=base)

    # Then three messages are sent, and the other two units are those that a reaper announces first
    assert (job.units, job.messages_sent, job.warnings) == (5, 3, [])
    sent = FakeBroker()
    assert turn(database, sent, settings, "reaper")[2] == 2  # type: ignore[arg-type]
    with database.reading() as tx:
        ids = list(tx.execute(select(Unit.id).order_by(Unit.id)).scalars())
    assert sorted(sent.ids) == ids[3:]


def test_a_broker_that_is_down_loses_nothing(settings: Settings, database: Database, base: Path) -> None:
    # Given a broker that does not answer
    down = settings.model_copy(update={"broker_url": type(settings.broker_url)("redis://127.0.0.1:1/0")})

    # When a job is enqueued
    job = enqueue(manifest(), settings=down, base=base)

    # Then its rows are there, with a warning
    assert job.created
    assert job.messages_sent == 0
    assert "does not answer" in job.warnings[0] or "did not answer" in job.warnings[0]
    assert counts(database)[-1] == 6

    # When a reaper with a broker that answers takes its turn
    sent = FakeBroker()
    assert turn(database, sent, settings, "reaper-1") == (0, 0, 2)  # type: ignore[arg-type]

    # Then every unit was announced, once
    assert len(sent.ids) == 2
    assert turn(database, sent, settings, "reaper-1") == (0, 0, 0)  # type: ignore[arg-type]


class FakeBroker:
    """Takes every message."""

    def __init__(self) -> None:
        self.ids: list[uuid.UUID] = []

    def send(self, unit_ids: list[uuid.UUID]) -> int:
        self.ids += unit_ids
        return len(unit_ids)


def test_only_the_elected_reaper_reaps(settings: Settings, database: Database, base: Path) -> None:
    enqueue(manifest(), settings=settings, base=base)
    slow = settings.model_copy(update={"resend_seconds": 1e-6})
    first, second = FakeBroker(), FakeBroker()
    assert turn(database, first, slow, "reaper-1")[2] == 2  # type: ignore[arg-type]
    assert turn(database, second, slow, "reaper-2") == (0, 0, 0)  # type: ignore[arg-type]


def test_a_database_that_is_down(tmp_path: Path, base: Path) -> None:
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    down = Settings(home=tmp_path / "home", database_url=url)  # type: ignore[arg-type]
    with pytest.raises(DatabaseUnavailable, match="does not answer") as caught:
        enqueue(manifest(), settings=down, base=base)
    assert caught.value.retryable


def test_a_password_is_never_told(tmp_path: Path, base: Path) -> None:
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/none"
    down = Settings(home=tmp_path / "home", database_url=url, broker_url="redis://:hunter2@127.0.0.1:1/0")  # type: ignore[arg-type]
    with pytest.raises(DatabaseUnavailable) as caught:
        enqueue(manifest(), settings=down, base=base)
    assert "hunter2" not in str(caught.value) + repr(down)


def test_an_empty_database_says_what_to_do(tmp_path: Path, base: Path) -> None:
    fresh = Settings(home=tmp_path / "home")
    with pytest.raises(DatabaseOutdated, match="portraits db upgrade"):
        enqueue(manifest(), settings=fresh, base=base)


@pytest.mark.s3
def test_a_wrong_bucket(settings: Settings, database: Database, base: Path, s3_server: Any, monkeypatch: Any) -> None:
    # Given a bucket that does not exist on a real server
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    wrong = settings.model_copy(update={"storage_url": "s3://no-such-bucket/x", "s3_endpoint_url": s3_server.endpoint})

    # When a job is enqueued
    with pytest.raises(BucketMissing, match="no-such-bucket"):
        enqueue(manifest(), settings=wrong, base=base)

    # Then no row was written
    assert counts(database) == [0] * 7


def test_a_full_disk(settings: Settings, database: Database, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a store whose disk is full
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("jobs.storage_folder.os.fsync", full)

    # When a job is enqueued
    with pytest.raises(StorageFull):
        enqueue(manifest(), settings=settings, base=base)

    # Then no row was written, and no half object is left
    monkeypatch.undo()
    assert counts(database) == [0] * 7
    assert [path for path in Path(settings.storage_url.removeprefix("file://")).rglob("*") if path.is_file()] == []


def test_a_result_is_a_plain_value(settings: Settings, base: Path) -> None:
    job = enqueue(manifest(), settings=settings, base=base)
    assert dataclasses.asdict(job)["key"] == "spring"


def test_a_rerun_wakes_a_worker_for_itself_alone(
    settings: Settings, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job of two waiting units
    enqueue(manifest(), settings=settings, base=base)
    first = next(iter(results("spring", settings=settings)))
    sent: list[uuid.UUID] = []
    monkeypatch.setattr("jobs.broker.Broker.send", lambda self, ids: sent.extend(ids) or len(ids))

    # When one of its renders is asked for once more
    rerun(first["render_id"], settings=settings)

    # Then one message was sent, and not for a unit that had its own
    assert len(sent) == 1
    assert sent[0] != first["unit_id"]


def test_a_producers_own_celery_stays_the_current_one(settings: Settings) -> None:
    # Given a program with a Celery of its own
    own = Celery("own")
    own.set_current()

    # When it makes ours to enqueue with
    ours = make_app(settings)

    # Then its own is still the current app
    assert current_app._get_current_object() is own
    ours.close()
    own.close()
