"""A device that hangs in a real worker: heartbeats go on, and yet its units are drawn and its process ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gates
import pytest
from fleet import Fleet, Nursery, is_running, until
from stacks import PHOTOS, STACKS, Stack, people_manifest

from jobs import enqueue
from jobs.models import Unit

TIMES = {
    "PORTRAITS_LEASE_SECONDS": "1",
    "PORTRAITS_REAP_SECONDS": "0.3",
    "PORTRAITS_RESEND_SECONDS": "1",
    "PORTRAITS_STALL_SECONDS": "1",
    # A machine that stands still for a second costs a lease besides.
    "PORTRAITS_MAX_ATTEMPTS": "9",
    "PORTRAITS_MAX_LOST_WORKERS": "9",
}


@pytest.fixture
def stack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    with STACKS["serverless"](tmp_path / "home", lambda: request.getfixturevalue("s3_server"), **TIMES) as opened:
        yield opened


def test_a_worker_whose_device_hangs_is_ended_and_its_pictures_are_drawn(stack: Stack, nursery: Nursery) -> None:
    # Given a worker in the middle of a batch that will never end
    manifest = people_manifest(defaults={"size": 64, "steps": 4, "seeds": 1})
    asked = enqueue(manifest, settings=stack.settings, base=PHOTOS)
    with closing(Fleet(nursery, stack.home, stack.environment)) as fleet, fleet.point("denoising") as point:
        worker = fleet.start("only", **point.environment)
        hung = point.meet()["pid"]

        # When nobody does anything
        until(lambda: gates.is_at_rest(stack), "the end of the job")

        # Then its process was ended, the one that took its place has drawn everything, and the log tells why
        assert not is_running(hung)
        assert worker.children() != [hung]
        assert "'draw' stands still" in worker.log.read_text()
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    gates.check(stack, renders=asked.renders, people=3)
    with stack.database.reading() as tx:
        lost = [row.lost_workers for row in tx.execute(Unit.__table__.select())]
    assert max(lost) >= 1, "the unit that was in the making counts a lost worker"
