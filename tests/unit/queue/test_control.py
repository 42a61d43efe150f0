"""How soon a cancel, a fence and a stop take effect on what is being drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import update
from test_mixed import CHEAP

from jobs.database import Database
from jobs.models import Unit
from jobs.repository import jobs as job_rows
from worker.leases import Leases
from worker.testing import FakeRenderer

STEPS = 20
SEEN_AT = 7


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


def cancel(world: World, job: Any) -> None:
    with world.database.transaction() as tx:
        job_rows.cancel(tx, TENANT, job)


def fence(world: World, _job: Any) -> None:
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(lease_owner="another", lease_token=Unit.lease_token + 1))


def fall_silent(world: World, _job: Any) -> None:
    assert world.leases is not None
    world.leases._last_confirmed -= 2 * world.settings.lease_seconds


def see(world: World) -> None:
    """What the thread of the leases does every few seconds."""
    assert world.leases is not None
    world.leases.look()


@pytest.mark.parametrize("happens", [cancel, fence, fall_silent])
def test_what_is_lost_is_not_drawn_on(world: World, happens: Callable[[World, Any], None]) -> None:
    # Given a unit that is lost at the seventh of twenty steps of its first batch
    job = add_job(world.database, [person("ada", [8], world.settings, steps=STEPS)])
    asked: list[int] = []

    def at_step(step: int) -> None:
        asked.append(step)
        if step == SEEN_AT:
            happens(world, job)
            see(world)

    world.renderer._at_step = at_step

    # When the shift runs
    world.shift()

    # Then no further step was asked for, of this batch or another, and nothing was stored; two that were asked for
    # before may still be done, as the host is so far ahead of the device
    assert asked == list(range(SEEN_AT + 1))
    assert world.pictures() == []


def test_a_batch_of_several_people_ends_when_the_last_of_them_is_lost(world: World) -> None:
    # Given two people in one batch, of whom one is cancelled at the third step and the other at the seventh
    world.costs = CHEAP
    jobs = [
        add_job(world.database, [person(name, [1], world.settings, steps=STEPS)], key=name) for name in ("ada", "alan")
    ]
    asked: list[int] = []

    def at_step(step: int) -> None:
        asked.append(step)
        for at, job in zip((2, SEEN_AT), jobs, strict=True):
            if step == at:
                cancel(world, job)
                see(world)

    world.renderer._at_step = at_step

    # When the shift runs
    world.shift()

    # Then it went on for the one, and ended with the other
    assert asked == list(range(SEEN_AT + 1))
    assert {world.job(job)["state"] for job in jobs} == {"cancelled"}


def test_one_of_several_people_who_is_cancelled_leaves_the_others_their_pictures(world: World) -> None:
    # Given two people in one batch, of whom one is cancelled in the middle
    world.costs = CHEAP
    jobs = [
        add_job(world.database, [person(name, [1], world.settings, steps=STEPS)], key=name) for name in ("ada", "alan")
    ]

    def at_step(step: int) -> None:
        if step == SEEN_AT:
            cancel(world, jobs[0])
            see(world)

    world.renderer._at_step = at_step

    # When the shift runs
    world.shift()

    # Then one picture is there, and of the other nothing
    assert [world.job(job)["state"] for job in jobs] == ["cancelled", "done"]
    assert len(world.pictures()) == 1 and f"/{jobs[1]}/" in world.pictures()[0]


def test_a_loss_is_seen_long_before_the_next_heartbeat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given leases whose hearts beat every twenty minutes, and a unit of theirs that is cancelled
    job = add_job(world.database, [person("ada", [4], world.settings)])
    monkeypatch.setattr("worker.leases.LOOK_SECONDS", 0.01)
    world.settings = world.settings.model_copy(update={"lease_seconds": 3600.0})
    looked, beats = threading.Event(), []
    look, beat = Leases.look, Leases.beat

    def looking(leases: Leases) -> None:
        look(leases)
        if leases._held() == {} and world.job(job)["state"] == "cancelled":
            looked.set()

    monkeypatch.setattr(Leases, "look", looking)
    monkeypatch.setattr(Leases, "beat", lambda leases: beats.append(1) or beat(leases))  # type: ignore[func-returns-value]

    def at_step(_step: int) -> None:
        cancel(world, job)
        assert looked.wait(60)

    world.renderer._at_step = at_step

    # When the shift runs
    world.shift()

    # Then the thread saw it without a beat
    assert looked.is_set() and beats == [] and world.pictures() == []
