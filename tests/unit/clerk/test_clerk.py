"""The clerk: no errand holds up another, and none of them its end; the process comes and goes with whoever minds it."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from queue_world import settings
from sqlalchemy import select

from jobs.clerk import ClerkChild, minded
from jobs.clerk.child import command
from jobs.clerk.errands import Errand, IsOver
from jobs.clerk.process import OFFICE, Clerk, once
from jobs.clerk.seat import FILE, Seat
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.models_fleet import Leader

ROOT = Path(__file__).resolve().parents[3]
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def until(is_so: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for something that another process does."""
    pause, ends_at = threading.Event(), time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_at, f"not in {seconds:g} s: {what}"
        pause.wait(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Counting:
    """An errand that counts its turns, and does in each what it is told."""

    def __init__(self, turn: Callable[[int, IsOver], int] = lambda _n, _over: 0) -> None:
        self.turns, self._turn, self._changed = 0, turn, threading.Condition()

    def __call__(self, is_over: IsOver) -> int:
        with self._changed:
            self.turns += 1
            self._changed.notify_all()
        return self._turn(self.turns, is_over)

    def wait(self, turns: int) -> None:
        """Until it had so many turns."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.turns >= turns, timeout=30), f"only {self.turns} turns"


@only_sqlite
def test_a_fault_or_a_long_turn_of_one_errand_holds_up_no_other(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an errand whose database is away, one with a fault of ours, one that takes for ever, and a good one
    def away(_n: int, _over: IsOver) -> int:
        raise DatabaseUnavailable("it does not answer")

    def broken(_n: int, _over: IsOver) -> int:
        raise ZeroDivisionError("ours")

    def long(_n: int, is_over: IsOver) -> int:
        until(is_over, "the end")
        return 0

    errands = {"away": Counting(away), "broken": Counting(broken), "long": Counting(long), "good": Counting()}
    clerk = Clerk(database, [Errand(name, one, seconds=0.01) for name, one in errands.items()], "clerk-1")
    # When the clerk goes about them
    with caplog.at_level(logging.WARNING):
        clerk.start()
        for name, turns in {"good": 20, "away": 3, "broken": 3, "long": 1}.items():
            errands[name].wait(turns)
        clerk.stop()
    # Then each goes on by itself, and the faults are told, the unforeseen one with its place
    assert errands["long"].turns == 1
    assert "clerk, away: tried again in" in caplog.text and "it does not answer" in caplog.text
    assert "ZeroDivisionError: ours" in caplog.text


@only_sqlite
def test_a_fault_is_tried_again_later_each_time(database: Database) -> None:
    # Given an errand that fails six times and then does not
    moments: list[float] = []

    def turn(n: int, _over: IsOver) -> int:
        moments.append(time.monotonic())
        if n <= 6:
            raise DatabaseUnavailable("away")
        return 0

    counting = Counting(turn)
    clerk = Clerk(database, [Errand("one", counting, seconds=0.01)], "clerk-1")
    clerk.start()
    counting.wait(9)
    clerk.stop()
    # Then the waits doubled, and were short again afterwards
    waits = [after - before for before, after in itertools.pairwise(moments)]
    for wait, least in zip(waits, [0.02, 0.04, 0.08, 0.16, 0.32, 0.64], strict=False):
        assert wait >= least
    assert waits[7] < 0.64


@only_sqlite
def test_what_makes_work_for_another_errand_wakes_it(database: Database) -> None:
    # Given an errand that looks once an hour, and one that does something in its third turn
    sleeper = Counting()
    maker = Counting(lambda n, _over: int(n == 3))
    run = [Errand("maker", maker, seconds=0.01, wakes=("sleeper",)), Errand("sleeper", sleeper, seconds=3600.0)]
    clerk = Clerk(database, run, "clerk-1")
    # When something was done, then the other one looks at once
    clerk.start()
    sleeper.wait(2)
    clerk.stop()
    assert sleeper.turns == 2


@only_sqlite
def test_an_errand_that_does_not_listen_does_not_keep_the_clerk_from_its_end(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an errand in the middle of an exchange that nothing interrupts
    release = threading.Event()

    def deaf(_n: int, _over: IsOver) -> int:
        release.wait(60)
        return 0

    counting = Counting(deaf)
    clerk = Clerk(database, [Errand("deaf", counting)], "clerk-1")
    clerk.start()
    counting.wait(1)
    # When the clerk is told to end, then it is over in seconds, and says what it did not wait for
    began = time.monotonic()
    clerk.stop()
    assert time.monotonic() - began < 10
    assert "not waited for: clerk deaf" in caplog.text
    release.set()


def test_a_clerk_shows_that_it_lives_and_that_it_has_ended(database: Database) -> None:
    # Given a clerk
    clerk = Clerk(database, [], "clerk-1")
    clerk.start()
    until(lambda: _office(database) == "clerk-1", "the office is taken")
    # When it ends, then the office is free
    clerk.stop()
    assert _office(database) is None


def _office(database: Database) -> str | None:
    with database.reading() as tx:
        return tx.execute(select(Leader.owner).where(Leader.name == OFFICE)).scalar_one_or_none()


def test_one_turn_of_everything_tells_what_was_done(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given an installation in which nothing is due, then every errand has its turn without a fault
    outcomes = once(settings(tmp_path, database_url))
    assert [outcome.errand for outcome in outcomes] == ["ends", "galleries", "webhooks", "retention", "deliveries"]
    assert [(outcome.done, outcome.fault) for outcome in outcomes] == [(0, "")] * 5


@pytest.fixture
def environment(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What a clerk's process is configured by."""
    monkeypatch.setenv("PORTRAITS_DATABASE_URL", database_url)
    monkeypatch.setenv("PORTRAITS_HOME", str(tmp_path))
    monkeypatch.delenv("PORTRAITS_CLERK", raising=False)
    yield


@pytest.mark.usefixtures("environment")
def test_a_minded_clerk_is_started_again_and_ends_with_the_block(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a clerk that is minded
    with minded(settings(tmp_path, database_url)) as child:
        until(lambda: _office(database) is not None, "a clerk has begun")
        first = child.pid
        assert first is not None and lives(first)
        # When it is killed, then another one begins
        os.kill(first, signal.SIGKILL)
        until(lambda: child.pid not in (None, first), "another one has begun")
        second = child.pid
        until(lambda: Seat(tmp_path).is_taken(), "it sits")
    # And when the block ends, so does it
    assert second is not None and not lives(second)
    assert not Seat(tmp_path).is_taken()


@only_sqlite
@pytest.mark.usefixtures("environment")
def test_of_two_who_mind_a_clerk_of_one_home_one_starts_it(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two workers of one home
    monkeypatch.setattr("jobs.clerk.child.SEAT_SECONDS", 0.1)
    first, second = (ClerkChild(settings(tmp_path, database_url)) for _ in range(2))
    first.start()
    until(lambda: Seat(tmp_path).is_taken(), "the first one's sits")
    second.start()
    # When the first one's clerk ends with it, then the second one's begins, and not before
    until(lambda: _office(database) is not None, "it works")
    assert first.pid is not None and second.pid is None
    first.stop()
    until(lambda: second.pid is not None, "the second one's has begun")
    second.stop()


@only_sqlite
@pytest.mark.usefixtures("environment")
def test_a_clerk_ends_when_whoever_minds_it_is_killed(database: Database, tmp_path: Path) -> None:
    # Given a process that minds a clerk, and has forked a child, which holds the pipe open
    code = (
        "import os, sys, time\n"
        "from jobs.clerk import ClerkChild\n"
        "from jobs.settings import get_settings\n"
        "child = ClerkChild(get_settings()); child.start()\n"
        "while child.pid is None: time.sleep(0.01)\n"
        "heir = os.fork()\n"
        "if heir == 0: time.sleep(60); os._exit(0)\n"
        "print(child.pid, heir, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    clerk, heir = (int(text) for text in process.stdout.readline().split())
    try:
        until(lambda: Seat(tmp_path).is_taken(), "the clerk sits")
        # When it is killed, then its clerk ends, although the heir lives
        process.kill()
        process.wait()
        until(lambda: not lives(clerk), "the clerk has ended", seconds=20)
        assert lives(heir)
    finally:
        os.kill(heir, signal.SIGKILL)
        process.stdout.close()


@only_sqlite
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clerk_of_its_own_ends_by_a_signal_in_seconds(database: Database, number: signal.Signals) -> None:
    # Given `portraits clerk`
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "clerk"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"a clerk has begun" in process.stderr.readline()
    # When it is told to end, then it does, with success
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == 0
    assert time.monotonic() - began < 10
    assert _office(database) is None
    process.stderr.close()


@only_sqlite
def test_no_clerk_is_started_where_the_setting_says_so(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a setting that says off, and a command that would be seen
    seen = tmp_path / "seen"
    chosen = settings(tmp_path, database_url, clerk="off")
    child = ClerkChild(chosen, argv=["touch", str(seen)])
    # When it is minded, then nothing is started
    child.start()
    child.stop()
    assert not seen.exists() and child.pid is None and command()[0] == sys.executable


def test_a_home_that_cannot_be_written_lets_everybody_sit(tmp_path: Path) -> None:
    # Given a home that is a file, then each clerk may begin
    home = tmp_path / "home"
    home.write_text("")
    assert Seat(home).take() and Seat(home).take()
    # And given one that can be, then one at a time
    seat = Seat(tmp_path)
    assert seat.take() and not Seat(tmp_path).take() and (tmp_path / FILE).exists()
    seat.leave()
    assert Seat(tmp_path).take()


def test_a_file_system_without_locks_lets_everybody_sit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a home on a file system that knows no locks, as some network volumes
    def refuse(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("jobs.clerk.seat.fcntl.flock", refuse)
    # Then each clerk may begin, rather than none for ever
    assert not Seat(tmp_path).is_taken() and Seat(tmp_path).take() and Seat(tmp_path).take()
