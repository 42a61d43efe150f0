"""The product's worker with points at which it tells a test where it is, and stays until the test says how to go on.

Started as `celery -A chaos_worker worker`. `CHAOS_POINT` names one of `POINTS`; the first process that reaches it
connects to the socket `CHAOS_SOCKET`, says so in a line of JSON, and waits for a word: `go`, or `stop`, which is to go
on as soon as the worker knows that it shall stop. Without a socket nothing waits.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from worker.app import app
from worker.process import STOPPING, WorkerProcess
from worker.recorder import Recorder
from worker.shift import Shift
from worker.testing import FakeRenderer
from worker.weight_making import Making

__all__ = ["app"]
STOP_SECONDS = 30.0
HEAVY = ("torch", "diffusers", "transformers", "onnxruntime", "insightface")
_first = threading.Lock()


def reached(point: str) -> None:
    """Tell the test, if it waits for this point, and wait for its word; only once in a process."""
    if point != os.environ.get("CHAOS_POINT") or not _first.acquire(blocking=False):
        return
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(os.environ["CHAOS_SOCKET"])
        except (FileNotFoundError, ConnectionRefusedError):
            return  # another process was there before
        told = {"point": point, "pid": os.getpid(), "parent": os.getppid(), "heavy": _heavy()}
        line.sendall(json.dumps(told).encode() + b"\n")
        if line.recv(16) == b"stop":
            STOPPING.wait(STOP_SECONDS)


def _heavy() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def _around(owner: type, name: str, *, before: str = "", after: str = "") -> None:
    """Let a method tell a point before it begins, or after it has returned."""
    method: Callable[..., Any] = getattr(owner, name)

    @wraps(method)
    def telling(*args: Any, **named: Any) -> Any:
        reached(before)
        answer = method(*args, **named)
        reached(after)
        return answer

    setattr(owner, name, telling)


def _in_the_middle_of_drawing() -> None:
    draw = FakeRenderer.draw

    @wraps(draw)
    def telling(self: FakeRenderer, samples: Any, setting: Any, *, on_step: Any = None, **named: Any) -> Any:
        def step(number: int, steps: int) -> None:
            if number == steps // 2:
                reached("denoising")
            if on_step is not None:
                on_step(number, steps)

        return draw(self, samples, setting, on_step=step, **named)

    FakeRenderer.draw = telling  # type: ignore[method-assign]


# Where a worker may be when something happens to it, in the order in which a unit passes them.
POINTS = {
    "before_claim": lambda: _around(Shift, "_claim", before="before_claim"),
    "after_claim": lambda: _around(Shift, "_open", before="after_claim"),  # the claim is committed
    "weights_generated": lambda: _around(Making, "make", after="weights_generated"),
    "denoising": _in_the_middle_of_drawing,
    "after_upload": lambda: _around(Recorder, "_store", after="after_upload"),
    "before_ack": lambda: _around(WorkerProcess, "run_shift", after="before_ack"),
}
if os.environ.get("CHAOS_POINT"):
    POINTS[os.environ["CHAOS_POINT"]]()
