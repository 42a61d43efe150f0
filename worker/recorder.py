"""Behind the device: judge, encode, upload and record finished pictures while the next batch is drawn.

Order: object, then row. The object's key carries the lease token and is written only if absent, so a worker that was
fenced out can neither overwrite nor win; its objects are removed again. A bounded queue holds drawing back when the
store is slower than the device. What a picture asks for next (see `worker.judge`) goes back to the planner.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL.Image import Image

from jobs.database import Database
from jobs.errors import JobsError, ObjectExists, StorageError
from jobs.repository import renders as render_rows
from jobs.repository.renders import CandidateRow, Drawn, OutputRow, WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.storage import Storage
from worker.begun import Begun, Claim, claim_of
from worker.cast import Cast
from worker.errors import code_of, is_retryable
from worker.judge import Judge, Judgement
from worker.outputs import Outputs, PictureFile
from worker.renderer import Renderer
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
    ) -> None:
        self._database, self._storage, self._renderer = database, storage, renderer
        self._owner, self._worker_name = owner, worker_name
        self._judge, self._outputs = Judge(renderer), Outputs(renderer)
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
        future = self._pool.submit(self._settle, draw, judge, cast)
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

    def close(self) -> None:
        """Finish what was taken over."""
        self._pool.shutdown(wait=True)

    def _settle(self, draw: Draw, judge: Callable[[], Judgement], cast: Cast) -> None:
        trial = draw.trial
        try:
            with trial.lock:
                judgement = self._judged_now(draw, judge)
                if trial.losers:
                    self._patiently(lambda: self._store_losers(trial, cast))
                if judgement.decided:
                    self._record_all(trial, cast)
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
                return
            except Exception as away:  # noqa: BLE001 - the reason could not be written: the unit is tried again
                error = away
        log.error("a picture could not be recorded", extra={"render": str(render.id)}, exc_info=error)
        with self._lock:
            self._faults[claim_of(render.unit)] = error

    def _patiently(self, act: Callable[[], None]) -> None:
        """Try again after transient faults, a few times and ever later."""
        for attempt in range(TRIES):
            try:
                act()
                return
            except JobsError as error:
                if not error.retryable or attempt == TRIES - 1:
                    raise
                log.warning("recording a picture again after: %s", error)
                self._wake.wait(FIRST_WAIT_SECONDS * 2**attempt)

    def _store_losers(self, trial: Trial, cast: Cast) -> None:
        """Store candidates that were not chosen, and let their pictures go."""
        while trial.losers:
            file = self._outputs.loser(trial, trial.losers[0], self._known(trial, cast))
            trial.others.append(self._store_candidate(trial.render, file))
            trial.losers.pop(0)

    def _record_all(self, trial: Trial, cast: Cast) -> None:
        files = self._outputs.files(trial, self._known(trial, cast))
        self._patiently(lambda: self._record(trial, cast, files))

    def _record(self, trial: Trial, cast: Cast, files: list[PictureFile]) -> None:
        """Store the files, then settle the row; the first file is the render's picture."""
        render, best, others = trial.render, trial.best, trial.others
        assert best is not None
        began = time.perf_counter()
        outputs = [self._store_output(render, file) for file in files]
        uploaded = time.perf_counter()
        first = outputs[0]
        drawn = Drawn(
            storage_key=first.storage_key,
            media_type=first.media_type,
            size_bytes=first.size_bytes,
            sha256=first.sha256,
            final_prompt=self._final_prompt(trial),
            id_similarity=best.similarity,
            id_similarity_reason=best.reason,
            recogniser=self._renderer.recogniser,
            model_fingerprint=self._renderer.model_fingerprint,
            weight_set_fingerprint=cast.fingerprint,
            device=self._renderer.device,
            worker=self._worker_name,
            batch_size=trial.batch_size,
            seconds_weights=trial.seconds["weights"],
            seconds_merge=trial.seconds["merge"],
            seconds_denoise=trial.seconds["denoise"],
            seconds_decode=trial.seconds["decode"],
            seconds_encode=sum(file.seconds_encode for file in files),
            seconds_upload=uploaded - began,
            drawn_seed=best.seed,
            draws=trial.draws,
            output_width=first.width,
            output_height=first.height,
            seconds_detail=trial.seconds["detail"],
            seconds_finish=sum(file.seconds_finish for file in files),
            detail_faces=best.detail_faces,
        )
        with self._database.transaction() as tx:
            recorded = render_rows.complete(tx, render, self._owner, drawn, others=others, outputs=outputs[1:])
        if not recorded:
            keys = [row.storage_key for row in others] + [row.storage_key for row in outputs]
            log.warning("a picture came too late: its unit was cancelled or taken over", extra={"keys": keys})
            for key in keys:
                self._remove(key)

    def _store_output(self, render: WaitingRender, file: PictureFile) -> OutputRow:
        name = f"-{file.output}" if file.output else ""
        key = f"{_folder(render)}/{render.unit.lease_token}{name}{file.extension}"
        data = self._store(key, file)
        return OutputRow(
            name=file.output,
            storage_key=key,
            media_type=file.media_type,
            width=file.width,
            height=file.height,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def _store_candidate(self, render: WaitingRender, file: PictureFile) -> CandidateRow:
        candidate = file.candidate
        assert candidate is not None
        key = f"{_folder(render)}/{render.unit.lease_token}.{candidate.attempt}{file.extension}"
        data = self._store(key, file)
        digest = hashlib.sha256(data).hexdigest()
        return CandidateRow(candidate.seed, key, digest, len(data), candidate.similarity)

    def _store(self, key: str, file: PictureFile) -> bytes:
        """Store the picture; returns the bytes that lie there, ours or those of an earlier try under the same lease."""
        try:
            self._storage.put(key, file.data, content_type=file.media_type, if_absent=True)
            return file.data
        except ObjectExists:
            return self._storage.get(key)

    def _remove(self, key: str) -> None:
        try:
            self._storage.delete(key)
        except StorageError:
            log.exception("a picture that no row names could not be removed", extra={"key": key})

    def _final_prompt(self, trial: Trial) -> str:
        return self._renderer.final_prompt(trial.render.prompt, trigger_words=trial.options.trigger_words)

    def _known(self, trial: Trial, cast: Cast) -> dict[str, object]:
        """What is written into the pictures; what differs between them is added for each."""
        render = trial.render
        asked = ("prompt_name", "negative_prompt", "seed", "width", "height", "steps", "guidance", "scheduler")
        record: dict[str, object] = {name: getattr(render, name) for name in (*asked, "lora_weight")}
        record |= {
            f"seconds_{name}": round(trial.seconds[name], 4) for name in ("merge", "denoise", "decode", "detail")
        }
        record |= {
            "software": "hyperlora-portraits",
            "job": str(render.unit.job_id),
            "render": str(render.id),
            "profile": self._renderer.profile,
            "final_prompt": self._final_prompt(trial),
            "model_fingerprint": self._renderer.model_fingerprint,
            "weight_set_fingerprint": cast.fingerprint,
            "device": self._renderer.device,
            "batch_size": trial.batch_size,
            "draws": trial.draws,
            "seconds_weights": round(trial.seconds["weights"], 4),
            "recogniser": self._renderer.recogniser,
            "safety_checker": self._renderer.checker,
        }
        options = trial.options.told()
        if options:
            record["options"] = options
        if trial.options.start is not None:
            record["strength"] = trial.options.start.strength
        if self._renderer.lossy:
            record["lossy"] = self._renderer.lossy
        if self._renderer.notice:
            record["notice"] = self._renderer.notice
        return record


def _folder(render: WaitingRender) -> str:
    """Where a render's objects lie; their names begin with the lease's token."""
    return f"{render.unit.tenant_id}/{render.unit.job_id}/{render.id}"


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
