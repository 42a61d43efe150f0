"""What one worker drew while the store was away is recorded by the next one of the same home, a real process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select, text
from stacks import PHOTOS, Stack, people_manifest

from jobs import enqueue
from jobs.errors import StorageUnavailable
from jobs.models import Unit
from worker.process import WorkerProcess
from worker.spool import Spool


def test_the_next_worker_of_this_home_records_what_the_last_one_drew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose store takes no picture, which puts aside what it has drawn until its shift is over
    times = {"PORTRAITS_SHIFT_SECONDS": "2", "PORTRAITS_STORAGE_WAIT_SECONDS": "0.05"}
    stack = Stack(tmp_path / "home", times)
    enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
    first = WorkerProcess(stack.settings)
    _take_no_pictures(first, monkeypatch)
    with stack.database.reading() as tx:
        unit = tx.execute(select(Unit.id).order_by(Unit.sort_key, Unit.id).limit(1)).scalar_one()
    first.run_shift(unit, "fake")
    spool = Spool.from_settings(stack.settings)
    put_aside = len(spool.names())
    assert put_aside >= 4

    # When that worker is no more, and another one starts, with a store that answers
    with stack.worker():
        found = stack.wait(lambda status: status.job["waiting"] == 0)

    # Then every picture is there, those that were put aside as the first one drew them
    assert (found.job["state"], found.job["done"]) == ("done", 12)
    with stack.database.reading() as tx:
        drawn_by = Counter(tx.execute(text("SELECT worker FROM renders")).scalars())
    assert drawn_by[first.name] == put_aside and drawn_by.total() == 12
    assert spool.names() == []
    assert "that were put aside are recorded" in stack.log()
    stack.database.dispose()


def _take_no_pictures(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    put = process._storage.put

    def refusing(key: str, data: bytes, *, content_type: str, if_absent: bool = False) -> None:
        if content_type.startswith("image/") or key.startswith("check/"):
            raise StorageUnavailable("503 from the store")
        put(key, data, content_type=content_type, if_absent=if_absent)

    monkeypatch.setattr(process._storage, "put", refusing)
