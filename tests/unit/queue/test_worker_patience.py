"""What a worker leaves alone for a while, and what it does not fail for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_world import add_job, person, settings
from sqlalchemy import select, update
from sqlalchemy.exc import ProgrammingError

from jobs.database import Database, epoch_now
from jobs.models import Unit
from worker.process import SOON_SECONDS, WorkerProcess
from worker.testing import FakeRenderer


@pytest.fixture
def process(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerProcess]:
    """A worker process with one profile."""
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[profiles.fake]\nrenderer = "fake"\n')
    made = WorkerProcess(settings(tmp_path, database_url, profiles_file=profiles))
    yield made
    made.close()


def first_unit(database: Database) -> uuid.UUID:
    with database.reading() as tx:
        return tx.execute(select(Unit.id).limit(1)).scalar_one()


def test_a_profile_that_cannot_be_loaded_is_tried_ever_more_rarely(
    process: WorkerProcess, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker with work for a profile that cannot be loaded, and a clock
    add_job(database, [person("ada", [1], process._settings)])
    now, unit, broken = [1000.0], first_unit(database), [True]

    class Time:
        monotonic = staticmethod(lambda: now[0])

    def load(*_: Any) -> FakeRenderer:
        if broken[0]:
            raise FileNotFoundError("no weights")
        return FakeRenderer()

    monkeypatch.setattr("worker.process.time", Time)
    monkeypatch.setattr("worker.process.make_renderer", load)

    def minutes_until_it_is_tried() -> int:
        began = now[0]
        with pytest.raises(FileNotFoundError):
            process.load("fake")
        while process.profile_to_draw(unit) is None:
            now[0] += 60.0
        return round((now[0] - began) / 60.0)

    # When it fails again and again / Then it is left alone twice as long each time, up to an hour
    assert [minutes_until_it_is_tried() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]

    # And when it was loaded, a new fault begins with a minute again
    broken[0] = False
    process.load("fake")
    process._renderer, broken[0] = None, True
    assert minutes_until_it_is_tried() == 1


def test_a_shift_does_not_fail_for_its_figures(
    process: WorkerProcess, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a database user who may not write to the table of shifts
    add_job(database, [person("ada", [1], process._settings)])

    def refuse(*_: Any, **__: Any) -> None:
        raise ProgrammingError("INSERT INTO shifts", {}, Exception("permission denied for table shifts"))

    monkeypatch.setattr("worker.process.fleet.record_shift", refuse)

    # When a shift runs / Then it draws, and its log says what is not kept
    report = process.run_shift(first_unit(database), "fake")
    assert report.renders == 1 and report.ran_dry
    assert "what the shift did is not kept" in caplog.text and "permission denied" in caplog.text


@pytest.mark.parametrize(("due_in", "done"), [(0.5 * SOON_SECONDS, 0), (2 * SOON_SECONDS, 3)])
def test_what_was_put_off_is_not_begun_when_a_unit_is_due_soon(
    process: WorkerProcess, database: Database, monkeypatch: pytest.MonkeyPatch, due_in: float, done: int
) -> None:
    # Given one person to draw, and one whose next try is due in some minutes
    renderer = FakeRenderer()
    monkeypatch.setattr("worker.process.make_renderer", lambda *_: renderer)
    add_job(database, [person("ada", [1], process._settings)], key="now")
    unit = first_unit(database)
    add_job(database, [person("alan", [1], process._settings)], key="soon")
    with database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.id != unit).values(ready_at=epoch_now() + due_in))

    # When the shift has nothing left to draw / Then what was put off is done only where there is time for it
    assert process.run_shift(unit, "fake").renders == 1
    assert renderer.calls["idle"] == done
    assert process.profile_to_draw(unit) is None
