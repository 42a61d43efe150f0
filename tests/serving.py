"""A real `portraits serve` in a process of its own, for tests."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 60.0
END_SECONDS = 40.0


@dataclass(frozen=True)
class Serving:
    """Where it listens, and its process."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def serving(environment: Mapping[str, str], log: Path, *arguments: str) -> Iterator[Serving]:
    """Start it on a free port, wait until it says where, and end it with SIGTERM, which must end it well."""
    command = [sys.executable, "-m", "worker.cli", "serve", "--port", "0", *(arguments or ("--no-clerk",))]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield Serving(_said(process, log), process)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(END_SECONDS) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _said(process: subprocess.Popen[str], log: Path) -> str:
    """The address that it says it serves on."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        until = time.monotonic() + READY_SECONDS
        while waiting.select(max(0.0, until - time.monotonic())):
            line = process.stdout.readline()
            if found := re.search(r"serving on (http\S+)", line):
                return found[1]
            if not line:
                break
    raise AssertionError(f"it did not start: {log.read_text()}")
