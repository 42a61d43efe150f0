"""Finished pictures are put aside on local disk while the store or the database is away.

What the recorder asks for here: patience with a store that is away, then a place for the picture. A full disk or a full
spool holds the recorder, whose full queue holds the drawing; a worker that is told to stop waits for neither.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.errors import DatabaseUnavailable, JobsError
from worker.breaker import AWAY, Breaker
from worker.cast import Cast
from worker.errors import SpoolFull
from worker.outputs import PictureFile
from worker.records import Records, candidate_key, output_key
from worker.spool import Spool
from worker.spooled import Spooled, SpooledObject
from worker.trial import Trial

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
PASSING = (*AWAY, DatabaseUnavailable)
"""Faults that say nothing about the picture: it is finished, and only its record must wait."""


@dataclass(frozen=True)
class Outages:
    """How one worker lives through outages.

    `patience_seconds` is how long a picture waits in memory for the store, `hold_seconds` how long others leave a unit
    alone of which pictures are put aside; `is_over` turns true when the worker is told to stop.
    """

    breaker: Breaker
    spool: Spool
    patience_seconds: float
    hold_seconds: float
    is_over: Callable[[], bool]
    _pause: threading.Event = field(default_factory=threading.Event)

    def store(self, act: Callable[[], None]) -> None:
        """Store something with patience. Raises what the store said last."""
        self.breaker.patiently(act, patience_seconds=self.patience_seconds, is_over=self.is_over)

    def keep(self, picture: Spooled, record: Callable[[], None]) -> None:
        """Put a picture aside. Where there is no room, wait for it, or for `record` to go through after all.

        Raises: SpoolFull when the worker is told to stop while there is no room; SpoolUnusable.
        """
        is_told = False
        while True:
            try:
                self.spool.put(picture)
                return
            except SpoolFull as error:
                if not is_told:
                    log.error("drawing stops: %s", error)
                    is_told = True
                if self.is_over():
                    raise
            if self.breaker.reason is None and _went_through(record):
                return
            self._pause.wait(LOOK_SECONDS)


def spooled(
    trial: Trial, cast: Cast, owner: str, records: Records, files: Sequence[PictureFile], losers: Sequence[PictureFile]
) -> Spooled:
    """The picture with all that its rows and objects need; `losers` are candidates that are not stored yet."""
    render = trial.render
    outputs = [records.output(render, file, file.data) for file in files]
    others = [*trial.others, *(records.candidate(render, file, file.data) for file in losers)]
    objects = [SpooledObject(output_key(render, file), file.media_type, file.data) for file in files]
    objects += [SpooledObject(candidate_key(render, file), file.media_type, file.data) for file in losers]
    return Spooled(
        owner=owner,
        unit=render.unit,
        render_id=render.id,
        seed=render.seed,
        drawn=records.drawn(trial, cast, files, outputs[0], seconds_upload=0.0),
        others=tuple(others),
        outputs=tuple(outputs[1:]),
        objects=tuple(objects),
    )


def _went_through(record: Callable[[], None]) -> bool:
    try:
        record()
    except JobsError as error:
        if not isinstance(error, PASSING):
            raise
        return False
    return True
