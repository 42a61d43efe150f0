"""Six workers, and everything around them fails: no picture is lost, none is recorded twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fleet import Nursery
from matrix import SEED
from run import run
from s3_server import S3Server

RENDERS = int(os.environ.get("PORTRAITS_CHAOS_RENDERS") or 200)
SECONDS = 120 + RENDERS  # the deadline: twenty times what it takes on an idle machine


@pytest.mark.redis
@pytest.mark.s3
def test_no_render_is_lost_or_doubled_whatever_fails(
    tmp_path: Path, s3_server: S3Server, nursery: Nursery, record_property: Any
) -> None:
    # Given renders, six workers, and a clock of faults
    # When they run until everything is at rest, the gates hold (see `gates.check`)
    report = run(tmp_path / "home", s3_server, nursery, renders=RENDERS, seed=SEED, seconds=SECONDS)

    # Then every kind of fault has been done that comes once
    record_property("measured", str(report))
    once = {"store 503", "store slow", "queue wiped", "database crashed"}
    assert {name: report.faults[name] for name in once} == dict.fromkeys(once, 1)
    assert report.faults.total() >= 15
