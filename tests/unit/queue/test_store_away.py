"""While the store is away or a disk is full nothing is claimed in vain, and nothing that was drawn is lost."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from outage_world import LONG, OutageWorld, away_from_the_first_picture, shift_until_put_aside, units, units_of
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update

from jobs.database import Database
from jobs.errors import StorageDenied, StorageFull, StorageUnavailable
from jobs.models import Candidate, Unit
from jobs.models_fleet import Worker
from jobs.options import GateOption, OutputOption, RenderOptions
from jobs.repository import late
from worker.breaker import Breaker
from worker.errors import SpoolFull, SpoolUnusable
from worker.process import WorkerProcess
from worker.testing import FakeRenderer


@pytest.fixture
def database_url(tmp_path: Path, migrated_file: Path) -> str:
    """SQLite alone: none of this is about statements."""
    shutil.copy(migrated_file, tmp_path / "portraits.db")
    return f"sqlite:///{tmp_path / 'portraits.db'}"


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


@pytest.fixture
def outage(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutageWorld:
    monkeypatch.setattr("worker.recorder.FIRST_WAIT_SECONDS", 0.001)
    return OutageWorld(world, tmp_path)


def test_pictures_that_the_store_does_not_take_are_put_aside_and_recorded_later(
    world: World, outage: OutageWorld
) -> None:
    # Given a store that goes away when the first batch is drawn, and stays away longer than pictures wait for it
    job = add_job(world.database, [person("ada", [4], world.settings)])
    away_from_the_first_picture(outage)

    # When the shift ends
    shift_until_put_aside(outage)

    # Then four pictures lie on the disk, and the unit is left alone, without an attempt counted
    assert len(outage.spool.names()) == 4 and world.pictures() == []
    (unit,) = units(world)
    assert (unit.state, unit.attempts, unit.error_code) == ("ready", 0, late.PUT_ASIDE)
    assert world.job(job)["waiting"] == 4

    # When the store answers and the committer looks
    outage.store.away.clear()
    assert outage.commit() == 4

    # Then every picture is there, drawn once, and nothing is left on the disk
    assert world.job(job)["state"] == "done" and len(world.pictures()) == 4
    assert world.renderer.batch_sizes == [4] and outage.spool.names() == []
    assert units(world)[0].error_code is None
    for row in world.renders(job):
        assert world.storage.get(row["storage_key"])


def test_a_worker_claims_nothing_while_the_store_is_away_and_goes_on_when_it_answers(
    world: World, outage: OutageWorld
) -> None:
    # Given three people, and a store that goes away when the first one is drawn: the second may be in hand by then
    jobs = [add_job(world.database, [person(name, [4], world.settings)], key=name) for name in ("ada", "alan", "kay")]
    away_from_the_first_picture(outage)
    asked: list[list[str]] = []
    probed = threading.Event()

    def on_refusal() -> None:
        if outage.store.refused[-1].startswith("check"):
            asked.append([unit.state for unit in units(world)])
            if len(asked) == 3:
                probed.set()

    outage.store.on_refusal = on_refusal

    # When the shift asks the store again and again whether it is back
    shift = threading.Thread(target=world.shift)
    shift.start()
    assert probed.wait(LONG)
    drawn = list(world.renderer.batch_sizes)
    world.renderer._at_step = lambda step: None
    outage.store.away.clear()
    shift.join(LONG)

    # Then nobody was claimed meanwhile who was not in hand, and afterwards the same shift drew on
    assert all(states[2] == "ready" for states in asked[:3])
    assert len(drawn) <= 2 and world.renderer.batch_sizes == [4, 4, 4]
    outage.commit()
    assert [world.job(job)["state"] for job in jobs] == ["done"] * 3
    assert outage.changes[0] == "503 from the store" and outage.changes[-1] is None


def test_while_pictures_wait_for_the_store_drawing_stops_at_the_queue(world: World, tmp_path: Path) -> None:
    # Given a patient worker with room for four pictures, ten batches of one person, and a store that goes away
    outage = OutageWorld(world, tmp_path, patience=LONG)
    job = add_job(world.database, [person("ada", [40], world.settings)])
    away_from_the_first_picture(outage)
    held = threading.Event()
    outage.store.on_refusal = lambda: held.set() if len(outage.store.refused) > 8 else None

    # When it has asked the store often
    shift = threading.Thread(target=world.shift)
    shift.start()
    assert held.wait(LONG)
    drawn, states = sum(world.renderer.batch_sizes), [unit.state for unit in units(world)]

    # Then no more was drawn than the queue holds and one batch, nothing is on the disk, and the lease is held
    assert drawn <= 8 and outage.spool.names() == [] and states == ["leased"]

    # When the store answers
    world.renderer._at_step = lambda step: None
    outage.store.away.clear()
    shift.join(LONG)

    # Then everything was drawn once
    assert world.job(job)["done"] == 40 and sum(world.renderer.batch_sizes) == 40


def test_a_store_that_is_away_while_weights_are_made_costs_no_attempt(world: World, outage: OutageWorld) -> None:
    # Given a store that is away when a person's photos are read
    job = add_job(world.database, [person("ada", [2], world.settings)])
    outage.store.away.set()
    asked: list[int] = []

    def on_refusal() -> None:
        asked.append(1)
        if len(asked) == 5:
            outage.store.away.clear()

    outage.store.on_refusal = on_refusal

    # When the shift has waited for it
    world.shift()

    # Then the unit was handed back with its attempt, claimed again, and done at its first
    assert world.job(job)["state"] == "done"
    (unit,) = units(world)
    assert (unit.attempts, unit.lease_token) == (1, 2)


@pytest.mark.parametrize("fault", [StorageFull("no space"), StorageDenied("read-only")])
def test_a_full_or_read_only_store_fails_nobody(world: World, outage: OutageWorld, fault: Exception) -> None:
    # Given a store whose disk is full, or was mounted read-only
    job = add_job(world.database, [person("ada", [4], world.settings)])
    outage.store.fault = fault
    away_from_the_first_picture(outage)

    # When a shift has drawn, and the disk has been seen to
    shift_until_put_aside(outage)
    assert outage.breaker.reason == str(fault)
    outage.store.away.clear()
    outage.commit()

    # Then every picture is there
    assert (world.job(job)["done"], world.job(job)["failed"]) == (4, 0)


def test_a_store_that_refuses_one_prefix_fails_its_renders_and_nobody_else(world: World, outage: OutageWorld) -> None:
    # Given two jobs, and a store that answers but refuses what belongs to the first
    jobs = [add_job(world.database, [person(name, [4], world.settings)], key=name) for name in ("ada", "alan")]
    outage.store.denied = f"{TENANT}/{jobs[0]}/"

    # When a shift has drawn both
    world.shift()

    # Then the first failed with a reason, drawn once, the second is there, and the store was never held to be away
    assert [world.job(job)["state"] for job in jobs] == ["failed", "done"]
    assert {row["error_code"] for row in world.renders(jobs[0])} == {"object_denied"}
    assert world.renderer.batch_sizes == [4, 4] and outage.spool.names() == [] and outage.changes == []


def test_a_refusal_that_passes_fails_nobody(world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a store that refuses a prefix, and whose rules are mended when it has refused three times
    job = add_job(world.database, [person("ada", [2], world.settings)])
    outage.store.denied = f"{TENANT}/{job}/"
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            outage.store.denied = None

    monkeypatch.setattr(outage.breaker, "_probe", check)

    # When a shift has drawn, then the pictures were stored in the end
    world.shift()
    assert world.job(job)["state"] == "done"


def test_a_picture_that_the_store_refuses_blocks_no_other_in_the_spool(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given pictures of two jobs that were put aside in an outage, and a store that then refuses those of the first
    world = World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))
    outage = OutageWorld(world, tmp_path)
    jobs = []
    for name in ("ada", "alan"):
        jobs.append(add_job(database, [person(name, [1], world.settings)], key=name))
        away_from_the_first_picture(outage)
        shift_until_put_aside(outage)
        outage.store.away.clear()
        outage.breaker.wait(lambda: False)
    outage.store.denied = f"{TENANT}/{jobs[0]}/"

    # When the committer looks while the store refuses everything, then it says so and goes no further
    outage.store.away.set()
    outage.store.fault = StorageDenied("read-only")
    with pytest.raises(StorageDenied, match="read-only"):
        outage.commit()
    assert len(outage.spool.names()) == 2

    # When only the first is refused, then the second is recorded, and the first stays and is told of
    outage.store.away.clear()
    with pytest.raises(StorageDenied, match="is refused"):
        outage.commit()
    assert [world.job(job)["done"] for job in jobs] == [0, 1] and len(outage.spool.names()) == 1

    # When it is refused no more, then it is recorded too
    outage.store.denied = None
    assert outage.commit() == 1 and world.job(jobs[0])["state"] == "done"


def test_candidates_and_further_forms_are_put_aside_too(
    world: World, outage: OutageWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pictures with two seeds each and a second form, in an outage of the store
    options = RenderOptions(
        gate=GateOption(min_id_similarity=1.0, attempts=2),
        outputs=(OutputOption(), OutputOption(name="thumb", format="jpeg", size=(8, 8))),
    ).dump()
    job = add_job(world.database, [person("ada", [2], world.settings, options=options)])
    world.renderer._alike = lambda image: 0.5
    away_from_the_first_picture(outage)
    shift_until_put_aside(outage)

    # When the store answers
    outage.store.away.clear()
    outage.commit()

    # Then both seeds and both forms of each are stored and recorded
    assert world.job(job)["done"] == 2
    with world.database.reading() as tx:
        candidates = list(tx.execute(select(Candidate.storage_key)).scalars())
    assert len(candidates) == 4 and len(world.pictures()) == 6
    assert set(candidates) <= set(world.pictures())


def test_a_full_spool_stops_drawing_and_loses_nothing(world: World, tmp_path: Path) -> None:
    # Given room for two pictures on the disk, a queue of four, and a store that goes away
    outage = OutageWorld(world, tmp_path, limit=8_000)
    job = add_job(world.database, [person("ada", [16], world.settings)])
    away_from_the_first_picture(outage)
    full = threading.Event()
    put = outage.spool.put

    def told(picture: Any) -> None:
        try:
            put(picture)
        except Exception:
            full.set()
            raise

    outage.spool.put = told  # type: ignore[method-assign]

    # When the spool is full
    shift = threading.Thread(target=world.shift)
    shift.start()
    assert full.wait(LONG)
    waiting = len(outage.spool.names())

    # Then something waits there, and when the store answers everything is recorded
    assert 1 <= waiting < 8
    world.renderer._at_step = lambda step: None
    outage.store.away.clear()
    outage.breaker.wait(lambda: False)
    shift.join(LONG)
    outage.commit()
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.state == "ready").values(ready_at=0.0))
    world.shift()
    assert world.job(job)["done"] == 16 and sum(world.renderer.batch_sizes) == 16


def test_told_to_stop_with_a_full_spool_a_worker_gives_the_unit_back(world: World, tmp_path: Path) -> None:
    # Given no room on the disk at all, a store that is away, and a worker that is told to stop
    outage = OutageWorld(world, tmp_path, limit=1)
    job = add_job(world.database, [person("ada", [2], world.settings)])
    world.renderer._at_step = lambda step: (outage.store.away.set(), world.stop.set())  # type: ignore[func-returns-value]

    # When the shift ends
    world.shift()

    # Then the unit waits again without an attempt counted, and another shift draws it
    (unit,) = units(world)
    assert (unit.state, unit.attempts, unit.error_code) == ("ready", 0, "spool_full")
    world.stop.clear()
    world.renderer._at_step = lambda step: None
    outage.store.away.clear()
    world.shift()
    assert world.job(job)["state"] == "done"


def test_the_workers_row_says_that_it_waits_for_the_store(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a worker process whose store went away
    process = WorkerProcess(settings(tmp_path, database_url))

    def away() -> None:
        raise StorageUnavailable("503 from the store")

    process._breaker._probe = away
    process._breaker.suspect(StorageUnavailable("503"))

    # Then its row says so
    with database.reading() as tx:
        told = tx.execute(select(Worker.state, Worker.error)).one()
    assert told == ("unfit", "waiting for storage: 503 from the store")

    # When the store answers
    process._breaker._probe = lambda: None
    process._breaker._due_at = 0.0
    assert process._breaker.wait(lambda: False)

    # Then the row is as before
    with database.reading() as tx:
        assert tx.execute(select(Worker.state, Worker.error)).one() == ("starting", None)
    process.close()


def test_one_probe_at_a_time_and_ever_rarer() -> None:
    # Given an open breaker with a clock of its own
    clock, asked = [0.0], []

    def probe() -> None:
        asked.append(clock[0])
        raise StorageUnavailable("away")

    breaker = Breaker(probe, first_wait_seconds=1.0, now=lambda: clock[0])
    breaker.suspect(StorageUnavailable("away"))
    assert asked == [0.0] and breaker.reason == "away"

    # When it is asked again and again, ten times a second
    for tick in range(1, 600):
        clock[0] = tick / 10
        if breaker._take_turn():
            assert not breaker._take_turn(), "two probes at once"
            breaker._ask()

    # Then it asked at growing distances, up to fifteen seconds and a quarter
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert 5 <= len(asked) <= 9 and gaps[0] < 1.5 and max(gaps) <= 18.9 + 0.1
    assert breaker.seconds_open() == clock[0]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_a_worker_whose_disk_is_full_or_read_only_takes_no_unit_and_says_why(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    # Given work, and a worker whose own disk takes no file
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[profiles.fake]\nrenderer = "fake"\n')
    world = settings(tmp_path, database_url, profiles_file=profiles)
    add_job(database, [person("ada", [1], world)])
    process = WorkerProcess(world)
    unit = units_of(database)[0]
    real = os.open

    def failing(path: Any, *args: Any, **named: Any) -> int:
        if str(path).endswith(".part"):
            raise OSError(fault, os.strerror(fault))
        return real(path, *args, **named)

    # When it is woken
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        with pytest.raises((SpoolFull, SpoolUnusable)):
            process.run_shift(unit.id, "fake")

    # Then the unit is untouched, the row names folder and reason, and the worker asks for no work for a while
    assert (units_of(database)[0].state, units_of(database)[0].attempts) == ("ready", 0)
    with database.reading() as tx:
        state, told = tx.execute(select(Worker.state, Worker.error)).one()
    assert state == "unfit" and str(tmp_path / "spool") in told and os.strerror(fault) in told
    assert process.profile_to_draw(unit.id) is None

    # When the disk has room again and a minute has passed
    process._unfit_until.clear()
    process.run_shift(unit.id, "fake")
    process.close()

    # Then it draws
    assert units_of(database)[0].state == "done"
