"""What does not fit is remembered across restarts, and tried again in time."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from queue_world import World, add_job, person, settings
from sqlalchemy import select

from jobs.database import Database
from jobs.models import Unit
from jobs.models_fleet import Worker
from worker.costs import FILE as CALIBRATION
from worker.lessons import FILE, FIRST_SECONDS, LONGEST_SECONDS, Lessons
from worker.plan import BatchKey, BatchSizes
from worker.process import WorkerProcess, remembered_sizes
from worker.renderer import Batch, Sample, Setting
from worker.testing import FakeRenderer
from worker.watchdog import Watched

LARGE = BatchKey(0.8, 0.0, (), -1, 1024, 1024, 20, "euler", True, 1.0, "", (), 1, 1)
WIDE = BatchKey(0.8, 0.0, (), -1, 1216, 832, 20, "euler", True, 1.0, "", (), 1, 1)
HOUR = 3600.0


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sizes_of(home: Path, clock: Clock, *, name: str = "gpu, model a", configured: int = 8) -> BatchSizes:
    """As a worker that starts now has them."""
    return BatchSizes(configured, lessons=Lessons(home, name, now=clock))


def test_a_worker_that_starts_again_knows_what_did_not_fit(tmp_path: Path, clock: Clock) -> None:
    # Given a worker that ran out of memory with eight large pictures, and with four
    sizes = sizes_of(tmp_path, clock)
    assert sizes.did_not_fit(LARGE, 8) == 4
    assert sizes.did_not_fit(LARGE, 4) == 2
    # When it starts again
    again = sizes_of(tmp_path, clock)
    # Then it begins with two of them, and with eight of any other kind
    assert again.of(LARGE) == 2
    assert again.of(WIDE) == 8


@pytest.mark.parametrize("name", ["gpu, model b", "other gpu, model a", "gpu, model a, 12 GB"])
def test_a_lesson_is_of_one_model_on_one_device_under_one_limit(tmp_path: Path, clock: Clock, name: str) -> None:
    # Given a lesson / When another model, device or limit is used / Then it does not hold there
    sizes_of(tmp_path, clock).did_not_fit(LARGE, 8)
    assert sizes_of(tmp_path, clock, name=name).of(LARGE) == 8
    # And what is learned there does not undo it
    sizes_of(tmp_path, clock, name=name).did_not_fit(LARGE, 2)
    assert sizes_of(tmp_path, clock).of(LARGE) == 4


def test_one_bad_moment_does_not_shrink_batches_for_ever(tmp_path: Path, clock: Clock) -> None:
    # Given a lesson from a moment when something else took the memory
    sizes_of(tmp_path, clock).did_not_fit(LARGE, 8)
    sizes_of(tmp_path, clock).did_not_fit(LARGE, 4)
    # When an hour has passed / Then twice as many are tried, and when they fit twice as many again
    clock.seconds += FIRST_SECONDS
    sizes = sizes_of(tmp_path, clock)
    assert sizes.of(LARGE) == 4
    sizes.did_fit(LARGE, 4)
    assert sizes.of(LARGE) == 8
    sizes.did_fit(LARGE, 8)
    # And the lesson holds nobody back any more, here and on the disk
    assert sizes.of(LARGE) == sizes_of(tmp_path, clock).of(LARGE) == 8


@pytest.mark.parametrize(("later", "hours"), [(0.0, 4), (LONGEST_SECONDS + 1, 1)])
def test_memory_that_comes_and_goes_does_not_cost_a_batch_every_hour(
    tmp_path: Path, clock: Clock, later: float, hours: int
) -> None:
    # Given a lesson after which all eight fitted again
    sizes = sizes_of(tmp_path, clock)
    sizes.did_not_fit(LARGE, 8)
    clock.seconds += FIRST_SECONDS
    sizes.did_fit(LARGE, 8)
    assert sizes.of(LARGE) == 8
    # When they do not fit once more, soon or after a quiet week
    clock.seconds += later
    sizes.did_not_fit(LARGE, 8)
    # Then the lesson holds longer than the first time, or as long
    clock.seconds += hours * HOUR - 1
    assert sizes_of(tmp_path, clock).of(LARGE) == 4
    clock.seconds += 1
    assert sizes_of(tmp_path, clock).of(LARGE) == 8


def test_what_never_fits_is_tried_ever_more_rarely(tmp_path: Path, clock: Clock) -> None:
    # Given a device on which four never fit
    sizes = sizes_of(tmp_path, clock, configured=4)
    waited = []
    for _ in range(7):
        began = clock.seconds
        sizes.did_not_fit(LARGE, 4)
        # When time passes / Then two are drawn until it is time to try four again
        while sizes.of(LARGE) == 2:
            clock.seconds += HOUR
        waited.append((clock.seconds - began) / HOUR)
        assert sizes.of(LARGE) == 4
    # And that takes four times as long each time, up to a week
    assert waited == [1, 4, 16, 64, 168, 168, 168]
    assert LONGEST_SECONDS == 168 * HOUR


def test_batches_that_say_nothing_new_change_nothing(tmp_path: Path, clock: Clock) -> None:
    # Given a lesson / When smaller batches fit, before and after it is time to try more
    sizes = sizes_of(tmp_path, clock)
    sizes.did_not_fit(LARGE, 8)
    told = (tmp_path / FILE).read_text()
    sizes.did_fit(LARGE, 4)
    clock.seconds += FIRST_SECONDS
    sizes.did_fit(LARGE, 3)
    sizes.did_fit(WIDE, 8)
    # Then it stands as it was
    assert (tmp_path / FILE).read_text() == told


def test_a_lesson_never_asks_for_more_than_is_expected_to_fit(tmp_path: Path, clock: Clock) -> None:
    # Given a lesson of four, and a plan that now expects three
    sizes_of(tmp_path, clock).did_not_fit(LARGE, 8)
    sizes = BatchSizes(8, expected=lambda key: 3, lessons=Lessons(tmp_path, "gpu, model a", now=clock))
    # When it is asked / Then the smaller number holds, whatever time it is
    assert sizes.of(LARGE) == 3
    clock.seconds += FIRST_SECONDS
    assert sizes.of(LARGE) == 3


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        '{"gpu, model a": 3}',
        '{"gpu, model a": {"large": {"size": 0, "until": 1, "times": 1}}}',
        '{"gpu, model a": {"large": {"size": 2, "until": "soon", "times": 1}}}',
        '{"gpu, model a": {"large": {"size": 2, "until": Infinity, "times": 1}}}',
        '{"gpu, model a": {"large": {"fits": 2}}}',
        '{"gpu, model a": {"large": 2}}',
    ],
)
def test_a_damaged_file_costs_its_lessons_and_nothing_else(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    # Given a file that holds no lessons
    (tmp_path / FILE).write_text(content)
    # When a worker starts / Then it says so, names the file, and begins as one that knows nothing
    sizes = sizes_of(tmp_path, clock)
    assert sizes.of(LARGE) == 8
    assert FILE in caplog.text and "workers learn again" in caplog.text
    # And what it learns is kept: the next one knows it, and has nothing to say of this
    assert sizes.did_not_fit(LARGE, 8) == 4
    assert sizes_of(tmp_path, clock).of(LARGE) == 4


def test_what_a_later_version_keeps_beside_a_lesson_is_passed_over(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a file of a later version
    sizes_of(tmp_path, clock).did_not_fit(LARGE, 8)
    known = json.loads((tmp_path / FILE).read_text())
    known = {name: {kind: {**told, "kernel": "v2"} for kind, told in own.items()} for name, own in known.items()}
    (tmp_path / FILE).write_text(json.dumps({**known, "format": 2}))
    # When this version starts, and learns of another kind / Then it knows what it understands, and leaves the rest
    sizes = sizes_of(tmp_path, clock)
    assert sizes.of(LARGE) == 4 and not caplog.text
    sizes.did_not_fit(WIDE, 8)
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["format"] == 2 and len(kept["gpu, model a"]) == 2


def test_a_file_is_whole_at_every_moment_and_leaves_nothing_beside_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a lesson, and a disk that is full when the next one is written
    sizes = sizes_of(tmp_path, clock)
    sizes.did_not_fit(LARGE, 8)
    order: list[str] = []

    def full(_number: int) -> None:
        order.append("fsync")
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("worker.advice.os.fsync", full)
        sizes.did_not_fit(WIDE, 8)
    # Then the file holds the first, and nothing else lies there
    assert order == ["fsync"] and sizes_of(tmp_path, clock).of(LARGE) == 4
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_lesson_that_cannot_be_kept_costs_no_picture(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a home that became a file
    home = tmp_path / "home"
    sizes = sizes_of(home, clock)
    home.write_text("")
    # When a batch does not fit
    with caplog.at_level(logging.WARNING):
        assert sizes.did_not_fit(LARGE, 8) == 4
    # Then the process knows, and the log tells that the next one will not
    assert sizes.of(LARGE) == 4
    assert "not kept for the next start" in caplog.text


def test_the_next_worker_draws_what_fits_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a device that fits two pictures, and a worker that begins with eight
    tried: list[int] = []
    original = FakeRenderer.draw

    def draw(self: FakeRenderer, samples: Sequence[Sample], setting: Setting, **others: Any) -> Batch:
        tried.append(len(samples))
        return original(self, samples, setting, **others)

    monkeypatch.setattr(FakeRenderer, "draw", draw)
    world.renderer._fits, world.renderer.batch_size = 2, 8
    world.sizes = remembered_sizes(world.renderer, world.settings)
    add_job(world.database, [person("ada", [7], world.settings)], key="first")
    world.shift()
    assert tried == [7, 4, 2, 2, 2, 1]
    # When the next worker starts, and draws four more
    tried.clear()
    world.sizes = remembered_sizes(world.renderer, world.settings)
    add_job(world.database, [person("ada", [4], world.settings)], key="second")
    world.shift()
    # Then it begins with two, without running out of memory again
    assert tried == [2, 2]


def test_after_a_while_the_worker_tries_more_and_keeps_to_it(world: World, clock: Clock) -> None:
    # Given lessons of an hour ago, on a device that has its memory back
    home = world.settings.home
    kind = BatchKey(0.8, 0.0, (), -1, 16, 16, 2, "euler", True, 1.0, "", (), 1, 1)
    sizes_of(home, clock, configured=4).did_not_fit(kind, 4)
    world.sizes = sizes_of(home, clock, configured=4)
    add_job(world.database, [person("ada", [4], world.settings)], key="first")
    world.shift()
    before = list(world.renderer.batch_sizes)
    clock.seconds += FIRST_SECONDS
    # When the next pictures are drawn
    add_job(world.database, [person("ada", [4], world.settings)], key="second")
    world.shift()
    # Then all four are drawn at once
    assert (before, world.renderer.batch_sizes[len(before) :]) == ([2, 2], [4])
    assert sizes_of(home, clock, configured=4).of(kind) == 4


@pytest.mark.parametrize("file", [FILE, CALIBRATION])
def test_a_worker_with_damaged_advice_is_ready_all_the_same(
    database: Database, database_url: str, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a worker with a damaged file in its home
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[profiles.fake]\nrenderer = "fake"\n')
    (tmp_path / file).write_text("{")
    process = WorkerProcess(settings(tmp_path, database_url, profiles_file=profiles))
    # When it loads its profile / Then it is ready, and its log names the file
    process.load("fake")
    with database.reading() as tx:
        assert tx.execute(select(Worker.state)).scalar_one() == "idle"
    assert file in caplog.text
    process.close()


def test_a_worker_process_keeps_its_lessons_at_home(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a worker process under a limit of memory, whose device fits one picture
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[profiles.fake]\nrenderer = "fake"\nbatch_size = 2\n')
    world = settings(tmp_path, database_url, profiles_file=profiles, vram_gb=12)
    add_job(database, [person("ada", [2], world)])
    process = WorkerProcess(world)
    watched = process.load("fake")
    assert isinstance(watched, Watched)
    renderer = watched._renderer
    assert isinstance(renderer, FakeRenderer)
    renderer._fits = 1
    with database.reading() as tx:
        unit = tx.execute(select(Unit.id)).scalar_one()
    # When it draws two
    assert process.run_shift(unit, "fake").renders == 2
    process.close()
    # Then the lesson is kept, under the device's, the model's and the limit's name
    (name,) = json.loads((tmp_path / FILE).read_text())
    assert name == f"fake, model {FakeRenderer.model_fingerprint}, 12 GB"
