"""Starts workers in a fraction of a second: a process that has imported what they need, and forks.

It imports nothing that reads settings, so each worker configures itself from the environment that it is given, and
is otherwise what `celery -A chaos_worker worker` starts: a process in a group of its own, with Celery's own exit. It
has one thread. Orders come as lines of JSON on its standard input, each answered by a line.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

NEEDED = (
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "kombu.transport.sqlalchemy",
    "kombu.transport.filesystem",
    "kombu.transport.redis",
    "kombu.transport.pyamqp",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "jobs.storage_folder",
    "jobs.storage_s3",
    "jobs.broker",
    "jobs.repository.reaping",
    "worker.shift",
    "worker.watchdog",
    "worker.weights",
    "worker.testing",
)
# Workers that wait for each other's greetings start a second later.
QUICKLY = ("--without-mingle", "--without-gossip")


def main() -> None:
    """Serve until the standard input ends; then end whoever still runs."""
    for name in NEEDED:
        importlib.import_module(name)
    _say(ready=True)
    groups: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            code = _code_of(order["poll"])
            if code is not None and not _is_there(order["poll"]):
                groups.discard(order["poll"])
            _say(code=code)
            continue
        pid = os.fork()
        if pid == 0:
            _be_a_worker(**order)
            return  # never: Celery ends the process
        groups.add(pid)
        _say(pid=pid)
    _end(groups)


def _end(groups: set[int]) -> None:
    """SIGKILL for these workers and their children, stopped or not: their test was killed before it did so."""
    for group in filter(_is_there, groups):
        os.killpg(group, signal.SIGKILL)


def _is_there(group: int) -> bool:
    """Whether anybody is left of a process group; its number is nobody else's until then."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _say(**told: Any) -> None:
    print(json.dumps(told), flush=True)


def _code_of(pid: int) -> int | None:
    """How the process ended, as `subprocess` tells it; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return None if ended == 0 else os.waitstatus_to_exitcode(status)


def _be_a_worker(name: str, environment: dict[str, str], log: str, home: str) -> None:
    os.setsid()
    os.chdir(home)
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    sys.argv = ["celery", "-A", "chaos_worker", "worker", "-n", f"{name}@%h", "-l", "INFO", *QUICKLY]
    from celery.bin.celery import main as celery

    sys.exit(celery())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
