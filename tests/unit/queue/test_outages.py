"""Pictures that come late are recorded under the token that they were drawn under, once, or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from outage_world import OutageWorld, shift_until_put_aside, units
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update

from jobs.database import Database, epoch_now
from jobs.models import Candidate, Render, Unit
from jobs.repository import control, late, reaping
from jobs.repository import jobs as job_rows
from jobs.repository import units as rows
from jobs.repository.units import ClaimedUnit
from worker.committer import LONGEST_WAIT_SECONDS
from worker.reaper import turn
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


@pytest.fixture
def outage(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutageWorld:
    monkeypatch.setattr("worker.recorder.FIRST_WAIT_SECONDS", 0.001)
    return OutageWorld(world, tmp_path)


def test_what_was_drawn_while_the_database_is_away_is_recorded_when_it_answers(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a database that goes away when the pictures are drawn
    job = add_job(world.database, [person("ada", [4], world.settings)])
    with outage.no_commits(monkeypatch) as away:
        world.renderer._at_step = lambda step: away.set()
        shift_until_put_aside(outage)
    (unit,) = units(world)
    assert unit.state == "leased" and len(outage.spool.names()) == 4

    # When the lease has run out, the reaper has handed the unit back, and then the committer looks
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(state="ready", lease_owner=None, lease_until=None))
    assert outage.commit() == 4

    # Then nobody has claimed the unit since, so the pictures count
    assert world.job(job)["state"] == "done" and world.renderer.batch_sizes == [4]
    assert units(world)[0].state == "done"


@pytest.mark.parametrize("state", ["leased", "expired"])
def test_a_picture_counts_as_long_as_its_token_is_the_last(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    # Given pictures on the disk, and a lease that runs still, or has run out without anybody noticing
    job = _put_aside(world, outage, monkeypatch)
    with world.database.transaction() as tx:
        until = 0.0 if state == "expired" else 4e9
        tx.execute(update(Unit).values(lease_until=until))

    # When the committer looks
    outage.commit()

    # Then they count
    assert world.job(job)["state"] == "done"


def _put_aside(world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> uuid.UUID:
    """A job of two pictures that wait on the disk for a database."""
    job = add_job(world.database, [person("ada", [2], world.settings, **asked)])
    with outage.no_commits(monkeypatch) as away:
        world.renderer._at_step = lambda step: away.set()
        shift_until_put_aside(outage)
    assert len(outage.spool.names()) == 2
    return job


def test_a_unit_that_was_taken_over_meanwhile_wins(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pictures on a disk, and another worker that has claimed their unit since and drawn it
    job = _put_aside(world, outage, monkeypatch)
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(lease_until=0.0))
    other = World(world.database, world.settings, FakeRenderer(batch_size=4), owner="worker-2")
    other.shift()
    before = {row["storage_key"] for row in world.renders(job)}

    # When the committer looks
    assert outage.commit() == 0

    # Then the other's pictures stand, nothing of ours lies in the store, and the disk is free
    assert {row["storage_key"] for row in world.renders(job)} == before == set(world.pictures())
    assert outage.spool.names() == []


@pytest.mark.parametrize("how", ["cancelled", "claimed"])
def test_a_late_picture_of_a_unit_that_is_anothers_changes_nothing(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # Given pictures on the disk, and a job that was cancelled or a unit that another worker holds
    job = _put_aside(world, outage, monkeypatch)
    with world.database.transaction() as tx:
        if how == "cancelled":
            job_rows.cancel(tx, TENANT, job)
        else:
            tx.execute(update(Unit).values(lease_owner="other", lease_token=Unit.lease_token + 1))

    # When the committer looks
    assert outage.commit() == 0

    # Then no render is done and no object of theirs is stored
    assert world.job(job)["done"] == 0
    assert outage.spool.names() == [] and world.pictures() == []


def test_the_rest_of_a_unit_goes_on_when_its_late_pictures_are_recorded(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a unit of which half was put aside before the worker was told to stop
    job = add_job(world.database, [person("ada", [8], world.settings)])
    outage.world.renderer._at_step = lambda step: (outage.store.away.set(), world.stop.set())  # type: ignore[func-returns-value]
    world.shift()
    world.stop.clear()
    outage.world.renderer._at_step = lambda step: None
    (unit,) = units(world)
    assert (unit.state, unit.error_code, len(outage.spool.names())) == ("ready", late.PUT_ASIDE, 4)

    # When nobody may claim it yet
    outage.store.away.clear()
    world.shift(unit.id)
    assert world.renderer.batch_sizes == [4]

    # Then it is free as soon as the last late picture is recorded, and the rest is drawn
    assert outage.commit() == 4
    world.shift(unit.id)
    assert world.job(job)["done"] == 8 and world.renderer.batch_sizes == [4, 4]


def test_a_long_outage_at_the_last_attempt_costs_no_picture(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pictures of a unit at its last attempt that were put aside in an outage of an hour
    job = _put_aside(world, outage, monkeypatch)
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(attempts=3, ready_at=Unit.ready_at - 3700.0, lease_until=epoch_now() - 3600.0))

    # When the database is back, the reaper takes two turns, and the committer looks after that
    assert [_reap(world)[1] for _ in range(2)] == [0, 0]
    assert outage.commit() == 2

    # Then they count
    assert world.job(job)["state"] == "done" and units(world)[0].state == "done"


def test_a_lost_unit_at_its_last_attempt_is_ended_after_one_grace_that_begins_when_it_is_seen(world: World) -> None:
    # Given a unit whose worker was lost at the last attempt, long ago
    job = add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.transaction() as tx:
        claim(tx, "worker-1")
        tx.execute(update(Unit).values(attempts=3, ready_at=Unit.ready_at - 3700.0, lease_until=epoch_now() - 3600.0))

    # When a reaper sees it, then it is ended neither now nor by the next turn, and its grace is not prolonged
    assert _reap(world) == (0, 0)
    (seen,) = units(world)
    assert _reap(world) == (0, 0) and units(world) == [seen]
    with world.database.reading() as tx:
        left = seen.ready_at - tx.execute(select(epoch_now())).scalar_one()
    assert world.settings.lease_seconds < left <= LONGEST_WAIT_SECONDS + world.settings.lease_seconds

    # When the grace is over
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(ready_at=epoch_now() - 1.0))
    assert _reap(world) == (0, 1)

    # Then it has failed with the reason
    assert world.job(job)["state"] == "failed" and units(world)[0].error_code == reaping.LOST_WORKER


def test_a_worker_that_wakes_in_the_grace_has_a_whole_one_the_next_time(world: World) -> None:
    # Given a unit at its last attempt whose lease ran out and was seen, and whose worker then beats again
    add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.transaction() as tx:
        (unit,) = claim(tx, "worker-1")
        tx.execute(update(Unit).values(attempts=3, ready_at=Unit.ready_at - 100.0, lease_until=epoch_now() - 50.0))
    _reap(world)
    with world.database.transaction() as tx:
        assert rows.heartbeat(tx, "worker-1", {unit.id: unit.lease_token}, lease_seconds=3600.0)

    # When that lease has run out too, hours later
    with world.database.transaction() as tx:
        earlier = {"ready_at": Unit.ready_at - 7200.0, "lease_until": Unit.lease_until - 7200.0}
        tx.execute(update(Unit).values(**earlier))

    # Then it is not ended at first sight
    assert _reap(world) == (0, 0) and units(world)[0].state == "leased"


def _reap(world: World) -> tuple[int, int]:
    """One turn of the reaper: how many units were handed back, how many given up."""
    broker: Any = SimpleNamespace(send=lambda ids: [])
    return turn(world.database, broker, world.settings, "reaper-1")[:2]


def test_late_pictures_of_a_paused_job_are_recorded_and_it_stays_paused(world: World, outage: OutageWorld) -> None:
    # Given a unit of which half was put aside before the worker was told to stop, and whose job was paused then
    job = add_job(world.database, [person("ada", [8], world.settings)])
    world.renderer._at_step = lambda step: (outage.store.away.set(), world.stop.set())  # type: ignore[func-returns-value]
    world.shift()
    world.stop.clear()
    world.renderer._at_step = lambda step: None
    outage.store.away.clear()
    with world.database.transaction() as tx:
        assert control.pause_job(tx, TENANT, job) == 1

    # When the committer looks
    assert outage.commit() == 4

    # Then what was drawn counts, the disk is free, and the rest waits until the job goes on
    assert outage.spool.names() == [] and world.job(job)["done"] == 4
    (unit,) = units(world)
    assert (unit.state, unit.lease_owner, unit.error_code) == ("paused", None, None)
    with world.database.transaction() as tx:
        assert control.resume_job(tx, TENANT, job) == 1
    world.shift(unit.id)
    assert world.job(job)["done"] == 8 and world.renderer.batch_sizes == [4, 4]


def test_nothing_is_stored_while_a_unit_is_held_by_another_under_the_same_token(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pictures on the disk, and their unit in the hands of another owner who has not claimed it anew
    job = _put_aside(world, outage, monkeypatch)
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(lease_owner="other"))
    stored: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(outage.store, "put", lambda key, *_, **__: stored.append(key))

        # When the committer looks
        assert outage.commit() == 0

    # Then nothing is stored in vain, and the pictures stay
    assert stored == [] and len(outage.spool.names()) == 2

    # When the unit is free again, then they count
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(state="ready", lease_owner=None, lease_until=None))
    assert outage.commit() == 2 and world.job(job)["state"] == "done"


def test_recording_twice_changes_nothing(world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given pictures that were recorded, and whose files are still there, as after a kill in between
    job = _put_aside(world, outage, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(outage.spool, "remove", lambda name: None)
        outage.commit()
    assert len(outage.spool.names()) == 2
    before = world.renders(job)

    # When they are recorded once more
    outage.commit()

    # Then the rows are as they were, with one candidate each, and the objects are there
    assert world.renders(job) == before and outage.spool.names() == []
    with world.database.reading() as tx:
        assert len(tx.execute(select(Candidate)).all()) == 2
    assert set(world.pictures()) == {row["storage_key"] for row in before}


def test_a_renders_state_is_asked_before_its_bytes_are_stored(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pictures on the disk of somebody who was erased meanwhile
    _put_aside(world, outage, monkeypatch)
    stored: list[str] = []
    monkeypatch.setattr(outage.store, "put", lambda key, *_, **__: stored.append(key))
    with world.database.transaction() as tx:
        tx.execute(update(Render).values(state="cancelled"))

    # When the committer looks
    outage.commit()

    # Then nothing was stored again
    assert stored == [] and outage.spool.names() == []


def test_a_unit_that_was_claimed_and_handed_back_since_is_not_taken_back(world: World) -> None:
    # Given a unit that waits, handed back by somebody who claimed it after us
    add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.transaction() as tx:
        (ours,) = claim(tx, "worker-1")
        rows.release(tx, ours, "worker-1")
        (theirs,) = claim(tx, "worker-2")
        rows.release(tx, theirs, "worker-2")

    # When each asks for it back under the token it held, then only the last one gets it, and gives it back as it was
    before = units(world)
    with world.database.transaction() as tx:
        assert not late.take_back(tx, ours, "worker-1")
        assert late.take_back(tx, theirs, "worker-2") == "ready"
        late.give_back(tx, theirs, "worker-2", to="ready")
    assert units(world) == before


def claim(tx: Any, owner: str) -> list[ClaimedUnit]:
    return rows.claim_next(tx, "fake", owner, limit=1, lease_seconds=30.0, max_attempts=9)
