"""Draining a worker: it finishes its batch, hands back the rest, and claims nothing until it may again."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from queue_world import World, add_job, person, settings
from sqlalchemy import select, update

from jobs import control
from jobs.database import Database
from jobs.errors import UnknownWorker
from jobs.models import Unit
from jobs.models_fleet import Worker
from jobs.repository import drain, fleet
from worker import process, reaper
from worker.leases import Leases
from worker.process import WORKER_ID, WorkerProcess
from worker.testing import FakeRenderer

PROFILES = '[profiles.fake]\nrenderer = "fake"\nbatch_size = 2\n'
STEPS = 5


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    file = tmp_path / "profiles.toml"
    file.write_text(PROFILES, encoding="utf-8")
    return World(database, settings(tmp_path, database_url, profiles_file=file), FakeRenderer(batch_size=2))


@pytest.fixture
def leases_made(monkeypatch: pytest.MonkeyPatch) -> list[Leases]:
    made: list[Leases] = []
    monkeypatch.setattr(process, "Leases", lambda *args, **more: made.append(Leases(*args, **more)) or made[-1])
    return made


def unit(world: World) -> uuid.UUID:
    with world.database.reading() as tx:
        return tx.execute(select(Unit.id).order_by(Unit.sort_key, Unit.id).limit(1)).scalar_one()


def ask(world: World, name: str | None = None, seconds: float = 0.0, **more: Any) -> list[drain.DrainingWorker]:
    return control.drain(name, timeout_seconds=seconds, settings=world.settings, **more)


def state(world: World, worker_id: str = WORKER_ID) -> str:
    with world.database.reading() as tx:
        return tx.execute(select(Worker.state).where(Worker.id == worker_id)).scalar_one()


def test_a_worker_finishes_its_batch_and_hands_back_the_rest(
    world: World, leases_made: list[Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that is asked to drain at the second step of the first of three batches
    job = add_job(world.database, [person("ada", [6], world.settings, steps=STEPS)])
    asked: list[int] = []
    seen: list[str] = []

    def at_step(_step: int) -> None:
        asked.append(len(asked))
        if len(asked) == 2:
            seen.extend(one.state for one in ask(world))
            leases_made[-1].look()

    monkeypatch.setattr(
        process, "make_renderer", lambda profile, _: FakeRenderer("fake", batch_size=2, at_step=at_step)
    )
    worker = WorkerProcess(world.settings)

    # When its shift runs
    worker.run_shift(unit(world), "fake")

    # Then it was not drained before its end; it drew one batch, and no attempt was counted for what is left
    assert seen == ["working"]
    assert len(asked) == STEPS
    assert (world.job(job)["done"], world.job(job)["waiting"], world.job(job)["running"]) == (2, 4, 0)
    assert state(world) == "drained"
    with world.database.reading() as tx:
        assert tx.execute(select(Unit.attempts)).scalars().all() == [0]

    # And woken again it claims nothing, and the message is announced anew for another worker
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(message_sent_at=1.0))
    assert worker.run_shift(unit(world), "fake").units == 0
    assert (state(world), world.job(job)["waiting"]) == ("drained", 4)
    with world.database.reading() as tx:
        assert tx.execute(select(Unit.message_sent_at)).scalars().all() == [None]

    # And when that is undone, it draws the rest
    control.undo_drain(None, settings=world.settings)
    assert state(world) == "idle"
    worker.run_shift(unit(world), "fake")
    assert (world.job(job)["state"], state(world)) == ("done", "idle")
    worker.close()


def test_an_idle_worker_is_drained_at_once(world: World) -> None:
    # Given two workers of one machine and one of another, all idle
    with world.database.transaction() as tx:
        for worker_id in ("host:1:a", "host:2:b", "host2:1:c"):
            fleet.seen(tx, worker_id, name=worker_id[:-2], pid=1, version="0")

    # When a machine is named, then its workers are drained, and only they
    assert [(one.name, one.is_over) for one in ask(world, "host")] == [("host:1", True), ("host:2", True)]
    assert state(world, "host2:1:c") == "idle"

    # And a name that nobody has is told
    with pytest.raises(UnknownWorker, match="nobody"):
        ask(world, "nobody")
    # And a sign of life changes nothing
    with world.database.transaction() as tx:
        fleet.sign_of_life(tx, "host:1:a", name="host:1", pid=1, version="0", state="idle")
    assert state(world, "host:1:a") == "drained"


def test_a_worker_is_also_known_by_the_process_that_draws(world: World) -> None:
    # Given two workers, whose drawing processes sign shifts and pictures with their own process id
    with world.database.transaction() as tx:
        for number in (1, 2):
            told = {"name": f"host:{number}", "pid": 100 + number, "version": "0", "state": "idle"}
            fleet.sign_of_life(tx, f"host:{number}:a", **told)  # type: ignore[arg-type]

    # When one is asked by that name, as `status --fleet` shows it, then it is drained, and the other is not
    assert [one.name for one in ask(world, "host:102")] == ["host:2"]
    for stranger in ("host:103", "other:102", "102", ":102"):
        with pytest.raises(UnknownWorker):
            ask(world, stranger)


def test_waiting_ends_when_the_worker_is_drained_or_the_time_is_up(world: World) -> None:
    # Given a worker at work
    with world.database.transaction() as tx:
        fleet.sign_of_life(tx, "host:1:a", name="host:1", pid=1, version="0", state="working", busy=True)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            with world.database.transaction() as tx:
                drain.end_work(tx, "host:1:a")

    # When it is given no time, then it is said not to be drained
    assert [one.is_over for one in ask(world, "host:1")] == [False]
    # And given time, the wait ends with the work
    assert [one.is_over for one in ask(world, "host:1", 3600.0, wait=wait)] == [True]
    assert len(waits) == 3


def test_a_worker_that_fell_silent_is_not_waited_for(world: World) -> None:
    # Given a worker at work whose last sign of life is older than a lease
    with world.database.transaction() as tx:
        fleet.sign_of_life(tx, "host:1:a", name="host:1", pid=1, version="0", state="working", busy=True)
        tx.execute(update(Worker).values(last_seen_at=Worker.last_seen_at - 2 * world.settings.lease_seconds))

    # Then nobody waits for it, and it is not said to be drained
    assert [one.is_over for one in ask(world, None, 3600.0, wait=lambda _: pytest.fail("waited"))] == [False]


def test_a_heartbeat_looks_whether_the_worker_is_to_drain(world: World) -> None:
    # Given leases so short that a heartbeat is due before every look
    read: list[bool] = []
    leases = Leases(world.database, "host:1:a", lease_seconds=15.0, watch=(lambda _: read.append(True),))

    # When it beats, then what a look would have read is read
    leases.beat()
    assert read == [True]


def test_a_worker_of_an_older_version_is_told_apart(world: World) -> None:
    # Given a row as a version before wrote it
    with world.database.transaction() as tx:
        fleet.seen(tx, "host:1:a", name="host:1", pid=1, version="0.2.0")
        tx.execute(update(Worker).values(busy=None))

    # Then it is never said to be drained
    found = ask(world, "host:1")
    assert [(one.understands, one.is_over) for one in found] == [(False, False)]


@pytest.mark.parametrize(
    ("said", "asked", "after"), [("working", False, "idle"), ("working", True, "drained"), ("unfit", False, "idle")]
)
def test_a_killed_process_is_not_waited_for_and_not_unfit(world: World, said: str, asked: bool, after: str) -> None:
    # Given a worker whose drawing process was killed after it said that it works, or that it is unfit
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    told = {"name": "host:1", "version": "0", "state": said, "error": "no space" if said == "unfit" else None}
    with world.database.transaction() as tx:
        fleet.sign_of_life(tx, "host:1:a", pid=child.pid, busy=said == "working", **told)  # type: ignore[arg-type]
        if asked:
            drain.ask(tx, ["host:1:a"])

        # When its parent looks while it lives, then nothing changes
        reaper.look_after_child(tx, "host:1:a")
        assert tx.execute(select(Worker.state, Worker.pid)).one() == (said, child.pid)
    child.kill()
    child.communicate()

    # When it looks after that, then the row says what is so, and the next process says what it likes
    with world.database.transaction() as tx:
        reaper.look_after_child(tx, "host:1:a")
        assert tx.execute(select(Worker.state, Worker.busy, Worker.error)).one() == (after, False, None)
        fleet.sign_of_life(tx, "host:1:a", pid=os.getpid() + 1, **told | {"state": "starting"}, busy=True)  # type: ignore[arg-type]
        assert not fleet.child_died(tx, "host:1:a", pid=child.pid, parent_pid=os.getpid())
        assert tx.execute(select(Worker.state)).scalar_one() == "starting"
