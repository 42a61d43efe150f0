"""The life of units as log lines, with ids and codes; no name, prompt or photo is in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from jobs import logs
from jobs.repository.renders import Drawn as DrawnRow
from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from worker.errors import code_of
from worker.telemetry.events import BatchDrawn, Observer, Outcome, ids_of

log = logging.getLogger(__name__)


class Lines(Observer):
    """Logs what became of each unit; what happens in between only at the level of debugging."""

    def claimed(self, units: Sequence[ClaimedUnit]) -> None:
        for unit in units:
            with logs.about(**ids_of(unit)):
                log.debug("claimed after %.1f s, attempt %d", unit.waited_seconds, unit.attempts)

    def prepared(self, units: Sequence[ClaimedUnit], seconds: float, error: Exception | None) -> None:
        with logs.about(**ids_of(units[0])):
            log.debug("%s after %.1f s", "prepared" if error is None else code_of(error), seconds)

    def out_of_memory(self, what: Literal["batch", "people"], pictures: int) -> None:
        log.debug("out of memory: %s of %d", what, pictures)

    def batch_drawn(self, batch: BatchDrawn) -> None:
        units = ", ".join(str(unit.id) for unit in batch.units)
        log.debug("%d of %d pictures in %.2f s for %s", len(batch.renders), batch.places, batch.seconds, units)

    def picture_recorded(self, render: WaitingRender, row: DrawnRow, seconds_commit: float) -> None:
        with logs.about(**ids_of(render.unit), render=render.id):
            log.debug("recorded: %d bytes, stored in %.2f s", row.size_bytes, row.seconds_upload)

    def unit_settled(self, unit: ClaimedUnit, outcome: Outcome, error: Exception | None) -> None:
        code = None if error is None else code_of(error)
        with logs.about(**ids_of(unit), code=code):
            log.log(logging.INFO if outcome in {"done", "handed back"} else logging.WARNING, "unit %s", outcome)

    def drained(self) -> None:
        log.info("drained: nothing is held, and nothing more is claimed until somebody undoes it")
