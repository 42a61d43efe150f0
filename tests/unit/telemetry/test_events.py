"""The moments of a unit's life: who is told, in which order, and that nobody who is told hurts a picture."""

from __future__ import annotations

import inspect
import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queue_world import World, add_job, only_postgres, person, settings
from sqlalchemy import update

from hyperlora.errors import NoUsablePhoto
from jobs.database import Database
from jobs.models import Unit
from jobs.repository import control
from worker.telemetry.events import EVENTS, Observer, Observers
from worker.testing import FakeRenderer
from worker.weights import WeightSets


class Told(Observer):
    """Remembers what it is told."""

    def __init__(self, raises: bool = False) -> None:
        self.events: list[tuple[str, tuple[Any, ...]]] = []
        self._raises, self._lock = raises, threading.Lock()

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)

        def take(*told: Any) -> None:
            with self._lock:
                self.events.append((name, told))
            if self._raises:
                raise RuntimeError("an observer of no use")

        return take

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """What was told under this name, in order."""
        return [told for event, told in self.events if event == name]


def watch(world: World, monkeypatch: pytest.MonkeyPatch, *observers: Observer) -> Observer:
    """Let the world's shifts tell these observers."""
    from worker import recorder, shift

    told = Observers(observers)
    world.weight_sets = WeightSets(
        *(world.database, world.storage, world.renderer, world.owner),
        lease_seconds=world.settings.lease_seconds,
        observer=told,
    )
    import queue_world

    def with_observer(kind: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: kind(*given, **named, observer=told)

    monkeypatch.setattr(queue_world, "Shift", with_observer(shift.Shift))
    monkeypatch.setattr(queue_world, "Recorder", with_observer(recorder.Recorder))
    return told


def _world(database: Database, tmp_path: Path, database_url: str, **renderer: Any) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(**renderer))


def test_a_person_is_told_of_from_claim_to_settlement(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one person with six pictures, in batches of four
    world, told = _world(database, tmp_path, database_url), Told()
    watch(world, monkeypatch, told)
    add_job(database, [person("ada", [6], world.settings)])

    # When a shift draws
    world.shift()

    # Then the moments come in their order
    names = [name for name, _ in told.events]
    assert names[:4] == ["claimed", "weights_ready", "prepared", "batch_began"]
    assert names[-1] == "unit_settled"
    assert [len(batch.renders) for (batch,) in told.of("batch_drawn")] == [4, 2]
    assert [batch.places for (batch,) in told.of("batch_drawn")] == [4, 4]
    # And six pictures were recorded, the unit is done, and its weights were made
    assert len({render.id for render, *_ in told.of("picture_recorded")}) == 6
    ((unit, outcome, error),) = told.of("unit_settled")
    assert (outcome, error) == ("done", None)
    ((claimed,),) = told.of("claimed")
    assert [one.id for one in claimed] == [unit.id] and claimed[0].waited_seconds >= 0
    assert [weights.source for _, weights in told.of("weights_ready")] == ["generated"]


def test_an_observer_that_raises_hurts_neither_a_picture_nor_the_others(
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given an observer that raises whatever it is told, before one that does not
    world, told = _world(database, tmp_path, database_url), Told()
    watch(world, monkeypatch, Told(raises=True), told)
    job = add_job(database, [person("ada", [3], world.settings)])

    # When a shift draws
    with caplog.at_level(logging.ERROR, logger="worker.telemetry.events"):
        world.shift()

    # Then every picture is there, the other one was told, and the log says who did not take note
    assert world.job(job)["done"] == 3
    assert len(told.of("picture_recorded")) == 3
    assert "Told did not take note of 'claimed'" in caplog.text


def test_a_batch_that_does_not_fit_is_told(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a device that has room for two pictures, and batches of four
    world, told = _world(database, tmp_path, database_url, fits=2), Told()
    watch(world, monkeypatch, told)
    add_job(database, [person("ada", [4], world.settings)])

    # When a shift draws, then the first batch did not fit and two smaller ones did
    world.shift()
    assert told.of("out_of_memory") == [("batch", 4)]
    assert [len(batch.renders) for (batch,) in told.of("batch_drawn")] == [2, 2]


def test_a_person_without_a_face_is_told_with_the_reason(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given photos that nobody can be made from
    world, told = _world(database, tmp_path, database_url, refuse=lambda photos: NoUsablePhoto("no face")), Told()
    watch(world, monkeypatch, told)
    add_job(database, [person("ada", [2], world.settings)])

    # When a shift draws
    world.shift()

    # Then the person could not be prepared, and the unit failed for that
    ((_, _, why),) = told.of("prepared")
    ((_, outcome, error),) = told.of("unit_settled")
    assert why.code == "no_usable_photo" and outcome == "failed" and error is why


def test_a_fault_that_may_pass_is_told_as_a_retry(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a renderer that meets something unforeseen
    world, told = (
        _world(database, tmp_path, database_url, refuse=lambda photos: RuntimeError("a driver's mood")),
        Told(),
    )
    watch(world, monkeypatch, told)
    add_job(database, [person("ada", [2], world.settings)])

    # When a shift draws, then its unit is to be tried again
    world.shift()
    ((_, outcome, error),) = told.of("unit_settled")
    assert outcome == "retried" and isinstance(error, RuntimeError)


@only_postgres
@pytest.mark.parametrize("how", ["lost", "taken back", "cancelled"])
def test_a_unit_that_leaves_the_workers_hands_is_told_by_what_took_it(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # Given a worker that draws, and something that takes its unit away in the middle of a batch
    world, told = _world(database, tmp_path, database_url), Told()
    job: list[uuid.UUID] = []

    def take(step: int) -> None:
        if step != 1 or how == done[0]:
            return
        done[0] = how
        with database.transaction() as tx:
            if how == "lost":
                gone = {"lease_token": Unit.lease_token + 1, "lost_workers": 1, "lease_owner": "another"}
                tx.execute(update(Unit).values(**gone))
            elif how == "cancelled":
                from jobs.repository import jobs as job_rows

                job_rows.cancel(tx, "acme", job[0])
            else:
                control.pause_job(tx, "acme", job[0])
        assert world.leases is not None
        world.leases.look()

    done = [""]
    world.renderer = FakeRenderer(at_step=take)
    watch(world, monkeypatch, told)
    job.append(add_job(database, [person("ada", [2], world.settings)]))

    # When a shift draws, then the unit is told of by what took it
    world.shift()
    assert next(outcome for _, outcome, _ in told.of("unit_settled")) == how
    assert not told.of("picture_recorded")


def test_every_moment_does_nothing_by_itself_and_says_in_a_sentence_what_it_is() -> None:
    observer = Observer()
    for name in EVENTS:
        method = getattr(observer, name)
        assert method(*(None for _ in inspect.signature(method).parameters)) is None
        assert method.__doc__ and method.__doc__.strip().endswith(".")
