"""The next people are drawn while the last pictures of those before are judged, in bounds, and nobody pays for it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image
from queue_world import World, add_job, person, settings
from sqlalchemy import select, update
from test_mixed import CHEAP

from hyperlora.faces.types import Face
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, StorageUnavailable
from jobs.models import Unit
from jobs.options import GateOption, RenderOptions
from worker.begun import Begun
from worker.shift import MOST_HANDS, Shift
from worker.testing import FakeRenderer

LONG = 60.0  # seconds after which what should have come is missing
TWO_SEEDS = RenderOptions(gate=GateOption(min_id_similarity=1.0, attempts=2)).dump()


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


class SlowJudge:
    """Looks at no picture before the second person's first batch is being drawn.

    `begun` is set then; `then` is called in that batch, on the drawing thread, when the judge has been let go.
    """

    def __init__(self, world: World, then: Callable[[], None] = lambda: None) -> None:
        self.begun, self._world, self._then = threading.Event(), world, then
        world.renderer._faces_in = self._faces_in
        world.renderer._at_step = self._at_step

    def _faces_in(self, _image: Image) -> list[Face]:
        assert self.begun.wait(LONG), "the second person was not begun while the first one's pictures were judged"
        return []

    def _at_step(self, _step: int) -> None:
        if self._world.renderer.calls["merge"] == 2 and not self.begun.is_set():
            self.begun.set()
            self._then()


def making(world: World) -> Begun:
    assert world.recorder is not None
    return world.recorder.begun


def follow_ups_come(world: World, count: int) -> None:
    """Wait until so many drawings follow."""
    begun = making(world)
    with begun._changed:
        assert begun._changed.wait_for(lambda: len(begun._follow_ups) == count, LONG)


def two_people(world: World, first: int, second: int, options: Any = None) -> tuple[Any, Any]:
    """A job of each, in this order."""
    return (
        add_job(world.database, [person("ada", [first], world.settings, options=options)], key="ada", priority=9),
        add_job(world.database, [person("alan", [second], world.settings)], key="alan"),
    )


def test_a_slow_judge_keeps_nobody_from_being_drawn(world: World) -> None:
    # Given two people, and a judge who looks at nobody before the second one is being drawn
    jobs = two_people(world, 4, 8)
    judge = SlowJudge(world)

    # When one shift runs
    report = world.shift()

    # Then both are done, in full batches
    assert judge.begun.is_set()
    assert [world.job(job)["done"] for job in jobs] == [4, 8]
    assert (report.groups, report.units, world.renderer.batch_sizes) == (2, 2, [4, 4, 4])


@pytest.mark.parametrize("count", [4, 3])
def test_what_follows_is_drawn_between_the_next_persons_batches(world: World, count: int) -> None:
    # Given a first person whose pictures are all to be drawn under a second seed, as is known during the second person
    jobs = two_people(world, count, 12, TWO_SEEDS)
    world.renderer._alike = lambda image: 0.0
    SlowJudge(world, then=lambda: follow_ups_come(world, count))

    # When one shift runs
    world.shift()

    # Then her second seeds were one batch, as full as they can fill it, drawn before his second one
    ada, alan = world.renderer.merged[0], world.renderer.merged[1]
    assert list(world.renderer.merged) == [ada, alan, ada, alan]
    assert world.renderer.batch_sizes == [count, 4, count, 4, 4]
    assert [world.job(job)["done"] for job in jobs] == [count, 12]
    assert [row["draws"] for row in world.renders(jobs[0])] == [2] * count


def test_what_follows_from_two_people_shares_a_batch_where_that_is_cheap(world: World) -> None:
    # Given two people with a full batch each, of which half is to be drawn again, on a device that shares cheaply
    world.costs = CHEAP
    jobs = [add_job(world.database, [person(n, [4], world.settings, options=TWO_SEEDS)], key=n) for n in ("a", "b")]
    looked = iter(range(1000))
    world.renderer._alike = lambda image: float(next(looked) % 4 < 2)
    judge = SlowJudge(world)

    # When one shift runs
    report = world.shift()

    # Then the two halves were one batch
    assert judge.begun.is_set()
    assert world.renderer.batch_sizes == [4, 4, 4]
    assert (report.drawn.mixed, report.drawn.fill) == (1, 1.0)
    assert [world.job(job)["done"] for job in jobs] == [4, 4]


def test_a_refused_picture_of_the_first_is_not_the_second_ones_fault(world: World) -> None:
    # Given a checker that refuses what it sees while the second person is being drawn: the first one's pictures
    jobs = two_people(world, 4, 4)
    seen: list[int] = []
    world.renderer._unsafe = lambda image: seen.append(1) or ("nudity" if len(seen) <= 4 else None)  # type: ignore[func-returns-value]
    SlowJudge(world, then=lambda: _all_judged(world))

    # When one shift runs
    world.shift()

    # Then hers failed with the reason, and his are there
    assert [world.job(job)["state"] for job in jobs] == ["failed", "done"]
    assert {row["error_code"] for row in world.renders(jobs[0])} == {"refused_content"}


def _all_judged(world: World) -> None:
    begun = making(world)
    with begun._changed:
        assert begun._changed.wait_for(lambda: not begun._unjudged, LONG)


def test_a_store_that_fails_for_the_first_hands_back_the_first_alone(world: World, monkeypatch: Any) -> None:
    # Given a store that takes none of the first person's pictures, which comes out while the second one is drawn
    monkeypatch.setattr("worker.recorder.FIRST_WAIT_SECONDS", 0.001)
    ada, alan = two_people(world, 4, 4)
    put = world.storage.put

    def refusing(key: str, *args: Any, **named: Any) -> None:
        if f"/{ada}/" in key:
            raise StorageUnavailable("503")
        put(key, *args, **named)

    monkeypatch.setattr(world.storage, "put", refusing)
    SlowJudge(world)

    # When one shift runs
    world.shift()

    # Then her unit waits for another try with the reason, and his is done
    with world.database.reading() as tx:
        units = {row.job_id: row for row in tx.execute(select(Unit.__table__))}
    assert (units[ada].state, units[ada].error_code) == ("ready", "storage_unavailable")
    assert units[alan].state == "done"


def test_told_to_stop_while_two_people_are_in_the_making_loses_nothing(world: World) -> None:
    # Given a first person whose second seeds are still to be drawn, and a stop in the second one's first batch
    jobs = two_people(world, 4, 8, TWO_SEEDS)
    world.renderer._alike = lambda image: 0.0

    def stop() -> None:
        follow_ups_come(world, 4)
        world.stop.set()

    SlowJudge(world, then=stop)

    # When that shift ends
    report = world.shift()

    # Then the batch was finished, everything else handed back at once with its attempt, and no picture is left over
    assert [(world.job(job)["done"], world.job(job)["waiting"]) for job in jobs] == [(0, 4), (4, 4)]
    assert len(report.handed_back) == 2 and not report.ran_dry
    with world.database.reading() as tx:
        assert tx.execute(select(Unit.state, Unit.attempts)).all() == [("ready", 0)] * 2

    # When another shift runs
    world.stop.clear()
    world.renderer._at_step = lambda step: None
    world.shift()

    # Then every render has its picture, once
    assert [world.job(job)["done"] for job in jobs] == [4, 8]
    rows = [row for job in jobs for row in world.renders(job)]
    assert len({row["storage_key"] for row in rows}) == 12
    assert set(world.pictures()) >= {row["storage_key"] for row in rows}


def test_a_shift_whose_time_is_up_finishes_what_two_people_have_begun(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a shift that is over when the second person has been begun, and second seeds of the first one to be drawn
    world = World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4, alike=lambda image: 0.0))
    jobs = two_people(world, 4, 8, TWO_SEEDS)
    clock = [0.0]

    class Time:
        monotonic = staticmethod(lambda: clock[0])

    def late() -> None:
        follow_ups_come(world, 4)
        clock[0] = world.settings.shift_seconds + 1

    SlowJudge(world, then=late)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("worker.shift.time", Time)

        # When it runs
        report = world.shift()

    # Then her pictures are finished, and of his the batch that was begun
    assert [world.job(job)["done"] for job in jobs] == [4, 4]
    assert len(report.handed_back) == 1


def test_a_unit_that_a_worker_was_lost_with_is_claimed_when_nothing_else_is_held(world: World) -> None:
    # Given three people, with the second of whom a worker was lost before
    jobs = [add_job(world.database, [person(name, [4], world.settings)], key=name) for name in ("ada", "bob", "cleo")]
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.job_id == jobs[1]).values(attempts=1, lost_workers=1))
    beside: dict[str, set[uuid.UUID]] = {}

    def held(when: str) -> None:
        leased = select(Unit.job_id).where(Unit.state == "leased")
        with world.database.reading() as tx:
            beside.setdefault(when, set()).update(tx.execute(leased).scalars())

    def prepare(photos: Any) -> None:
        held(photos[0].decode())

    world.renderer._refuse = prepare
    world.renderer._at_step = lambda step: held(f"merge {world.renderer.calls['merge']}")

    # When one shift runs
    report = world.shift()

    # Then nothing else was held while that one was prepared and drawn, and all are done
    assert beside["bob"] == beside["merge 2"] == {jobs[1]}
    assert jobs[1] not in beside["ada"] | beside["merge 1"] | beside["cleo"] | beside["merge 3"]
    assert [world.job(job)["done"] for job in jobs] == [4, 4, 4] and report.handed_back == []


def test_a_database_that_is_away_for_a_moment_ends_no_shift(world: World, caplog: pytest.LogCaptureFixture) -> None:
    # Given two people, and a database that does not answer when the second is claimed ahead of time
    jobs = two_people(world, 4, 4)
    claims: list[int] = []

    def away_once(shift: Shift, **terms: Any) -> Any:
        claims.append(1)
        if len(claims) == 1:
            raise DatabaseUnavailable("no answer")
        return Shift._claim_unwatched(shift, **terms)  # type: ignore[attr-defined]

    # When one shift runs
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shift, "_claim_unwatched", Shift._claim_next, raising=False)
        patched.setattr(Shift, "_claim_next", away_once)
        report = world.shift()

    # Then the second was claimed anew, and the log says what was
    assert [world.job(job)["done"] for job in jobs] == [4, 4] and report.ran_dry
    assert "could be claimed ahead of time: no answer" in caplog.text


def test_a_fault_ahead_of_time_does_not_take_the_place_of_the_shifts_own(world: World) -> None:
    # Given a shift that ends with a fault while the second person's claim met another
    two_people(world, 4, 4)
    claims: list[int] = []

    def away(_shift: Shift, **_terms: Any) -> Any:
        claims.append(1)
        raise ZeroDivisionError

    def broken(_shift: Shift) -> bool:
        raise MemoryError("the shift's own")

    # When it runs / Then its own fault is what is told
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shift, "_claim_next", away)
        patched.setattr(Shift, "_taken_over", broken)
        with pytest.raises(MemoryError, match="the shift's own"):
            world.shift()
    assert claims == [1]


class Held:
    """Stands for the recorder's room, and tells when there is none."""

    def __init__(self, room: threading.BoundedSemaphore) -> None:
        self._room, self.none_left = room, threading.Event()

    def acquire(self) -> None:
        if not self._room.acquire(blocking=False):
            self.none_left.set()
            self._room.acquire()

    def release(self) -> None:
        self._room.release()


def stop_the_store(world: World, monkeypatch: Any) -> threading.Event:
    """No picture is stored until the event is set."""
    opened, put = threading.Event(), world.storage.put

    def slow(key: str, *args: Any, **named: Any) -> None:
        if key.endswith(".png"):
            assert opened.wait(LONG)
        put(key, *args, **named)

    monkeypatch.setattr(world.storage, "put", slow)
    return opened


def test_a_store_that_stands_still_holds_drawing_back_at_the_bound(world: World, monkeypatch: Any) -> None:
    # Given a store that takes nothing, a recorder with room for four pictures, and ten batches of four
    opened = stop_the_store(world, monkeypatch)
    job = add_job(world.database, [person("ada", [40], world.settings)])
    held: list[Held] = []
    hold = threading.Event()

    def at_step(_step: int) -> None:
        if not held:
            assert world.recorder is not None
            held.append(Held(world.recorder._room))
            world.recorder._room = held[0]  # type: ignore[assignment]
            hold.set()

    world.renderer._at_step = at_step

    # When a shift has drawn as far as it can
    shift = threading.Thread(target=world.shift)
    shift.start()
    assert hold.wait(LONG) and held[0].none_left.wait(LONG)

    # Then two batches were drawn: four pictures wait for the store, and four for room
    assert world.renderer.batch_sizes == [4, 4] and world.pictures() == []

    # When the store goes on
    opened.set()
    shift.join()

    # Then everything is there
    assert world.job(job)["done"] == 40


def test_a_store_that_stands_still_keeps_claims_in_bounds(world: World, monkeypatch: Any) -> None:
    # Given a store that takes nothing, and a dozen people with one picture each
    opened = stop_the_store(world, monkeypatch)
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(12)])
    leased: list[int] = []
    full, wait = threading.Event(), Begun.wait

    def count_then_wait(begun: Begun, since: int) -> None:
        with world.database.reading() as tx:
            leased.append(len(tx.execute(select(Unit.id).where(Unit.state == "leased")).all()))
        if leased[-1] > MOST_HANDS:
            full.set()
        wait(begun, since)

    monkeypatch.setattr(Begun, "wait", count_then_wait)

    # When a shift has drawn as far as it can
    shift = threading.Thread(target=world.shift)
    shift.start()
    assert full.wait(LONG)
    drawn = len(world.renderer.batch_sizes)
    opened.set()
    shift.join()

    # Then four people waited for the store and one was prepared, others were left to whoever comes; and all are done
    assert drawn == MOST_HANDS and max(leased) == MOST_HANDS + 1
    assert world.job(job)["done"] == 12
