"""Keeps the host near the device: a step that was asked for is not far from being done.

Calls to a GPU return at once, and a host that queues all steps of a batch could neither stop it nor tell how far it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

AHEAD = 2
"""Steps that may be queued and not done."""


class Pace:
    """Waits, at each step, for the one that lies `ahead` steps back; reads no result, so the device never waits."""

    def __init__(self, device: torch.device, *, ahead: int = AHEAD, mark: Callable[[], Any] | None = None) -> None:
        """`mark` notes where the device is and gives what can be waited for (`synchronize`); None where a call does not
        return before its work is done, as on a CPU."""
        self._ahead, self._marks = ahead, deque[Any]()
        self._mark = mark or (partial(_cuda_mark, device) if device.type == "cuda" else None)

    def step(self) -> None:
        """A step has been asked for."""
        if self._mark is None:
            return
        self._marks.append(self._mark())
        if len(self._marks) > self._ahead:
            self._marks.popleft().synchronize()


def _cuda_mark(device: torch.device) -> Any:
    # A blocking event lets other threads have the core, where the default one would spin. It is recorded on the
    # device's own stream: that of the thread's current device, the default, may belong to another GPU.
    event: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
