"""Writes down that a worker goes on, for whoever asks whether it is well: see `worker.telemetry.vitals`."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobs.repository.units import ClaimedUnit
from worker.telemetry.events import BatchDrawn, Observer
from worker.telemetry.runtime import RunFolder
from worker.telemetry.vitals import POLL, SHIFT

if TYPE_CHECKING:
    from worker.shift import ShiftReport

log = logging.getLogger(__name__)
WRITE_SECONDS = 1.0


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
