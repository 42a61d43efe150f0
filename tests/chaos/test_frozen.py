"""A worker that is frozen in the middle of a transaction, or forked in the middle of a turn, holds nobody up for good."""

from __future__ import annotations

import threading

import pytest

from jobs import database as databases
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.repository import fleet


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
