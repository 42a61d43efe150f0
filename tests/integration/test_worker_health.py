"""Real workers that are stopped, stuck and killed: what `portraits health` and /healthz say; counts survive."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stacks import ROOT, Stack, copy_photos, people_manifest
from test_telemetry import fetch, free_port

from jobs.intake import enqueue

PATIENCE_SECONDS = 90.0


def _wait(until: Callable[[], Any], told: Callable[[], object]) -> Any:
    """What `until` gives, as soon as it gives something."""
    pause, ends_at = threading.Event(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends_at:
        found = until()
        if found:
            return found
        pause.wait(0.2)
    raise AssertionError(f"not in {PATIENCE_SECONDS:g} s: {told()}")


class Machine:
    """A stack with a port, and what one asks its worker."""

    def __init__(self, home: Path, **more: str) -> None:
        self.port = free_port()
        short = {"PORTRAITS_HEALTH_SECONDS": "4", "PORTRAITS_LEASE_SECONDS": "4"}
        self.stack = Stack(home, {"PORTRAITS_METRICS_PORT": str(self.port), **short, **more})
        copy_photos(home)

    def enqueue(self) -> None:
        """Twelve pictures."""
        enqueue(people_manifest(), base=self.stack.home, settings=self.stack.settings)

    def health(self) -> tuple[int, list[dict[str, Any]]]:
        """The exit code of `portraits health`, and what it found."""
        command = [sys.executable, "-c", "from worker.cli import main; main()", "health", "--json"]
        own = {**os.environ, **self.stack.environment, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=self.stack.home, env=own, capture_output=True, text=True, check=False)
        assert done.returncode in {0, 1}, done.stderr
        return done.returncode, json.loads(done.stdout)["workers"]

    def port_says(self) -> int:
        """The status of /healthz."""
        return fetch(f"http://127.0.0.1:{self.port}/healthz")[0]

    def count(self, name: str) -> float:
        """A number of a scrape; 0 where it is not there."""
        found = re.search(
            rf"^{re.escape(name)} (\S+)$", fetch(f"http://127.0.0.1:{self.port}/metrics")[1], re.MULTILINE
        )
        return float(found[1]) if found else 0.0

    def child_of(self, parent: int) -> int | None:
        """The process that draws; None before there is one."""
        kids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(kids[0]) if kids else None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_child_that_is_stuck_in_its_shift_is_seen(home: Path) -> None:
    # Given a worker that draws slowly
    machine = Machine(home, PORTRAITS_FAKE_STEP_SECONDS="3")
    assert machine.health() == (1, [])
    with machine.stack.worker() as parent:
        _wait(lambda: machine.port_says() == 200, machine.stack.log)
        machine.enqueue()
        _wait(lambda: "drawing" in machine.health()[1][0]["reason"], machine.health)
        assert machine.health()[0] == 0

        # When its child stands still in the middle of a batch, while its parent goes on
        child = machine.child_of(parent.pid)
        assert child is not None
        os.kill(child, signal.SIGSTOP)
        try:
            # Then it is called stuck, by the command and by the port
            _wait(lambda: machine.port_says() == 503, machine.health)
            code, (told,) = machine.health()
            assert code == 1 and not told["is_well"] and "at most 4 s" in told["reason"]
        finally:
            os.kill(child, signal.SIGCONT)
        # When it goes on, then it is well again
        _wait(lambda: machine.port_says() == 200, machine.health)


def test_a_parent_that_asks_no_broker_is_seen(home: Path) -> None:
    # Given an idle worker
    machine = Machine(home)
    with machine.stack.worker() as parent:
        _wait(lambda: machine.port_says() == 200, machine.stack.log)
        assert machine.health()[0] == 0

        # When its parent stands still, then the command says so; nobody answers at the port
        os.kill(parent.pid, signal.SIGSTOP)
        try:
            told = _wait(lambda: [w for w in machine.health()[1] if not w["is_well"]], machine.health)
            assert "has not asked the broker" in told[0]["reason"]
        finally:
            os.kill(parent.pid, signal.SIGCONT)
        _wait(lambda: machine.health()[0] == 0, machine.health)
    # When it has ended, then no worker runs here
    assert machine.health() == (1, [])


def test_a_killed_child_takes_no_count_with_it_and_keeps_no_port(home: Path) -> None:
    # Given a worker that has recorded pictures
    recorded = 'portraits_images_total{outcome="recorded"}'
    machine = Machine(home, PORTRAITS_FAKE_STEP_SECONDS="0.3")
    with machine.stack.worker() as parent:
        machine.enqueue()
        before = _wait(lambda: machine.count(recorded) or None, machine.stack.log)

        # When its child is killed
        child = machine.child_of(parent.pid)
        assert child is not None
        os.kill(child, signal.SIGKILL)

        # Then what it counted is still told, and its successor adds to it until all are drawn
        assert machine.count(recorded) >= before
        machine.stack.wait(lambda found: found.finished)
        _wait(lambda: machine.count("portraits_shifts_total") >= 1, machine.stack.log)
        assert machine.count(recorded) >= 12
        # And the unit that lost its worker was claimed as one that did
        assert machine.count("portraits_suspected_claims_total") >= 1
    # And the next worker has the port at once
    with machine.stack.worker("next"):
        _wait(lambda: machine.port_says() == 200, lambda: machine.stack.log("next"))
        assert "cannot be opened" not in machine.stack.log("next")


def test_a_port_that_is_taken_is_waited_for(home: Path) -> None:
    # Given somebody who has the port
    import socket

    machine = Machine(home)
    taken = socket.create_server(("127.0.0.1", machine.port))
    try:
        with machine.stack.worker():
            # When a worker starts, then it says so, and draws
            machine.enqueue()
            machine.stack.wait(lambda found: found.finished)
            assert "another process has it" in machine.stack.log()
            # And has the port when it is free
            taken.close()
            _wait(lambda: machine.port_says() == 200, machine.stack.log)
    finally:
        taken.close()
