"""Whether a worker does its work: its parent asks the broker, and its child, once in a shift, goes on with it.

Two small files say when that was last so, on the machine's monotonic clock, which all of its processes share and nobody
sets. A hung device, a stopped process or a broker that no longer answers leave them old; `portraits health` and
`/healthz` read them. A worker that loads and compiles a profile claims nothing meanwhile, and may take long over it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.repository.units import ClaimedUnit
from jobs.settings import Settings
from worker.telemetry.events import BatchDrawn, Observer
from worker.telemetry.runtime import RunFolder

if TYPE_CHECKING:
    from worker.shift import ShiftReport

log = logging.getLogger(__name__)
POLL, SHIFT = "poll", "shift"
WRITE_SECONDS = 1.0
LOADING_SECONDS = 3600.0
"""How long a worker may load and compile before it counts as stuck."""


class Pulse(Observer):
    """Writes down that this process goes on; a disk that does not take it is told once."""

    def __init__(self, folder: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._lock = threading.Lock()
        self._written, self._polled, self._is_told = 0.0, 0.0, False

    def polled(self) -> None:
        """The parent has asked the broker."""
        now = self._clock()
        if now - self._polled >= WRITE_SECONDS:
            self._polled = now
            self._write(POLL, {"at": now})

    def loading(self, profile: str) -> None:
        self._write(SHIFT, {"at": self._clock(), "doing": "loading", "profile": profile})

    def shift_began(self, profile: str) -> None:
        self._go_on(now=True)

    def claimed(self, units: Sequence[ClaimedUnit]) -> None:
        self._go_on()

    def batch_drawn(self, batch: BatchDrawn) -> None:
        self._go_on()

    def alive(self) -> None:
        self._go_on()

    def stands_still(self, reason: str) -> None:
        self._write(SHIFT, {"at": self._clock(), "doing": "standing still", "reason": reason})

    def shift_ended(self, report: ShiftReport | None) -> None:
        self._folder.forget(SHIFT)

    def _go_on(self, *, now: bool = False) -> None:
        with self._lock:
            if not now and self._clock() - self._written < WRITE_SECONDS:
                return
            self._written = self._clock()
        self._write(SHIFT, {"at": self._clock(), "doing": "drawing"})

    def _write(self, name: str, told: dict[str, object]) -> None:
        try:
            self._folder.write(name, json.dumps({**told, "pid": os.getpid()}))
        except OSError as error:
            if not self._is_told:
                self._is_told = True
                log.error("%s cannot be written, so `portraits health` will call this worker stuck: %s", name, error)


@dataclass(frozen=True)
class Health:
    """Whether a worker is well, and why, in words."""

    worker: str
    is_well: bool
    reason: str


def look(folder: RunFolder, settings: Settings, now: float | None = None) -> Health:
    """How one worker of this machine is now."""
    moment = time.monotonic() if now is None else now
    poll, shift = _read(folder, POLL), _read(folder, SHIFT)
    name = folder.path.name.rpartition("-")[0]
    if poll is None:
        return Health(name, False, "it has not asked the broker yet")
    silent = moment - float(poll["at"])
    if silent > settings.health_seconds:
        return Health(name, False, f"it has not asked the broker for {silent:.0f} s")
    if shift is None or not _lives(int(shift["pid"])):  # the next child says nothing before its first shift
        return Health(name, True, f"it asked the broker {silent:.0f} s ago, and draws nothing")
    age, doing = moment - float(shift["at"]), shift["doing"]
    if doing == "standing still":
        return Health(name, False, str(shift["reason"]))
    limit = LOADING_SECONDS if doing == "loading" else max(settings.health_seconds, settings.lease_seconds)
    told = f"it is {doing}, and went on {age:.0f} s ago, at most {limit:.0f} s"
    return Health(name, age <= limit, told)


def workers(settings: Settings) -> list[Health]:
    """Every worker of this home that runs on this machine."""
    return [look(folder, settings) for folder in RunFolder.running_here(settings.home)]


def _read(folder: RunFolder, name: str) -> dict[str, Any] | None:
    text = folder.read(name)
    if text is None:
        return None
    told: dict[str, Any] = json.loads(text)
    return told


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
