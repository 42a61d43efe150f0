"""Behind the device: judge, encode, upload and record finished pictures while the next batch is drawn.

Order: object, then row. The object's key carries the lease token and is written only if absent, so a worker that was
fenced out can neither overwrite nor win; its objects are removed again. A bounded queue holds drawing back when the
store is slower than the device. What a picture asks for next (see `worker.judge`) goes back to the planner. Where store
or database are away, a finished picture is put aside (see `worker.aside`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL.Image import Image

from jobs import logs
from jobs.database import Database
from jobs.errors import JobsError, ObjectExists, StorageError
from jobs.repository import renders as render_rows
from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.storage import Storage
from worker.aside import PASSING, Outages, spooled
from worker.begun import Begun, Claim, claim_of
from worker.breaker import AWAY
from worker.cast import Cast
from worker.errors import MarkingBroken, SpoolFull, SpoolUnusable, code_of, is_retryable
from worker.judge import Judge, Judgement
from worker.marking.marker import Marker
from worker.outputs import Outputs, PictureFile
from worker.records import Records, candidate_key, output_key
from worker.renderer import Renderer
from worker.telemetry.events import NOBODY, Observer, ids_of
from worker.trial import Draw, Trial

log = logging.getLogger(__name__)
TRIES = 4
FIRST_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Finished:
    """A drawing with its share of the seconds that its batch and its person took."""

    draw: Draw
    image: Image
    cast: Cast
    batch_size: int
    seconds_weights: float
    seconds_merge: float
    seconds_denoise: float
    seconds_decode: float
    mask: Image | None = None  # what of a given picture was redrawn


class Recorder:
    """Threads that take finished pictures and settle their rows; remembers which units met a fault."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        renderer: Renderer,
        owner: str,
        *,
        worker_name: str,
        threads: int,
        queue: int,
        outages: Outages | None = None,
        marker: Marker | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        """Without `outages` a picture that cannot be recorded is its unit's fault, and drawn again; without `marker`
        pictures are not signed.
        """
        self._database, self._storage = database, storage
        self._owner, self._outages, self._observer = owner, outages, observer
        self._judge, self._outputs, self._marker = Judge(renderer), Outputs(renderer, marker), marker
        self._records = Records(renderer, worker_name)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="recorder")
        self._room = threading.BoundedSemaphore(queue)
        self._lock = threading.Lock()
        self._pending: dict[Claim, list[Future[None]]] = {}
        self._faults: dict[Claim, Exception] = {}
        self._wake = threading.Event()
        self.begun = Begun()
        """What is in the making here, and what follows from it."""

    def add(self, finished: Finished) -> None:
        """Take over a picture; waits while the queue is full."""
        draw, cast = finished.draw, finished.cast
        self._submit(draw, lambda: self._look(finished), cast)

    def add_failed(self, draw: Draw, cast: Cast) -> None:
        """A drawing that followed from a picture could not be made: what there is without it is judged."""
        self._submit(draw, lambda: self._judge.look_without(draw, cast), cast)

    def _submit(self, draw: Draw, judge: Callable[[], Judgement], cast: Cast) -> None:
        self._room.acquire()
        self.begun.add(draw)
        future = self._pool.submit(self._settle_one, draw, judge, cast)
        with self._lock:
            self._pending.setdefault(claim_of(draw.render.unit), []).append(future)

    def _look(self, finished: Finished) -> Judgement:
        _count_seconds(finished.draw.trial, finished)
        return self._judge.look(finished.draw, finished.image, finished.cast, mask=finished.mask)

    def forget(self, draws: Sequence[Draw]) -> None:
        """These will not be drawn: their renders are somebody else's now, or are begun again later."""
        for trial in {draw.trial for draw in draws}:
            with trial.lock:  # a thread may be storing a candidate of it
                self._close(trial)

    def _close(self, trial: Trial) -> None:
        trial.close()
        self.begun.end(trial)

    def wait_for(self, unit: ClaimedUnit) -> Exception | None:
        """Wait until every picture of the unit is settled; returns the fault that kept one from being recorded."""
        with self._lock:
            futures = self._pending.pop(claim_of(unit), [])
        for future in futures:
            future.result()
        with self._lock:
            return self._faults.pop(claim_of(unit), None)

    def may_claim(self, is_over: Callable[[], bool]) -> bool:
        """Wait until the store answers; False when `is_over` turned true before."""
        return self._outages is None or self._outages.breaker.wait(is_over)

    def suspect(self, error: Exception) -> None:
        """A fault that was met elsewhere: whether it is the store that is away is found out now."""
        if self._outages is not None:
            self._outages.breaker.suspect(error)

    def is_outage(self, error: Exception) -> bool:
        """Whether a unit's fault is that the store is away, the disk full or marking broken: no attempt of its own."""
        if isinstance(error, MarkingBroken):
            return self._marker is not None and self._marker.fault is not None  # else it is this picture that is
        if self._outages is None:
            return False
        is_away = isinstance(error, AWAY) and self._outages.breaker.reason is not None
        return is_away or isinstance(error, SpoolFull | SpoolUnusable)

    def put_off_seconds(self, unit: ClaimedUnit) -> float:
        """For how long others leave this unit alone, because pictures of it are put aside here; 0 where none is."""
        return self._outages.hold_seconds if self._outages is not None and self._outages.spool.holds(unit) else 0.0

    def close(self) -> None:
        """Finish what was taken over."""
        self._pool.shutdown(wait=True)

    def _settle_one(self, draw: Draw, judge: Callable[[], Judgement], cast: Cast) -> None:
        with logs.about(**ids_of(draw.render.unit), render=draw.render.id):
            self._settle(draw, judge, cast)

    def _settle(self, draw: Draw, judge: Callable[[], Judgement], cast: Cast) -> None:
        trial = draw.trial
        try:
            with trial.lock:
                judgement = self._judged_now(draw, judge)
                away = self._met_by(lambda: self._store_losers(trial, cast)) if trial.losers else None
                if judgement.decided:
                    self._record_all(trial, cast, away)
                    self._close(trial)
        except Exception as error:  # noqa: BLE001 - it becomes the render's or the unit's fault, whatever it was
            self._close(trial)
            self._note_fault(trial.render, error)
        finally:
            self._room.release()

    def _judged_now(self, draw: Draw, judge: Callable[[], Judgement]) -> Judgement:
        """Judge, and let the planner know at once: it need not wait for the picture to be stored."""
        trial, judgement, undecided = draw.trial, Judgement(), False
        try:
            if trial.is_open:  # else another of its drawings has ended it
                judgement = judge()
            undecided = trial.is_open and not judgement.decided
        finally:
            self.begun.judged(draw, judgement.draws, is_undecided=undecided)
        return judgement

    def _note_fault(self, render: WaitingRender, error: Exception) -> None:
        """A fault that stays fails the render alone; one that may pass is the unit's, which is tried again."""
        if not is_retryable(error):
            log.info("render %s: %s", render.id, error)
            try:
                with self._database.transaction() as tx:
                    render_rows.fail(tx, render, self._owner, error_code=code_of(error), error=str(error))
                self._observer.picture_failed(render, error)
                return
            except Exception as away:  # noqa: BLE001 - the reason could not be written: the unit is tried again
                error = away
        log.error("a picture could not be recorded", extra={"render": str(render.id)}, exc_info=error)
        with self._lock:
            self._faults[claim_of(render.unit)] = error

    def _met_by(self, act: Callable[[], None]) -> Exception | None:
        """Try, and try again after transient faults; the fault of a store or database that is away is returned."""
        try:
            self._patiently(act)
        except PASSING as error:
            if self._outages is None:
                raise
            return error
        return None

    def _patiently(self, act: Callable[[], None]) -> None:
        """Try again after transient faults, a few times and ever later; a store that is away was awaited before."""
        for attempt in range(TRIES):
            try:
                act()
                return
            except JobsError as error:
                is_last = attempt == TRIES - 1 or (self._outages is not None and isinstance(error, AWAY))
                if not error.retryable or is_last:
                    raise
                log.warning("recording a picture again after: %s", error)
                self._wake.wait(FIRST_WAIT_SECONDS * 2**attempt)

    def _store_losers(self, trial: Trial, cast: Cast) -> None:
        """Store candidates that were not chosen, and let their pictures go."""
        while trial.losers:
            file = self._outputs.loser(trial, trial.losers[0], self._records.known(trial, cast))
            data = self._store(candidate_key(trial.render, file), file)
            trial.others.append(self._records.candidate(trial.render, file, data))
            trial.losers.pop(0)

    def _record_all(self, trial: Trial, cast: Cast, away: Exception | None) -> None:
        """Record the chosen picture, or put it aside where store or database are `away`, or turn out to be."""
        known = self._records.known(trial, cast)
        files = self._outputs.files(trial, known)
        away = away or self._met_by(lambda: self._record(trial, cast, files))
        if away is None:
            return
        assert self._outages is not None
        log.warning("the picture of render %s is put aside: %s", trial.render.id, away)
        losers = [self._outputs.loser(trial, candidate, known) for candidate in trial.losers]
        picture = spooled(trial, cast, self._owner, self._records, files, losers)
        self._outages.keep(picture, lambda: self._record_late(trial, cast, files))
        self._observer.picture_put_aside(trial.render)

    def _record_late(self, trial: Trial, cast: Cast, files: list[PictureFile]) -> None:
        self._store_losers(trial, cast)
        self._record(trial, cast, files)

    def _record(self, trial: Trial, cast: Cast, files: list[PictureFile]) -> None:
        """Store the files, then settle the row; the first file is the render's picture."""
        render, others = trial.render, trial.others
        began = time.perf_counter()
        stored = [(file, self._store(output_key(render, file), file)) for file in files]
        outputs = [self._records.output(render, file, data) for file, data in stored]
        stored_at = time.perf_counter()
        drawn = self._records.drawn(trial, cast, files, outputs[0], stored_at - began)
        with self._database.transaction() as tx:
            recorded = render_rows.complete(tx, render, self._owner, drawn, others=others, outputs=outputs[1:])
        if not recorded:
            keys = [row.storage_key for row in others] + [row.storage_key for row in outputs]
            log.warning("a picture came too late: its unit was cancelled or taken over", extra={"keys": keys})
            for key in keys:
                self._remove(key)
        else:
            self._observer.picture_recorded(render, drawn, time.perf_counter() - stored_at)

    def _store(self, key: str, file: PictureFile) -> bytes:
        """Store the picture; returns the bytes that lie there, ours or those of an earlier try under the same lease."""

        def put() -> None:
            self._storage.put(key, file.data, content_type=file.media_type, if_absent=True)

        try:
            if self._outages is None:
                put()
            else:
                self._outages.store(put)
            return file.data
        except ObjectExists:
            return self._storage.get(key)

    def _remove(self, key: str) -> None:
        try:
            self._storage.delete(key)
        except StorageError:
            log.exception("a picture that no row names could not be removed", extra={"key": key})


def _count_seconds(trial: Trial, finished: Finished) -> None:
    """Add what this drawing took to what the render took."""
    drawing = finished.seconds_denoise + finished.seconds_decode
    trial.seconds["merge"] += finished.seconds_merge
    if finished.draw.part is not None:
        trial.seconds["detail"] += drawing
        return
    trial.batch_size = finished.batch_size
    trial.seconds["weights"] = finished.seconds_weights
    trial.seconds["denoise"] += finished.seconds_denoise
    trial.seconds["decode"] += finished.seconds_decode
