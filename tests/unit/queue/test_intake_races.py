"""Enqueueing while people are erased, photos are swept, or others enqueue for the same tenant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, only_postgres, settings
from sqlalchemy import select
from test_intake import base, counts, manifest  # noqa: F401

from jobs import enqueue, intake, rerun, results
from jobs.database import Database
from jobs.errors import JobsError, PersonErased, UnknownJob
from jobs.models import Identity, Photo
from jobs.repository import again, erasure, tenants
from jobs.settings import Settings
from jobs.storage import open_storage

Step = Callable[..., Any]


@pytest.fixture
def chosen(database: Database, database_url: str, tmp_path: Path) -> Settings:
    return settings(tmp_path, database_url, tenant=TENANT)


def erase_all(database: Database, chosen: Settings) -> int:
    """Erase everybody, and their objects; returns how many people."""
    with database.transaction() as tx:
        people = list(tx.execute(select(Identity.id)).scalars())
        erased = [erasure.erase(tx, TENANT, one) for one in people]
    storage = open_storage(chosen.storage_url, chosen)
    for key in (key for one in erased if one is not None for key in one.keys):
        storage.delete(key)
    return len(people)


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], Any], times: int = 1) -> None:
    """Do something before each of the first calls of a step."""
    step: Step = getattr(owner, name)
    left = iter(range(times))

    def acted(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is not None:
            act()
        return step(*args, **kwargs)

    monkeypatch.setattr(owner, name, acted)


def missing(database: Database, chosen: Settings) -> list[str]:
    """The photos that rows name and that are not there."""
    storage = open_storage(chosen.storage_url, chosen)
    with database.reading() as tx:
        named = list(tx.execute(select(Photo.storage_key)).scalars())
    assert len(named) == 2
    return [key for key in named if not storage.exists(key)]


def test_photos_of_somebody_who_was_erased_after_they_were_found_are_stored_again(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given known people, who are erased when their photos have been found and their rows not yet
    enqueue(manifest(tenant=TENANT), settings=chosen, base=base)
    before(monkeypatch, intake, "_register_people", lambda: erase_all(database, chosen))

    # When a job of them is enqueued, then it is there whole, with photos
    assert enqueue(manifest(tenant=TENANT, key="other"), settings=chosen, base=base).created
    assert missing(database, chosen) == []


def test_photos_that_a_sweep_took_before_their_rows_came_are_stored_again(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given new photos that are stored for so long that a sweep removes them
    def sweep() -> None:
        storage = open_storage(chosen.storage_url, chosen)
        for key in list(storage.list(f"{TENANT}/photos/")):
            storage.delete(key)

    before(monkeypatch, intake, "_register_people", sweep)
    # When their rows come, then so do they
    enqueue(manifest(tenant=TENANT), settings=chosen, base=base)
    assert missing(database, chosen) == []


def test_people_who_are_erased_before_their_job_is_written_are_registered_again(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given people who are erased between their rows and the job's
    before(monkeypatch, intake, "_write_rows", lambda: erase_all(database, chosen))
    # When the job is enqueued, then it is there whole
    assert enqueue(manifest(tenant=TENANT), settings=chosen, base=base).created
    assert counts(database) == [1, 2, 2, 2, 3, 2, 6] and missing(database, chosen) == []


def test_people_who_are_erased_again_and_again_end_an_enqueueing_that_may_be_tried_again(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given people who are erased each time before their job is written
    before(monkeypatch, intake, "_write_rows", lambda: erase_all(database, chosen), times=2)
    # When the job is enqueued, then the error says so, and no part of a job is left
    with pytest.raises(PersonErased, match="enqueue it again") as caught:
        enqueue(manifest(tenant=TENANT), settings=chosen, base=base)
    assert caught.value.retryable
    assert counts(database) == [0] * 7


@only_postgres
@pytest.mark.parametrize("times", [1, 2])
def test_people_who_are_erased_in_the_middle_of_writing(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    # Given people who are erased when the job's units are about to refer to them
    before(monkeypatch, intake.JobWriter, "add", lambda: erase_all(database, chosen), times)
    # When the job is enqueued, then it is written once more, or the error is one to try again
    if times == 1:
        assert enqueue(manifest(tenant=TENANT), settings=chosen, base=base).created
        assert counts(database) == [1, 2, 2, 2, 3, 2, 6]
    else:
        with pytest.raises(PersonErased, match="erased twice"):
            enqueue(manifest(tenant=TENANT), settings=chosen, base=base)


@pytest.mark.parametrize("limit", [{"max_people": 1}, {"max_stored_bytes": 400}])
def test_of_four_who_enqueue_somebody_new_at_once_as_many_pass_as_there_is_room_for(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    limit: dict[str, int],
) -> None:
    # Given room for one person, and four who have looked before any of them registers one
    size = (base / "ada.png").stat().st_size
    with database.transaction() as tx:
        tenants.change(tx, TENANT, **(limit if "max_people" in limit else {"max_stored_bytes": size + 10}))
    barrier, refused = threading.Barrier(4), []
    before(monkeypatch, intake, "_register_people", lambda: barrier.wait(30), times=4)

    def one(number: int) -> None:
        photo = base / f"p{number}.png"
        photo.write_bytes((base / "ada.png").read_bytes() + bytes([number]))
        people = [{"id": f"p{number}", "photos": [photo.name]}]
        job = manifest(tenant=TENANT, key=f"job{number}", identities=people, prompts=[{"text": "a portrait"}])
        try:
            enqueue(job, settings=chosen, base=base)
        except JobsError as error:
            refused.append(error.code)

    # When they enqueue at the same moment, then three are refused
    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["quota_exceeded"] * 3
    with database.reading() as tx:
        assert tenants.people(tx, TENANT) == 1


@only_postgres
def test_a_render_that_is_erased_while_it_is_asked_for_again_is_unknown(
    database: Database,
    chosen: Settings,
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a render that was found, of somebody who is erased before its job is locked
    job = enqueue(manifest(tenant=TENANT), settings=chosen, base=base)
    render = next(iter(results(job.job_id, tenant=TENANT, settings=chosen)))["render_id"]
    before(monkeypatch, again, "lock", lambda: erase_all(database, chosen))

    # When it is asked for once more, then there is no such render, and nothing is written
    with pytest.raises(UnknownJob, match="has no render"):
        rerun(render, tenant=TENANT, settings=chosen)
    assert counts(database) == [0] * 7
