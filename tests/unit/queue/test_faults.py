"""What must not follow from a fault: waiting for ever, going round in circles, or dragging others along."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import Connection, insert, select, update

from hyperlora.errors import NonFinitePicture
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, StorageDenied
from jobs.models import PhotoSet, Render, Unit, WeightSet, WeightSetSource
from jobs.repository import again, queries, reaping, units, weight_sets
from jobs.repository import jobs as job_rows
from worker.renderer import Sample
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


def ready_now(world: World) -> None:
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.state == "ready").values(ready_at=0.0))


def test_a_lost_answer_does_not_make_a_worker_wait_for_itself(world: World, monkeypatch: Any) -> None:
    # Given a worker whose database goes away at the moment it records a weight set
    real, calls = weight_sets.finish, []

    def finish(*arguments: Any, **named: Any) -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise DatabaseUnavailable("gone for a moment")
        return real(*arguments, **named)

    monkeypatch.setattr(weight_sets, "finish", finish)
    job = add_job(world.database, [person("ada", [2], world.settings)])
    world.shift()

    # When it goes on
    ready_now(world)
    world.shift()

    # Then the weight set was claimed again and the pictures are there
    assert world.job(job)["state"] == "done"


def test_a_forgotten_lease_runs_out(world: World, monkeypatch: Any) -> None:
    # Given a worker that could not settle a unit, because the database went away
    real, away = world.database.transaction, threading.Event()

    @contextmanager
    def transaction() -> Iterator[Connection]:
        if away.is_set():
            raise DatabaseUnavailable("away")
        with real() as tx:
            yield tx

    monkeypatch.setattr(world.database, "transaction", transaction)
    first = add_job(world.database, [person("ada", [1], world.settings)])
    world.renderer._refuse = lambda photos: away.set()  # type: ignore[func-returns-value]
    with pytest.raises(DatabaseUnavailable):
        world.shift()
    away.clear()
    world.renderer._refuse = lambda photos: None
    with world.database.reading() as tx:
        forgotten = tx.execute(select(Unit)).one()
    assert forgotten.state == "leased"

    # When the same worker's heart beats for other units, for longer than the lease lives
    add_job(world.database, [person("alan", [1], world.settings)], key="second")
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.id == forgotten.id).values(lease_until=0.0))
    world.shift()
    assert world.leases is not None
    world.leases.beat()

    # Then the forgotten lease was not prolonged: the unit could be claimed, and is done
    assert world.job(first)["state"] == "done"


def test_a_unit_whose_counters_lie_is_recounted_not_handed_round(world: World) -> None:
    # Given a ready unit none of whose renders waits, as a race of cancel and rerun could leave it
    job = add_job(world.database, [person("ada", [2], world.settings)])
    with world.database.transaction() as tx:
        tx.execute(update(Render).values(state="cancelled"))

    # When a shift meets it
    report = world.shift()

    # Then it is settled by its renders, in one turn
    assert report.groups == 1
    with world.database.reading() as tx:
        unit = tx.execute(select(Unit)).one()
    assert (unit.state, unit.renders_cancelled) == ("failed", 2)
    assert world.job(job)["waiting"] == 0


def test_cancel_and_rerun_exclude_each_other(world: World) -> None:
    # Given many reruns and a cancel at the same time
    job = add_job(world.database, [person("ada", [1], world.settings)])
    (first,) = world.renders(job)
    barrier = threading.Barrier(5)

    def rerun(seed: int) -> None:
        barrier.wait()
        with world.database.transaction() as tx:
            again.rerun(tx, TENANT, first["render_id"], seed=seed, age_seconds=60)

    def cancel() -> None:
        barrier.wait()
        with world.database.transaction() as tx:
            job_rows.cancel(tx, TENANT, job)

    # When all have run
    threads = [threading.Thread(target=rerun, args=(n,)) for n in range(4)] + [threading.Thread(target=cancel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then each unit's counters are what its renders say, and no two renders share a place
    with world.database.reading() as tx:
        rows = tx.execute(select(Unit.id, Unit.state, Unit.renders_cancelled)).all()
        states = {row.unit_id: row.state for row in tx.execute(select(Render.unit_id, Render.state))}
    for row in rows:
        assert (row.state, row.renders_cancelled) in {("ready", 0), ("cancelled", 1)}
        assert states[row.id] == ("waiting" if row.state == "ready" else "cancelled")
    assert sorted(render["ordinal"] for render in world.renders(job)) == list(range(5))


class BadSeed(FakeRenderer):
    """Cannot draw one seed."""

    def draw(self, samples: Any, setting: Any, **options: Any) -> Any:
        if any(sample.seed == 5 for sample in samples if isinstance(sample, Sample)):
            raise NonFinitePicture("picture 0 is not finite")
        return super().draw(samples, setting, **options)


def test_one_bad_render_fails_itself_alone(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given two jobs of one person, and one render among them that cannot be drawn
    world = World(database, settings(tmp_path, database_url), BadSeed(batch_size=4))
    jobs = [add_job(database, [person("ada", [k], world.settings)], key=f"job{k}") for k in (7, 5)]

    # When they are drawn
    world.shift()

    # Then that one has failed with its own reason, and all others are there
    assert [(world.job(job)["done"], world.job(job)["failed"]) for job in jobs] == [(6, 1), (5, 0)]
    (failed,) = [row for row in world.renders(jobs[0]) if row["state"] == "failed"]
    assert (failed["seed"], failed["error_code"]) == (5, NonFinitePicture.code)
    with database.reading() as tx:
        (told,) = queries.people(tx, TENANT, jobs[0])
    assert (told["state"], told["error_code"]) == ("partial", NonFinitePicture.code)


def test_a_render_too_large_does_not_take_others_along(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a device on which one large picture never fits
    class Small(FakeRenderer):
        def draw(self, samples: Any, setting: Any, **options: Any) -> Any:
            self._fits = 0 if setting.width > 16 else None
            return super().draw(samples, setting, **options)

    world = World(database, settings(tmp_path, database_url), Small(batch_size=4))
    big = add_job(database, [person("ada", [1], world.settings, width=512)], key="big")
    small = add_job(database, [person("ada", [6], world.settings)], key="small")

    # When both are drawn
    world.shift()

    # Then the small ones are there, in batches as large as before
    assert world.job(small)["done"] == 6
    assert world.renderer.batch_sizes == [4, 2]
    assert world.job(big)["waiting"] == 1


def test_a_store_that_refuses_is_not_the_photos_fault(world: World, monkeypatch: Any) -> None:
    # Given a store that denies the photos once
    denied = threading.Event()
    real = world.storage.get

    def get(key: str) -> bytes:
        if not denied.is_set():
            denied.set()
            raise StorageDenied("keys refused")
        return bytes(real(key))

    monkeypatch.setattr(world.storage, "get", get)
    first = add_job(world.database, [person("ada", [1], world.settings)])
    world.shift()
    assert world.job(first)["state"] == "failed"

    # When the keys are right and another job names the same photos
    second = add_job(world.database, [person("ada", [1], world.settings)], key="second")
    world.shift()

    # Then it is drawn: the refusal was not written down as the photos' own
    assert world.job(second)["state"] == "done"


def test_the_same_photos_of_two_people_are_one_set_with_two_sources(world: World) -> None:
    # Given two names for the same photo
    ada = person("ada", [1], world.settings)
    twin = person("ada", [1], world.settings)
    twin = type(twin)(**{**twin.__dict__, "external_id": "ada-again"})
    add_job(world.database, [ada, twin])

    # When both are drawn
    world.shift()

    # Then there is one weight set, and each person's photo set is among its sources
    with world.database.reading() as tx:
        assert tx.execute(select(WeightSet.generations)).scalars().all() == [1]
        sources = set(tx.execute(select(WeightSetSource.photo_set_id)).scalars())
        assert sources == set(tx.execute(select(PhotoSet.id)).scalars())
    assert len(sources) == 2


def test_an_old_backlog_does_not_starve_a_new_unit_of_its_message(world: World) -> None:
    # Given a hundred old units whose messages are stale, and a new one that was never announced
    add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(100)], key="old", priority=9)
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(message_sent_at=1.0))
    add_job(world.database, [person("new", [1], world.settings)], key="new", profile="other")

    # When the reaper looks for eight to announce
    with world.database.transaction() as tx:
        chosen = units.unsent(tx, resend_seconds=60, limit=8)
        profiles = tx.execute(select(Unit.profile).where(Unit.id.in_(chosen))).scalars().all()

    # Then the new one is among them
    assert "other" in profiles


def test_a_lowered_cap_ends_what_waits_beyond_it(world: World) -> None:
    # Given a waiting unit with more attempts than are now allowed
    job = add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(attempts=5))

    # When the reaper comes
    with world.database.transaction() as tx:
        reaping.reap(tx, max_attempts=3)

    # Then it ended with a reason
    assert world.job(job)["state"] == "failed"


def test_a_picture_that_cannot_be_measured_is_still_a_picture(world: World, monkeypatch: Any) -> None:
    # Given a recogniser that breaks
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(world.renderer, "similarity", broken)
    job = add_job(world.database, [person("ada", [1], world.settings)])

    # When a picture is drawn
    world.shift()

    # Then it is there, without a similarity and with the reason
    (row,) = world.renders(job)
    assert (row["state"], row["id_similarity"]) == ("done", None)
    assert row["id_similarity_reason"] == "could not be measured: RuntimeError"


def test_success_at_the_second_try_forgets_the_first_fault(world: World) -> None:
    job = add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(error_code="storage_unavailable", error="503"))
    world.shift()
    with world.database.reading() as tx:
        assert tx.execute(select(Unit.state, Unit.error_code, Unit.error)).one() == ("done", None, None)
    assert world.job(job)["state"] == "done"


def test_inserting_is_what_the_foreign_keys_think(world: World) -> None:
    # A render of another tenant's unit cannot exist: the keys carry the tenant.
    add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.reading() as tx:
        row = dict(tx.execute(select(Render)).mappings().one())
    with pytest.raises(Exception, match=r"(?i)foreign key"), world.database.transaction() as tx:
        tx.execute(insert(Render).values({**row, "tenant_id": "globex"}))
