"""Real worker processes in a test's hands: started by a nursery, met at a point, and done harm to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stacks import ROOT

HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 60.0
_pause = threading.Event()


def until(holds: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask again and again, until the answer is true; returns it. Raises AssertionError saying what did not happen."""
    ends_at = time.monotonic() + seconds
    while not (answer := holds()):
        if time.monotonic() > ends_at:
            raise AssertionError(f"{what} has not happened within {seconds:g} s")
        _pause.wait(0.02)
    return answer


def is_running(pid: int) -> bool:
    """Whether the process is there and not merely waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def has_torch(pid: int) -> bool:
    """Whether the process has mapped PyTorch's library, whoever imported it."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


class Nursery:
    """The process that forks workers."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, ROOT))), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self._lock = threading.Lock()
        assert self._answer() == {"ready": True}

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order; returns its answer."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the nursery has ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it; its workers must have ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE_SECONDS)
        self._process.stdout.close()


class ChaosWorker:
    """One Celery worker: a parent and its child, a process group."""

    def __init__(self, nursery: Nursery, home: Path, environment: dict[str, str], name: str) -> None:
        self.name, self.log = name, home / f"{name}.log"
        self._nursery, self._code = nursery, None
        order = {"name": name, "environment": environment, "log": str(self.log), "home": str(home)}
        self.pid = int(nursery.ask(**order)["pid"])

    def is_ready(self) -> bool:
        """Whether it has begun to take messages; before that, signals mean to it what they mean to any process."""
        return self.log.exists() and f"{self.name}@" in self.log.read_text() and " ready." in self.log.read_text()

    def was_told_to_stop(self) -> bool:
        """Whether it has heard a signal that ends it."""
        return "Warm shutdown" in self.log.read_text()

    def ended_with(self) -> int | None:
        """The exit code; None while the parent runs."""
        if self._code is None:
            self._code = self._nursery.ask(poll=self.pid)["code"]
        return self._code

    def wait(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the parent's end; returns its exit code."""
        until(lambda: self.ended_with() is not None, f"the end of {self.name}", seconds=seconds)
        assert self._code is not None
        return self._code

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the parent, or to parent and child."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def children(self) -> list[int]:
        """The processes that the parent has forked and that run."""
        told = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in told.read_text().split()] if told.exists() else []

    def kill(self) -> None:
        """SIGKILL for what is left of it, stopped or not."""
        self.signal(signal.SIGKILL, group=True)
        if self._code is None:
            self.wait()


class Point:
    """A place that a worker tells of; `meet` waits for the first process that gets there, which then stays there."""

    def __init__(self, name: str, folder: Path) -> None:
        # A socket's path must be short, and pytest's folders are not.
        self.name, self._path = name, f"/tmp/chaos-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self._listener.settimeout(PATIENCE_SECONDS)
        self._line: socket.socket | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes a worker stay there."""
        return {"CHAOS_POINT": self.name, "CHAOS_SOCKET": self._path}

    def meet(self) -> dict[str, Any]:
        """Wait until somebody is there: its `pid`, its `parent`, and the `heavy` modules that it has imported."""
        try:
            self._line, _ = self._listener.accept()
        except TimeoutError as error:
            logs = "\n".join(path.read_text()[-4000:] for path in sorted(self._folder.glob("*.log")))
            raise AssertionError(f"nobody has come to {self.name}; the workers said:\n{logs}") from error
        self._forget_path()  # whoever comes later goes on
        with self._line.makefile() as lines:
            found: dict[str, Any] = json.loads(lines.readline())
        return found

    def release(self, word: str) -> None:
        """Let it go on: `go` at once, `stop` when it knows that it shall stop."""
        assert self._line is not None
        with suppress(BrokenPipeError):
            self._line.sendall(word.encode())

    def close(self) -> None:
        """Let go whoever is there."""
        self._forget_path()
        self._listener.close()
        if self._line is not None:
            self._line.close()

    def _forget_path(self) -> None:
        Path(self._path).unlink(missing_ok=True)


class Fleet:
    """The workers of one test on one stack; whatever runs in the end is killed."""

    def __init__(self, nursery: Nursery, home: Path, environment: dict[str, str]) -> None:
        self._nursery, self._home, self._environment = nursery, home, environment
        self.workers: list[ChaosWorker] = []

    def start(self, name: str, **extra: str) -> ChaosWorker:
        """Start a worker."""
        worker = ChaosWorker(self._nursery, self._home, {**self._environment, **extra}, name)
        self.workers.append(worker)
        return worker

    @contextmanager
    def point(self, name: str) -> Iterator[Point]:
        """A point of this fleet's workers."""
        point = Point(name, self._home)
        try:
            yield point
        finally:
            point.close()

    def logs(self) -> str:
        """The end of what each worker said."""
        return "\n".join(f"{one.name}:\n{one.log.read_text()[-3000:]}" for one in self.workers if one.log.exists())

    def close(self) -> None:
        """Kill who still runs."""
        for worker in self.workers:
            worker.kill()
