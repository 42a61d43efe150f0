"""A worker's memory of people who were erased: dropped beside a drawing as far as may be, the rest when it rests."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, add_job, person, settings
from sqlalchemy import select

from jobs import privacy
from jobs.database import Database
from jobs.models import Unit
from jobs.models_fleet import Worker
from jobs.models_outside import Forgetting
from jobs.profiles import find_profile
from jobs.repository import forgettings
from jobs.settings import Settings
from worker import process
from worker.process import WorkerProcess
from worker.renderer import Sample, Setting
from worker.sdxl import SdxlRenderer
from worker.testing import FakeRenderer

PROFILES = '[profiles.fake]\nrenderer = "fake"\nbatch_size = 2\n'


class Telling(FakeRenderer):
    """Says when it was made to forget, and at which step of which drawing it is."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.forgot = threading.Event()

    def forget(self) -> None:
        super().forget()
        self.forgot.set()


@pytest.fixture
def worker(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerProcess]:
    """A process whose looks are frequent."""
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(PROFILES)
    chosen = settings(tmp_path, database_url, tenant=TENANT, profiles_file=profiles, lease_seconds=6.0)
    monkeypatch.setattr(process, "make_renderer", lambda profile, _: Telling(profile.name, batch_size=2))
    made = WorkerProcess(chosen)
    yield made
    made.close()


def first_unit(database: Database) -> uuid.UUID:
    with database.reading() as tx:
        return tx.execute(select(Unit.id).where(Unit.state == "ready").order_by(Unit.id).limit(1)).scalar_one()


def held(worker: WorkerProcess) -> int:
    assert worker._weight_sets is not None
    return len(worker._weight_sets._memory)


def test_between_two_shifts_a_thread_drops_it_and_says_so(database: Database, worker: WorkerProcess) -> None:
    # Given a process that has drawn two people and rests
    add_job(database, [person(name, [1], worker._settings) for name in ("ada", "bob")])
    worker.run_shift(first_unit(database), "fake")
    renderer = worker._renderer
    assert renderer is not None and held(worker) == 2 and renderer.drawn  # type: ignore[attr-defined]

    # When one of them is forgotten, and nothing else happens
    privacy.forget("ada", settings=worker._settings)
    assert renderer.forgot.wait(30)  # type: ignore[attr-defined]

    # Then her set is gone, his is there, prompts and what was merged are gone, and the row says so
    pause = threading.Event()
    for _ in range(300):
        with database.reading() as tx:
            at = tx.execute(select(Forgetting.at)).scalar_one()
            until = tx.execute(select(Worker.forgot_until)).scalar_one()
        if until == at:
            break
        pause.wait(0.05)
    assert until == at and held(worker) == 1
    assert renderer.drawn == renderer.merged == []  # type: ignore[attr-defined]


def test_beside_a_drawing_the_set_goes_at_once_and_the_row_waits_for_the_end(
    database: Database, worker: WorkerProcess
) -> None:
    # Given a process in the middle of a drawing of somebody, which has drawn somebody else before
    add_job(database, [person("ada", [1], worker._settings)], key="first")
    worker.run_shift(first_unit(database), "fake")
    add_job(database, [person("bob", [1], worker._settings)], key="second")
    drawing, go_on = threading.Event(), threading.Event()

    def at_step(_step: int) -> None:
        drawing.set()
        go_on.wait(60)

    worker._renderer._renderer._at_step = at_step  # type: ignore[union-attr]
    thread = threading.Thread(target=worker.run_shift, args=(first_unit(database), "fake"))
    thread.start()
    assert drawing.wait(30)

    try:
        assert held(worker) == 2

        # When the one from before is forgotten, then her set goes while the other one is drawn
        privacy.forget("ada", settings=worker._settings)
        pause = threading.Event()
        for _ in range(600):
            if held(worker) == 1:
                break
            pause.wait(0.05)
        assert held(worker) == 1

        # And the row says so only when nothing is merged any more
        with database.reading() as tx:
            at = tx.execute(select(Forgetting.at)).scalar_one()
            assert (tx.execute(select(Worker.forgot_until)).scalar_one() or 0.0) < at
    finally:
        go_on.set()
        thread.join(60)
    with database.reading() as tx:
        assert tx.execute(select(Worker.forgot_until)).scalar_one() == at
        assert set(tx.execute(select(Unit.state)).scalars()) == {"done"}


def test_a_device_that_takes_its_time_to_rest_keeps_nobody_from_the_database(
    database: Database, worker: WorkerProcess
) -> None:
    # Given a process that rests, and drops what is merged while others write
    add_job(database, [person("ada", [1], worker._settings)])
    worker.run_shift(first_unit(database), "fake")
    written = threading.Event()

    def rest() -> None:
        if not written.is_set():
            with database.transaction() as tx:
                forgettings.add(tx, TENANT, weight_sets=["b" * 64])
        written.set()

    worker.rest = rest  # type: ignore[method-assign]

    # When somebody is forgotten, then the device's work is no part of a transaction
    privacy.forget("ada", settings=worker._settings)
    worker._confirm_forgetting()
    assert written.wait(30)


def test_a_process_that_cannot_rest_is_ended(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that dropping hangs in a driver, as it holds what a shift waits for
    ended: list[str] = []

    def end() -> None:
        ended.append("ended")
        worker._at_work.release()

    monkeypatch.setattr(process, "end_this_process", end)
    worker._settings = worker._settings.model_copy(update={"stall_seconds": 0.05})
    assert worker._at_work.acquire(blocking=False)

    # When a shift is to begin, then the process is given up
    with worker._alone():
        worker._at_work.acquire(blocking=False)
    assert ended == ["ended"]


def test_the_real_renderer_forgets_its_prompts_and_brings_the_pristine_weights_back(tmp_path: Path) -> None:
    # Given the built-in model with somebody merged, and a prompt that it has encoded
    chosen = Settings(home=tmp_path, device="cpu")
    renderer = SdxlRenderer.load_profile(find_profile(chosen, "mini"), chosen)
    asked, setting = [Sample("portrait of ada-quill", "", 1, 3.0)], Setting(64, 64, 2, "euler")
    renderer.apply([(renderer.stand_ins(1)[0], 0.8)])
    merged = renderer.draw(asked, setting).images[0]
    assert renderer._pipeline.prompts._cache and not renderer._pipeline.merger.is_pristine

    # When it is made to forget, then neither is there, and it draws as if nobody had been merged
    renderer.forget()
    assert not renderer._pipeline.prompts._cache and renderer._pipeline.merger.is_pristine
    assert renderer.draw(asked, setting).images[0].tobytes() != merged.tobytes()
