"""What stands still is not kept alive: its units go to others, and its process ends."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from queue_world import World, add_job, person, settings

from jobs.database import Database
from worker.leases import Leases
from worker.renderer import Sample, Setting
from worker.testing import FakeRenderer
from worker.watchdog import PATIENCE, Watchdog, Watched

SETTING = Setting(64, 64, 3, "euler")
SAMPLES = [Sample("a portrait", "", 1, 5.0)]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_before_anything_was_measured_the_setting_is_the_limit() -> None:
    # Given a watchdog that has seen nothing
    clock = Clock()
    watchdog = Watchdog(900.0, clock=clock)
    with watchdog.stage("draw"):
        # When a stage stands still for as long as the setting allows
        clock.now += 900.0
        # Then it is not overdue, and a second later it is, in words
        assert watchdog.overdue() is None
        clock.now += 1.0
        assert watchdog.overdue() == "'draw' stands still for 901 s, at most 900 s"
    assert watchdog.overdue() is None  # it has ended


@pytest.mark.parametrize(
    ("pauses", "limit"),
    [
        ([10.0, 1.0, 1.0], 200.0),  # 20 x the longest, 10 s
        ([0.1, 0.1, 0.1], 60.0),  # 20 x 0.1 = 2 s, at least 60
        ([100.0, 1.0, 1.0], 900.0),  # 20 x 100 = 2,000 s, at most the setting
    ],
)
def test_the_limit_follows_from_the_longest_pause_between_two_steps(pauses: list[float], limit: float) -> None:
    # Given a batch that was drawn with these pauses between its steps
    clock = Clock()
    watchdog = Watchdog(900.0, clock=clock)
    waits = iter(pauses)

    def wait(_step: int) -> None:
        clock.now += next(waits)

    Watched.of(FakeRenderer(at_step=wait), watchdog).draw(SAMPLES, SETTING)
    # When the limit for the same shape is asked
    kind = (1, 64, 64, (), True, False)
    # Then it is that many times the longest of them, within its bounds; another shape is not known yet
    assert watchdog.limit("draw", kind) == limit
    assert watchdog.limit("draw", (2, 64, 64, (), True, False)) == 900.0
    assert PATIENCE * max(pauses) >= limit or limit == 60.0


def test_steps_are_signs_of_progress_however_long_a_batch_takes() -> None:
    # Given a limit of 5 s, and steps of 3 s each
    clock, seen = Clock(), []
    watchdog = Watchdog(5.0, clock=clock)

    def wait(_step: int) -> None:
        clock.now += 3.0
        seen.append(watchdog.overdue())

    # When twelve seconds are drawn
    Watched.of(FakeRenderer(at_step=wait), watchdog).draw(SAMPLES, Setting(64, 64, 4, "euler"))
    # Then nothing was ever overdue
    assert seen == [None] * 4


def test_a_stage_that_fails_teaches_nothing() -> None:
    # Given weights that fail after a long time
    clock = Clock()
    watchdog = Watchdog(900.0, clock=clock)
    with pytest.raises(RuntimeError), watchdog.stage("generate", 1):
        clock.now += 400.0
        raise RuntimeError
    # Then the limit is still the setting, and nothing is under way
    assert watchdog.limit("generate", 1) == 900.0
    clock.now += 10_000.0
    assert watchdog.overdue() is None


def test_who_waits_for_another_stage_does_not_stand_still_while_that_goes_on() -> None:
    # Given weights that wait until a batch is drawn, as the device has room for one thing at a time
    clock = Clock()
    watchdog = Watchdog(5.0, clock=clock)
    with watchdog.stage("generate", 1), watchdog.stage("draw", 1) as tell:
        # When the batch goes on for much longer than weights may stand still
        for _ in range(10):
            clock.now += 4.0
            assert watchdog.overdue() is None
            tell()
        # Then only what comes after its last step counts
        clock.now += 5.0
        assert watchdog.overdue() is None
        clock.now += 1.0
        assert watchdog.overdue() is not None


def test_everything_of_the_renderer_that_takes_long_is_watched() -> None:
    # Given a renderer whose looks and weights ask what is under way
    clock, seen = Clock(), []
    watchdog = Watchdog(1.0, clock=clock)

    def hang(*_: object) -> None:
        clock.now += 2.0
        seen.append(str(watchdog.overdue()).split()[0])

    renderer = Watched.of(FakeRenderer(faces_in=lambda image: hang() or (), unsafe=hang, refuse=hang), watchdog)
    image = renderer.draw(SAMPLES, SETTING).images[0]
    # When each is asked for
    renderer.faces(image)
    renderer.refusal(image)
    renderer.generate("photos", [])
    renderer.generate_many([])
    # Then each was a stage of its own; what is quick passes through
    assert seen == ["'faces'", "'refusal'", "'generate'"]
    assert renderer.profile == "fake"
    assert renderer.batch_size == 4


def test_units_of_a_hung_worker_are_drawn_by_another_and_its_own_pictures_do_not_count(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a worker whose first denoising step never ends by itself
    short = settings(tmp_path, database_url, lease_seconds=0.6)
    hung, go_on, given_up = threading.Event(), threading.Event(), threading.Event()

    def hang(step: int) -> None:
        hung.set()
        assert go_on.wait(60)

    watchdog = Watchdog(0.2)
    stuck = World(database, short, Watched.of(FakeRenderer(at_step=hang), watchdog), "stuck")  # type: ignore[arg-type]
    stuck.overdue, stuck.give_up = watchdog.overdue, given_up.set
    job_id = add_job(database, [person("ada", [3], short)])
    thread = threading.Thread(target=stuck.shift)
    thread.start()
    try:
        assert hung.wait(60)
        # When it has been given up, and another worker comes
        assert given_up.wait(60), "nobody noticed"
        other = World(database, short, FakeRenderer(), "other")
        other.shift()
        # Then the other has drawn everything
        assert other.job(job_id)["done"] == 3
    finally:
        go_on.set()
        thread.join(60)
    # And what the hung one finishes after all changes nothing
    assert {row["worker"] for row in stuck.renders(job_id)} == {"other"}
    assert len(stuck.pictures()) == 3
    assert other.job(job_id)["done"] == 3


def test_leases_are_prolonged_again_when_work_goes_on_in_time(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given leases of a worker that stands still for less than a lease's life
    overdue, beaten, given_up = ["it stands still"], threading.Event(), threading.Event()
    asked = threading.Event()

    def ask() -> str | None:
        asked.set()
        return overdue[0] if overdue else None

    leases = Leases(
        database, "w", lease_seconds=30.0, also=(lambda tx: beaten.set(),), overdue=ask, give_up=given_up.set
    )
    leases._lease_seconds = 1.2
    with leases:
        assert asked.wait(30)
        assert not beaten.is_set()
        # When it goes on
        overdue.clear()
        # Then heartbeats go on too, and nobody was given up
        assert beaten.wait(30)
    assert not given_up.is_set()
