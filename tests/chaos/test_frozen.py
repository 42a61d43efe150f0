"""A worker that is frozen in a transaction, or forked in the middle of a turn, holds nobody up for good."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from fleet import until

from jobs import database as databases
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.repository import fleet
from worker.forks import Turns


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_whoever_is_silent_in_a_transaction_loses_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a reaper that was stopped between its election and its commit
    monkeypatch.setattr(databases, "SILENT_SECONDS", 0.5)
    others = threading.Event()

    def elected() -> bool:
        with database.transaction() as tx:
            won = fleet.elect(tx, "reaper", "second", seconds=10)
        others.set()
        return won

    frozen = database.transaction()
    with pytest.raises(DatabaseUnavailable), frozen as tx:
        assert fleet.elect(tx, "reaper", "first", seconds=0.01)

        # When another one stands for the office, which waits for the first one's row
        other = threading.Thread(target=elected)
        other.start()

        # Then it need not wait for good, and the first one's transaction is gone when it wakes
        assert others.wait(20)
        other.join()
        fleet.step_down(tx, "reaper", "first")


def test_a_child_forked_beside_a_thread_that_writes_can_write_too(migrated_file: Path, tmp_path: Path) -> None:
    # Given a thread of a parent in the middle of a turn, with SQLite's write lock
    url = f"sqlite:///{tmp_path / 'portraits.db'}"
    (tmp_path / "portraits.db").write_bytes(migrated_file.read_bytes())
    turns, begun, may_end = Turns(), threading.Event(), threading.Event()

    def take_turn() -> None:
        database = Database(url)
        with turns.turn():
            with database.transaction() as tx:
                fleet.elect(tx, "reaper", "parent", seconds=10)
                begun.set()
                may_end.wait(0.5)  # what the test waits for is the fork, which waits for this
            database.dispose()

    thread = threading.Thread(target=take_turn)
    thread.start()
    assert begun.wait(20)

    # When a child is forked, and writes
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with Database(url).transaction() as tx:
                fleet.elect(tx, "another office", "child", seconds=10)
            code = 0
        finally:
            os._exit(code)
    thread.join()

    # Then it does not wait for a thread that it does not have
    try:
        ended = until(lambda: os.waitpid(child, os.WNOHANG)[0], "the child's end", seconds=10)
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert ended == child
