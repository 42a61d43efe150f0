"""Pausing a job and the fleet: nothing more is claimed, what is drawn is given up, and nobody pays for it."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, only_postgres, person, settings, wait_for_the_queue
from sqlalchemy import select, update

from jobs.broker import Broker
from jobs.database import Database
from jobs.errors import JobsError
from jobs.models import Event, Render, Share, Unit
from jobs.repository import again, control, queries, shares, units
from jobs.repository import jobs as job_rows
from worker import reaper
from worker.testing import FakeRenderer

STEPS = 20
TERMS: dict[str, Any] = {"limit": 1, "lease_seconds": 30.0, "max_attempts": 3}


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=2))


def pause(world: World, job: uuid.UUID) -> int:
    with world.database.transaction() as tx:
        return control.pause_job(tx, TENANT, job)


def resume(world: World, job: uuid.UUID) -> int:
    with world.database.transaction() as tx:
        return control.resume_job(tx, TENANT, job)


def pause_fleet(world: World) -> int:
    with world.database.transaction() as tx:
        return control.pause_fleet(tx)


def resume_fleet(world: World) -> bool:
    with world.database.transaction() as tx:
        return control.resume_fleet(tx)


def unit_columns(world: World, *columns: Any) -> list[Any]:
    with world.database.reading() as tx:
        return [tuple(row) for row in tx.execute(select(*columns).order_by(Unit.id))]


def while_drawing(world: World, at: int, what: Any) -> list[int]:
    """Do `what` at the step of this number, and let the thread of the leases look; returns the steps as they come."""
    asked: list[int] = []

    def at_step(_step: int) -> None:
        asked.append(len(asked))
        if len(asked) == at:
            what()
            assert world.leases is not None
            world.leases.look()

    world.renderer._at_step = at_step
    return asked


def test_a_paused_job_is_given_up_while_it_is_drawn_and_goes_on_later(world: World) -> None:
    # Given a job of which a worker that was stopped has drawn the first batch of two pictures
    job = add_job(world.database, [person("ada", [4], world.settings, steps=STEPS)])
    while_drawing(world, 1, world.stop.set)
    world.shift()
    world.stop.clear()
    assert world.job(job)["done"] == 2

    # When the job is paused at the third step of the second batch
    asked = while_drawing(world, 3, lambda: pause(world, job))
    report = world.shift()

    # Then it ended at that step, the finished pictures stayed, no attempt was counted, and nothing is claimed
    assert len(asked) == 3
    assert report.ran_dry
    row = world.job(job)
    assert (row["state"], row["done"], row["waiting"], row["running"]) == ("paused", 2, 2, 0)
    assert unit_columns(world, Unit.state, Unit.attempts, Unit.lease_owner) == [("paused", 0, None)]
    with world.database.reading() as tx:
        assert [one["state"] for one in queries.people(tx, TENANT, job)] == ["paused"]
        assert units.profile_to_draw(tx, uuid.uuid4(), ["fake"]) is None

    # And when it is resumed it is drawn to its end, the finished pictures not again
    world.renderer._at_step = lambda _step: None
    assert resume(world, job) == 1
    world.shift()
    assert (world.job(job)["state"], world.job(job)["done"]) == ("done", 4)
    assert len(world.pictures()) == 4


def test_pausing_twice_and_resuming_twice_is_as_good_as_once(world: World) -> None:
    # Given a job
    job = add_job(world.database, [person("ada", [1, 1], world.settings)])

    # When it is paused and resumed twice each
    counts = [pause(world, job), pause(world, job), resume(world, job), resume(world, job)]

    # Then the second time changed nothing, and each change was noted once
    assert counts == [2, 0, 2, 0]
    assert world.job(job)["state"] == "waiting"
    with world.database.reading() as tx:
        kinds = tx.execute(select(Event.kind).where(Event.job_id == job).order_by(Event.id)).scalars().all()
    assert kinds == ["job.enqueued", "job.paused", "job.resumed"]


def test_a_finished_job_is_not_paused(world: World) -> None:
    job = add_job(world.database, [person("ada", [1], world.settings)])
    world.shift()
    assert pause(world, job) == 0
    assert (world.job(job)["state"], world.job(job)["paused_at"]) == ("done", None)


def test_a_paused_job_can_be_cancelled(world: World) -> None:
    # Given a paused job
    job = add_job(world.database, [person("ada", [2], world.settings)])
    pause(world, job)

    # When it is cancelled
    with world.database.transaction() as tx:
        assert job_rows.cancel(tx, TENANT, job) == 2

    # Then it is cancelled and not paused, and resuming it brings nothing back
    assert (world.job(job)["state"], world.job(job)["paused_at"]) == ("cancelled", None)
    assert resume(world, job) == 0
    assert unit_columns(world, Unit.state, Unit.renders_cancelled) == [("cancelled", 2)]


def test_what_is_added_to_a_paused_job_is_paused_too(world: World) -> None:
    # Given a job with one failed picture and one that waits, paused
    job = add_job(world.database, [person("ada", [1, 1], world.settings)])
    with world.database.transaction() as tx:
        held = units.claim_next(tx, "fake", "w", **TERMS)[0]
        units.fail(tx, held, "w", error_code="x", error="y")
    pause(world, job)

    # When the failed one is retried and another is asked for once more
    with world.database.transaction() as tx:
        assert again.retry(tx, TENANT, job) == (1, [])
        render = tx.execute(select(Render.id).limit(1)).scalar_one()
        assert again.rerun(tx, TENANT, render, seed=9, age_seconds=60) is not None

    # Then all wait for the job to be resumed
    assert unit_columns(world, Unit.state) == [("paused",)] * 3
    assert resume(world, job) == 3


def test_other_jobs_of_the_person_go_on(world: World) -> None:
    # Given two jobs of one person, one of them paused
    jobs = [add_job(world.database, [person("ada", [1], world.settings)], key=key) for key in ("one", "two")]
    pause(world, jobs[0])

    # When a shift runs
    world.shift()

    # Then only the other was drawn
    assert [world.job(job)["state"] for job in jobs] == ["paused", "done"]


@pytest.mark.parametrize("of", ["job", "fleet"])
def test_the_attempt_of_a_worker_that_fell_silent_is_not_given_back(world: World, of: str) -> None:
    # Given two units, one held by a worker that lives and one by a worker whose lease has run out
    job = add_job(world.database, [person("ada", [1], world.settings), person("alan", [1], world.settings)])
    with world.database.transaction() as tx:
        held = [units.claim_next(tx, "fake", owner, **TERMS)[0] for owner in ("alive", "dead")]
        tx.execute(update(Unit).where(Unit.id == held[1].id).values(lease_until=0.0))

    # When all is paused
    assert (pause(world, job) if of == "job" else pause_fleet(world)) == 2

    # Then only the living one's attempt is not counted: the other unit may be what killed its worker
    assert sorted(unit_columns(world, Unit.attempts)) == [(0,), (1,)]


def test_a_paused_fleet_claims_nothing_and_gives_up_what_it_draws(world: World) -> None:
    # Given a shift that draws a job while another waits
    jobs = [add_job(world.database, [person(key, [2], world.settings, steps=STEPS)], key=key) for key in ("a", "b")]
    asked = while_drawing(world, 3, lambda: pause_fleet(world))

    # When the fleet is paused at the third step
    world.shift()

    # Then nothing further was drawn or claimed, the jobs are not paused themselves, and no attempt was counted
    assert len(asked) == 3 and world.pictures() == []
    assert [world.job(job)["state"] for job in jobs] == ["waiting", "waiting"]
    assert unit_columns(world, Unit.state, Unit.attempts) == [("ready", 0), ("ready", 0)]
    with world.database.transaction() as tx:
        assert control.fleet_paused_at(tx) is not None
        assert units.claim_next(tx, "fake", "w", **TERMS) == []
        assert units.profile_to_draw(tx, uuid.uuid4(), ["fake"]) is None

    # And when it goes on, everything is drawn
    world.renderer._at_step = lambda _step: None
    assert (resume_fleet(world), resume_fleet(world)) == (True, False)
    world.shift()
    assert [world.job(job)["state"] for job in jobs] == ["done", "done"]


def test_a_paused_fleet_is_not_woken(world: World) -> None:
    # Given a job whose messages were never sent, and a paused fleet
    add_job(world.database, [person("ada", [1], world.settings)])
    pause_fleet(world)
    broker = Broker(world.settings)
    try:
        # When the reaper takes its turn, then it sends nothing; and it does when the fleet goes on
        assert reaper.turn(world.database, broker, world.settings, "w") == (0, 0, 0)
        resume_fleet(world)
        assert reaper.turn(world.database, broker, world.settings, "w") == (0, 0, 1)
    finally:
        broker.close()


@pytest.mark.parametrize("of", ["job", "fleet"])
def test_no_claim_slips_through_a_pause(world: World, of: str) -> None:
    # Given forty units and eight claimers that start together with a pause
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(40)])
    barrier = threading.Barrier(9)

    def claimer(name: str) -> None:
        barrier.wait()
        for _ in range(5):
            with world.database.transaction() as tx:
                units.claim_next(tx, "fake", name, **TERMS)

    def pauser() -> None:
        barrier.wait()
        if of == "job":
            pause(world, job)
        else:
            pause_fleet(world)

    # When they all have ended
    threads = [threading.Thread(target=claimer, args=(f"w{n}",)) for n in range(8)] + [threading.Thread(target=pauser)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then nothing is held, and no attempt was counted
    assert set(unit_columns(world, Unit.state, Unit.attempts)) == {("paused" if of == "job" else "ready", 0)}


@only_postgres
@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside a lease"])
@pytest.mark.parametrize("how", ["pause", "cancel"])
def test_a_claim_under_way_is_waited_for_and_taken_back(
    world: World, how: str, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job of which units may be held already, and a claim that has one more and has not come to its share
    job = add_job(world.database, [person(f"p{n}", [2], world.settings) for n in range(beside + 1)])
    with world.database.transaction() as tx:
        assert len(units.claim_next(tx, "fake", "w", **TERMS | {"limit": beside})) == beside
    charge, failures = shares.charge, []

    def stop() -> None:
        try:
            with world.database.transaction() as tx:
                control.pause_job(tx, TENANT, job) if how == "pause" else job_rows.cancel(tx, TENANT, job)
        except JobsError as error:
            failures.append(error)

    thread = threading.Thread(target=stop)

    def while_it_is_stopped(*args: Any, **more: Any) -> None:
        thread.start()
        wait_for_the_queue(world.database)
        charge(*args, **more)

    # When the job is paused or cancelled in that moment
    monkeypatch.setattr(shares, "charge", while_it_is_stopped)
    with world.database.transaction() as tx:
        assert len(units.claim_next(tx, "fake", "w2", **TERMS)) == 1
    thread.join()

    # Then neither failed, nothing is held, and nothing is charged
    assert failures == []
    assert set(unit_columns(world, Unit.state)) == {("paused" if how == "pause" else "cancelled",)}
    with world.database.reading() as tx:
        assert tx.execute(select(Share.virtual_time)).scalar_one() == pytest.approx(0.0)
