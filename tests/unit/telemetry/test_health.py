"""Health: what a worker that works, loads, hangs or is gone looks like from outside."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings
from worker.telemetry.health import Pulse
from worker.telemetry.runtime import RunFolder
from worker.telemetry.vitals import LOADING_SECONDS, POLL, SHIFT, look, workers


class Clock:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.make(tmp_path)


def _settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, health_seconds=60, lease_seconds=120)


def _is_well(folder: RunFolder, tmp_path: Path, clock: Clock) -> bool:
    return look(folder, _settings(tmp_path), clock.now).is_well


def test_an_idle_worker_is_well_as_long_as_it_asks_the_broker(folder: RunFolder, tmp_path: Path, clock: Clock) -> None:
    # Given a worker that has not asked yet
    pulse = Pulse(folder, clock)
    assert not _is_well(folder, tmp_path, clock)

    # When it asks, then it is well for a minute
    pulse.polled()
    clock.now += 60
    assert _is_well(folder, tmp_path, clock)
    clock.now += 1
    told = look(folder, _settings(tmp_path), clock.now)
    assert not told.is_well and told.reason == "it has not asked the broker for 61 s"


def test_a_worker_in_a_shift_must_go_on_with_it(folder: RunFolder, tmp_path: Path, clock: Clock) -> None:
    # Given a worker whose parent asks the broker all the time, in a shift
    pulse = Pulse(folder, clock)
    pulse.shift_began("fake")

    # When its child prolongs its leases, it is well; when it has not for longer than a lease's life, it is stuck
    for seconds, is_well in ((119, True), (2, False)):
        clock.now += seconds
        pulse.polled()
        assert _is_well(folder, tmp_path, clock) is is_well
    pulse.alive()
    assert _is_well(folder, tmp_path, clock)


def test_a_shift_that_ended_is_waited_for_no_more(folder: RunFolder, tmp_path: Path, clock: Clock) -> None:
    pulse = Pulse(folder, clock)
    pulse.shift_began("fake")
    pulse.shift_ended(None)
    clock.now += 10_000
    pulse.polled()
    assert _is_well(folder, tmp_path, clock)


def test_loading_a_profile_may_take_long_but_not_for_ever(folder: RunFolder, tmp_path: Path, clock: Clock) -> None:
    pulse = Pulse(folder, clock)
    pulse.loading("realvis")
    for seconds, is_well in ((LOADING_SECONDS, True), (2, False)):
        clock.now += seconds
        pulse.polled()
        assert _is_well(folder, tmp_path, clock) is is_well


def test_what_the_watchdog_saw_is_told_at_once(folder: RunFolder, tmp_path: Path, clock: Clock) -> None:
    pulse = Pulse(folder, clock)
    pulse.polled()
    pulse.shift_began("fake")
    pulse.stands_still("'draw' stands still for 90 s, at most 60 s")
    told = look(folder, _settings(tmp_path), clock.now)
    assert not told.is_well and "'draw' stands still" in told.reason


def test_a_child_that_was_killed_holds_nobody_up(folder: RunFolder, tmp_path: Path, clock: Clock) -> None:
    # Given a shift of a process that is gone, and a parent that asks
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pulse = Pulse(folder, clock)
    pulse.polled()
    folder.write(SHIFT, f'{{"at": {clock.now - 5000}, "doing": "drawing", "pid": {gone.pid}}}')

    # Then the parent alone counts
    assert _is_well(folder, tmp_path, clock)


def test_signs_are_written_at_most_once_a_second(folder: RunFolder, clock: Clock) -> None:
    # Given a worker that goes on
    pulse = Pulse(folder, clock)
    pulse.shift_began("fake")
    pulse.polled()
    before = (folder.read(SHIFT), folder.read(POLL))

    # When it goes on within the second, then nothing is written; later it is
    clock.now += 0.5
    pulse.alive()
    pulse.polled()
    assert (folder.read(SHIFT), folder.read(POLL)) == before
    clock.now += 0.6
    pulse.alive()
    pulse.polled()
    assert folder.read(SHIFT) != before[0] and folder.read(POLL) != before[1]


def test_a_disk_that_takes_nothing_is_told_once_and_stops_nobody(
    folder: RunFolder, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write", refuse)
    pulse = Pulse(folder, clock)
    pulse.polled()
    pulse.shift_began("fake")
    assert caplog.text.count("No space left on device") == 1


def test_a_folder_is_private_and_alive_as_long_as_its_process(tmp_path: Path) -> None:
    # Given another process that has a folder here
    code = (
        "import sys, pathlib; from worker.telemetry.runtime import RunFolder; "
        "folder = RunFolder.make(pathlib.Path(sys.argv[1])); print(folder.path, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        path = Path(other.stdout.readline().strip())
        assert stat.S_IMODE(path.stat().st_mode) == 0o700

        # When a worker begins beside it, then the other's folder stays, and both run here
        mine = RunFolder.make(tmp_path)
        assert {folder.path for folder in RunFolder.running_here(tmp_path)} == {path, mine.path}
        other.kill()

    # When the other was killed, then it does not run any more, and the next worker removes what it left
    assert [folder.path for folder in RunFolder.running_here(tmp_path)] == [mine.path]
    assert path.exists()
    third = RunFolder.make(tmp_path)
    assert not path.exists() and mine.path.exists()
    for folder in (mine, third):
        folder.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_worker_of_another_machine_is_not_judged_here(tmp_path: Path) -> None:
    # Given a home on a volume that another machine's worker shares
    folder = RunFolder.make(tmp_path)
    folder.path.rename(folder.path.with_name(f"another-host-{os.getpid()}-00000000"))

    # Then nobody runs here
    assert workers(_settings(tmp_path)) == []


def test_asking_loads_no_database_and_no_model(tmp_path: Path) -> None:
    # Given a health check, which containers run every few seconds
    code = (
        "import sys; from worker.telemetry.vitals import workers; from jobs.settings import Settings; "
        "assert workers(Settings()) == []; "
        "print([m for m in ('sqlalchemy', 'celery', 'torch', 'numpy', 'prometheus_client') if m in sys.modules])"
    )
    own = {**os.environ, "PORTRAITS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workers_that_begin_together_leave_each_other_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose folder lies there, but is not locked yet, when another one begins and clears up
    real, others = fcntl.flock, list[RunFolder]()

    def flock(file: int, how: int) -> None:
        if not others and how == fcntl.LOCK_EX:
            monkeypatch.setattr(fcntl, "flock", real)
            others.append(RunFolder.make(tmp_path))
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    own = RunFolder.make(tmp_path)

    # Then each has one that is its own and can be written, and that a third one leaves alone
    RunFolder.make(tmp_path).close()
    for one in (own, *others):
        one.write("poll", "now")
        assert one.is_alive() and one.read("poll") == "now"
    assert len(list(RunFolder.all(tmp_path))) == len(others) + 1 == 2
