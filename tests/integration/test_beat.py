"""Celery's beat has people erased who are kept too long, by a worker that goes on drawing."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery.schedules import crontab
from sqlalchemy import select, update
from stacks import PATIENCE_SECONDS, PHOTOS, ROOT, Stack, people_manifest

from jobs import enqueue, privacy
from jobs.models import Identity, PhotoSet, Unit
from jobs.orm import utcnow
from worker.app import app


@contextmanager
def beating(stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A real beat, ended afterwards."""
    command = [sys.executable, "-m", "celery", "-A", "ticking_beat", "beat", "-l", "INFO"]
    path = f"{ROOT}:{ROOT / 'tests' / 'integration'}"
    with (stack.home / "beat.log").open("ab") as log:
        environment = {**os.environ, **stack.environment, "PYTHONPATH": path}
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=stack.home, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_SECONDS)


def names(stack: Stack) -> set[str]:
    with stack.database.reading() as tx:
        return set(tx.execute(select(Identity.external_id)).scalars())


def test_a_beat_has_old_people_erased_and_drawing_goes_on(tmp_path: Path) -> None:
    # Given a worker that has drawn three people, who are kept for 30 days, and one of them is older
    stack = Stack(tmp_path / "home", {"PORTRAITS_RETENTION_DAYS": "30"})
    enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
    with stack.worker():
        stack.wait(lambda status: status.job["waiting"] == 0)
        old = utcnow() - dt.timedelta(days=40)
        with stack.database.transaction() as tx:
            hers = select(Identity.id).where(Identity.external_id == "ada").scalar_subquery()
            tx.execute(update(PhotoSet).where(PhotoSet.identity_id == hers).values(created_at=old))
            tx.execute(update(Unit).where(Unit.identity_id == hers).values(finished_at=old))
            tx.execute(update(Identity).where(Identity.external_id == "ada").values(created_at=old))

        # When a beat ticks
        with beating(stack):
            pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
            while "ada" in names(stack):
                assert time.monotonic() < deadline, stack.log("beat") + stack.log()
                pause.wait(0.1)

            # Then that one is erased, by the worker, which goes on drawing what comes
            assert names(stack) == {"alan", "hedy"}
            told = enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
            assert stack.wait(lambda status: status.job["waiting"] == 0).job["job_id"] == told.job_id
    (row,) = privacy.audits(settings=stack.settings)
    assert (row["action"], row["counts"]["people"]) == ("retention", 1)
    # and the beat has left no file of pickles
    assert not list(stack.home.glob("celerybeat*"))
    stack.database.dispose()


def test_the_schedule_of_the_product_is_hourly_and_expires() -> None:
    # Given the product's own schedule, then it ticks once an hour, and what no worker has taken by then is dropped
    (entry,) = app.conf.beat_schedule.values()
    assert entry["task"] == "portraits.retention" and entry["options"] == {"expires": 3600}
    assert isinstance(entry["schedule"], crontab) and len(entry["schedule"].minute) == 1
    assert app.conf.beat_scheduler == "celery.beat:Scheduler"
