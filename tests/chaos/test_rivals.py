"""Rivals: claimers at one barrier, reapers at one time, workers whose clocks differ, one that wakes too late, and a
device whose memory comes and goes. What is claimed is claimed once, what is said too late changes nothing, all ends.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import Connection, func, select, update

from jobs.database import Database, epoch_now
from jobs.models import Candidate, Render, Unit
from jobs.repository import reaping, units
from jobs.sweep import sweep
from jobs.verify import differences
from worker import reaper
from worker.errors import OutOfMemory
from worker.renderer import Batch
from worker.testing import FakeRenderer

LONG = 60.0  # seconds after which what should have come is missing
CLAIMERS, UNITS = 200, 120
TERMS: dict[str, Any] = {"lease_seconds": 600.0, "max_attempts": 3}


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url, tenant=TENANT), FakeRenderer(batch_size=4))


def together(count: int, act: Callable[[int], None]) -> None:
    """So many threads do it at the same moment; what one of them raises is raised here."""
    barrier, failures = threading.Barrier(count), []

    def run(number: int) -> None:
        try:
            barrier.wait(LONG)
            act(number)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LONG)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def run_out(tx: Connection) -> None:
    """Every lease has run out, without a wait."""
    lost = {"lease_until": epoch_now() - 1.0, "ready_at": epoch_now() - 100.0}
    tx.execute(update(Unit).where(Unit.state == "leased").values(**lost))


def expire(database: Database) -> None:
    """The same in a transaction of its own."""
    with database.transaction() as tx:
        run_out(tx)


def test_of_two_hundred_claimers_at_a_barrier_each_unit_has_one(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    # Given more claimers than units, some of which are named by messages
    add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(UNITS)])
    with world.database.reading() as tx:
        ids = list(tx.execute(select(Unit.id)).scalars())
    claimed: list[tuple[str, uuid.UUID, int]] = []

    def claim(number: int) -> None:
        owner = f"w{number}"
        with world.database.transaction() as tx:
            held = units.claim_unit(tx, ids[number % UNITS], "fake", owner, **TERMS) if number % 2 else []
            held = held or units.claim_next(tx, "fake", owner, limit=1, **TERMS)
        claimed.extend((owner, unit.id, unit.lease_token) for unit in held)

    # When all claim at the same moment, again and again until nothing waits
    began, rounds = time.monotonic(), 0
    while len(claimed) < UNITS:
        rounds += 1
        assert rounds <= UNITS, "units are lost"
        together(CLAIMERS, claim)

    # Then each was given out once, under its first token, and its row names who has it
    record_property(
        "measured", f"{CLAIMERS} claimers, {UNITS} units, {rounds} rounds, {time.monotonic() - began:.1f} s"
    )
    assert Counter(unit for _, unit, _ in claimed) == Counter(ids)
    assert {token for *_, token in claimed} == {1}
    with world.database.reading() as tx:
        rows = tx.execute(select(Unit.lease_owner, Unit.id, Unit.state, Unit.attempts)).all()
    assert {(row.lease_owner, row.id) for row in rows} == {(owner, unit) for owner, unit, _ in claimed}
    assert {(row.state, row.attempts) for row in rows} == {("leased", 1)}


class Counting:
    """A broker that takes every message and counts them."""

    def __init__(self) -> None:
        self.sent: Counter[uuid.UUID] = Counter()

    def send(self, ids: list[uuid.UUID]) -> int:
        self.sent.update(ids)
        return len(ids)


def test_of_reapers_that_take_their_turn_at_the_same_moment_one_is_elected(world: World) -> None:
    # Given units that lost their workers, and some that were never announced
    add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(6)])
    with world.database.transaction() as tx:
        assert len(units.claim_next(tx, "fake", "gone", limit=3, **TERMS)) == 3
    expire(world.database)
    broker, turns = Counting(), []

    # When eight take a turn
    def turn(number: int) -> None:
        turns.append(reaper.turn(world.database, broker, world.settings, f"w{number}"))  # type: ignore[arg-type]

    together(8, turn)

    # Then each lost unit was handed back once, and no message was sent twice
    assert sorted(turns, reverse=True)[0] == (3, 0, 6) and turns.count((0, 0, 0)) == 7
    assert len(broker.sent) == 6 and set(broker.sent.values()) == {1}
    with world.database.reading() as tx:
        assert sorted(tx.execute(select(Unit.lost_workers)).scalars()) == [0, 0, 0, 1, 1, 1]


def test_two_reapers_without_an_election_hand_back_each_unit_once(world: World) -> None:
    # Given two schedulers that both believe to be elected, as when an office runs out during a long turn
    add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(20)])
    with world.database.transaction() as tx:
        units.claim_next(tx, "fake", "gone", limit=20, **TERMS)
        tx.execute(update(Unit).where(Unit.id.in_(select(Unit.id).limit(5))).values(attempts=3))
    expire(world.database)
    found: list[tuple[int, int]] = []

    def reap(_number: int) -> None:
        with world.database.transaction() as tx:
            found.append(reaping.reap(tx, max_attempts=3))

    # When both reap at the same moment
    together(2, reap)
    reap(0)  # what one passed over because the other had it locked

    # Then each unit counts once
    assert [sum(part) for part in zip(*found, strict=True)] == [15, 5]
    with world.database.reading() as tx:
        assert set(tx.execute(select(Unit.lost_workers)).scalars()) == {1}


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_worker_whose_clock_is_hours_off_neither_loses_nor_takes_anything(
    world: World, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    # Given a unit that is in somebody's hands, one that is put off for an hour, and one that waits
    names = ("held", "later", "now")
    jobs = {name: add_job(world.database, [person(name, [2], world.settings)], key=name) for name in names}
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.job_id == jobs["later"]).values(ready_at=epoch_now() + 3600.0))
        of_held = select(Unit.id).where(Unit.job_id == jobs["held"]).scalar_subquery()
        (unit,) = units.claim_unit(tx, tx.execute(select(of_held)).scalar_one(), "fake", "other", **TERMS)

    # When a worker works, and reaps, whose clock is off by hours
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600.0)
    world.shift()
    assert reaper.turn(world.database, Counting(), world.settings, world.owner)[:2] == (0, 0)  # type: ignore[arg-type]

    # Then it drew what waited, and that alone
    assert [world.job(jobs[name])["done"] for name in names] == [0, 0, 2]
    with world.database.reading() as tx:
        told = tx.execute(select(Unit.state, Unit.lease_owner, Unit.lease_token).where(Unit.id == unit.id)).one()
        due = tx.execute(select(Unit.ready_at - epoch_now()).where(Unit.job_id == jobs["later"])).scalar_one()
    assert told == ("leased", "other", 1) and 3000.0 < due <= 3600.0


@pytest.mark.parametrize("asleep", ["in the middle of drawing", "after upload, before commit"])
def test_a_worker_that_wakes_after_its_lease_was_taken_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, asleep: str
) -> None:
    # Given a worker that falls asleep with a person's pictures in hand
    job = add_job(world.database, [person("ada", [4], world.settings)])
    sleeper = World(world.database, world.settings, FakeRenderer(batch_size=4), "sleeper")
    fell, woken = threading.Event(), threading.Event()

    def fall_asleep() -> None:
        fell.set()
        assert woken.wait(LONG)

    if asleep == "in the middle of drawing":
        sleeper.renderer._at_step = lambda step: fall_asleep()
    else:
        put = sleeper.storage.put

        def put_then_fall_asleep(key: str, *args: Any, **named: Any) -> None:
            put(key, *args, **named)
            if key.endswith(".png"):
                fall_asleep()

        monkeypatch.setattr(sleeper.storage, "put", put_then_fall_asleep)
    thread = threading.Thread(target=sleeper.shift)
    thread.start()
    assert fell.wait(LONG)

    # When its lease runs out and another worker draws them all, before it wakes
    with world.database.transaction() as tx:  # in one, or its heart would beat in between
        run_out(tx)
        assert reaping.reap(tx, max_attempts=3) == (1, 0)
    world.shift()
    before = rows_of(world.database)
    woken.set()
    thread.join(LONG)
    assert not thread.is_alive()

    # Then its writes have changed nothing, every row names the other's object, and the sweep leaves one for each
    assert rows_of(world.database) == before
    keys = [row["storage_key"] for row in world.renders(job)]
    assert world.job(job)["done"] == 4 and {key.rsplit("/", 1)[1] for key in keys} == {"2.png"}
    sweep(world.settings, older_than_seconds=0, delete=True)
    assert world.pictures() == sorted(keys) and differences(world.database, TENANT, job) == []


def rows_of(database: Database) -> list[str]:
    """Every row of units, renders and candidates, as text."""
    with database.reading() as tx:
        return sorted(repr(row) for table in (Unit, Render, Candidate) for row in tx.execute(select(table)))


class Moody(FakeRenderer):
    """Runs out of memory where its moods say so: one for each call, over and over."""

    def __init__(self, generating: list[bool], fits: list[int], decoding: list[bool]) -> None:
        super().__init__(batch_size=4)
        self._generating, self._rooms, self._decoding = map(itertools.cycle, (generating, fits, decoding))
        self.tried: list[int] = []
        self._refuse = lambda photos: OutOfMemory() if next(self._generating) else None

    def draw(self, samples: Any, setting: Any, **options: Any) -> Batch:
        self.tried.append(len(samples))
        assert len(self.tried) < 500, "an endless loop"
        self._fits = next(self._rooms)
        batch = super().draw(samples, setting, **options)
        if next(self._decoding):
            raise OutOfMemory
        return batch


MOODS = {
    "never any room": ([False], [0], [False]),
    "room for one": ([False], [1], [False]),
    "shrinking": ([False], [4, 3, 2, 1], [False]),
    "coming and going": ([False], [0, 4], [False]),
    "decoding, every second time": ([False], [4], [True, False]),
    "decoding, always": ([False], [4], [True]),
    "generating, at first": ([True, False], [4], [False]),
    "generating, always": ([True], [4], [False]),
    "all of it, by turns": ([True, False, False], [4, 0, 2], [False, True, False]),
}


HOPELESS = {"never any room", "decoding, always", "generating, always"}
ENOUGH = {"room for one", "shrinking", "generating, at first"}


@pytest.mark.parametrize("mood", MOODS)
def test_whatever_the_memory_does_every_picture_is_done_or_told_to_have_found_none(world: World, mood: str) -> None:
    # Given two people with pictures for several batches, and a device whose memory comes and goes
    world = World(world.database, world.settings, Moody(*MOODS[mood]))
    job = add_job(world.database, [person("ada", [6], world.settings), person("bob", [3], world.settings)])

    # When shifts come as long as something waits
    for _ in shifts(world, job):
        world.shift()

    # Then every picture is there or has that reason, and no unit was tried more often than it may be
    told = world.job(job)
    with world.database.reading() as tx:
        codes = dict(tx.execute(select(Render.error_code, func.count()).group_by(Render.error_code)).all())  # type: ignore[arg-type]
        attempts = tx.execute(select(func.max(Unit.attempts))).scalar_one()
    assert set(codes) <= {None, "out_of_memory", "people_out_of_memory"} and attempts <= world.settings.max_attempts
    assert told["done"] == codes.get(None, 0) and told["done"] + told["failed"] == 9
    # and where there is room for one at every third try at least, most of it is done
    assert told["done"] == 0 if mood in HOPELESS else told["done"] == 9 if mood in ENOUGH else told["done"] >= 5
    assert differences(world.database, TENANT, job) == []

    # And a batch that did not fit was tried smaller
    tried = world.renderer.tried  # type: ignore[attr-defined]
    assert mood.startswith("generating") or min(tried) < 4


def shifts(world: World, job: uuid.UUID) -> Iterator[int]:
    """Turns until nothing of the job waits; whoever was told to wait before another try has waited."""
    for number in range(20):
        if not world.job(job)["waiting"]:
            return
        with world.database.transaction() as tx:
            tx.execute(update(Unit).where(Unit.state == "ready").values(ready_at=0.0))
        yield number
    raise AssertionError("the work goes round in circles")
