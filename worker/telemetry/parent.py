"""What a worker's parent does so that its processes can tell of themselves: the folder, the port, the signs of polling.

The child that draws is forked from it and inherits all of that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from jobs import tracing
from jobs.settings import Settings
from worker.telemetry import runtime
from worker.telemetry.events import NOBODY, Observer
from worker.telemetry.health import Pulse
from worker.telemetry.observing import metrics_observer

if TYPE_CHECKING:
    from worker.telemetry.exporter import Exporter

log = logging.getLogger(__name__)
_pulse: list[Pulse] = []
_observer: list[Observer] = []


def begin(settings: Settings) -> None:
    """Make the run folder, before anything is forked; a disk that does not take it keeps no worker from drawing."""
    try:
        folder = runtime.begin(settings.home)
        _pulse[:] = [Pulse(folder)]
        if settings.metrics_port:
            from worker.telemetry.counting import begin_counting

            begin_counting(folder)
            _observer[:] = [metrics_observer()]
    except OSError as error:
        log.error("no health and no metrics of this worker: its folder in %s cannot be made: %s", settings.home, error)


def observer() -> Observer:
    """Who is told what the parent itself does."""
    return _observer[0] if _observer else NOBODY


def helpers(settings: Settings) -> list[Exporter]:
    """The threads of the parent that tell others."""
    polled()
    folder = runtime.mine()
    if folder is None or not settings.metrics_port:
        return []
    from worker.telemetry.exporter import Exporter

    return [Exporter(settings, folder)]


def polled() -> None:
    """The loop that asks the broker went round."""
    for pulse in _pulse:
        pulse.polled()


def child_ends(**_: Any) -> None:
    """A child ends in good order: its last spans are sent."""
    tracing.flush()


def end() -> None:
    """The worker ends in good order."""
    folder = runtime.mine()
    if folder is not None:
        folder.close()
    _pulse.clear()
