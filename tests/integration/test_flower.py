"""Flower over a real worker: the worker is listed, and so is a shift that it finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from stacks import ROOT, STACKS, Stack, copy_photos, people_manifest
from test_telemetry import fetch, free_port

from jobs.broker import SHIFT_TASK
from jobs.intake import enqueue

PATIENCE_SECONDS = 120.0


@contextmanager
def flower(stack: Stack, app: str, port: int) -> Iterator[str]:
    """Flower as docs/telemetry.md starts it; yields its address."""
    command = [sys.executable, "-m", "celery", "-A", app, "flower", "--address=127.0.0.1", f"--port={port}"]
    own = {**os.environ, **stack.environment, "PYTHONPATH": str(ROOT), "FLOWER_UNAUTHENTICATED_API": "true"}
    with (stack.home / "flower.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=stack.home, env=own, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _asked(url: str, enough: Callable[[Any], bool], told: Callable[[], str]) -> Any:
    """The answer, as soon as it is enough."""
    pause, ends_at, found = threading.Event(), time.monotonic() + PATIENCE_SECONDS, None
    while time.monotonic() < ends_at:
        status, text = fetch(url)
        found = json.loads(text) if status == 200 and text else None
        if found is not None and enough(found):
            return found
        pause.wait(0.5)
    raise AssertionError(f"{url} answers {found}; {told()[-3000:]}")


@pytest.mark.postgres
@pytest.mark.s3
@pytest.mark.parametrize(
    ("kind", "app"),  # a worker's own application, and the one of machines without torch
    [
        pytest.param("redis", "worker.app", marks=pytest.mark.redis),
        pytest.param("rabbitmq", "jobs.app", marks=pytest.mark.rabbitmq),
    ],
)
def test_flower_lists_the_worker_and_a_finished_shift(kind: str, app: str, tmp_path: Path, s3_server: S3Server) -> None:
    # Given a worker that tells Celery's events, and Flower
    home = tmp_path / "home"
    with STACKS[kind](home, lambda: s3_server, PORTRAITS_TASK_EVENTS="true") as stack:
        copy_photos(home)
        with flower(stack, app, free_port()) as url:
            _asked(f"{url}/api/workers", lambda found: True, (home / "flower.log").read_text)
            with stack.worker():
                # When it draws a job
                enqueue(people_manifest(), base=home, settings=stack.settings)
                stack.wait(lambda found: found.finished)

                # Then Flower knows the worker by its name, and its shift as one that succeeded
                log = (home / "flower.log").read_text
                workers = _asked(f"{url}/api/workers?refresh=true&status=true", bool, log)
                assert [name.partition("@")[0] for name in workers] == ["worker"]
                tasks = _asked(
                    f"{url}/api/tasks",
                    lambda found: any(task["state"] == "SUCCESS" for task in found.values()),
                    log,
                )
                assert {task["name"] for task in tasks.values()} == {SHIFT_TASK}
