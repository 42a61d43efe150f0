"""After an outage of the database nobody is taken for lost before they had time to say that they live."""

from __future__ import annotations

from pathlib import Path

from queue_world import World, add_job, person, settings
from sqlalchemy import select, text

from jobs.broker import Broker
from jobs.database import Database
from jobs.models import Unit
from jobs.repository import units as unit_rows
from worker.reaper import Patience, turn
from worker.testing import FakeRenderer


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_patience_lasts_a_leases_life_from_the_first_answer() -> None:
    # Given a reaper at its start, which may reap at once
    clock = Clock()
    patience = Patience(120.0, clock)
    assert patience.is_over()

    # When the database was away for ten minutes, then answers
    patience.begin()
    clock.now = 600.0

    # Then nothing is reaped for a lease's life from now on, and then again
    assert not patience.is_over()
    clock.now = 719.0
    assert not patience.is_over()
    clock.now = 720.0
    assert patience.is_over()


def test_an_outage_is_not_blamed_on_units(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a unit in a living worker's hands, whose lease ran out while the database was away
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    add_job(database, [person("ada", [2], world.settings)])
    with database.transaction() as tx:
        limits = {"lease_seconds": 30.0, "max_attempts": 3}
        (unit,) = unit_rows.claim_next(tx, "fake", "worker-1", limit=1, **limits)
        tx.execute(text("UPDATE units SET lease_until = lease_until - 100"))
    broker = Broker(world.settings)
    try:
        # When the reaper takes its first turn after that, and then the worker's heartbeat comes
        assert turn(database, broker, world.settings, "reaper", may_reap=False)[:2] == (0, 0)
        with database.transaction() as tx:
            held = unit_rows.heartbeat(tx, "worker-1", {unit.id: unit.lease_token}, lease_seconds=30.0)

        # Then the unit is still the worker's, and is not suspected when reaping begins again
        assert held == {unit.id: unit.lease_token}
        assert turn(database, broker, world.settings, "reaper")[:2] == (0, 0)
    finally:
        broker.close()
    with database.reading() as tx:
        assert tx.execute(select(Unit.lease_owner, Unit.lost_workers)).one() == ("worker-1", 0)
