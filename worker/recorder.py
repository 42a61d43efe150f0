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
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL.Image import Image

from jobs.database import Database
from jobs.errors import JobsError, ObjectExists, StorageError
from jobs.repository import renders as render_rows
from jobs.repository.renders import CandidateRow, Drawn, OutputRow, WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.storage import Storage
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
        self._pending: dict[uuid.UUID, list[Future[None]]] = {}
        self._faults: dict[uuid.UUID, Exception] = {}
        self._judged = threading.Condition()
        self._unjudged = 0
        self._follow_ups: list[Draw] = []
        self._wake = threading.Event()

    def add(self, finished: Finished) -> None:
        """Take over a picture; waits while the queue is full."""
        self._room.acquire()
        with self._judged:
            self._unjudged += 1
        future = self._pool.submit(self._settle, finished)
        with self._lock:
            self._pending.setdefault(finished.draw.render.unit.id, []).append(future)

    def follow_ups(self) -> list[Draw]:
        """The drawings that finished pictures asked for; waits until every picture so far has been judged."""
        with self._judged:
            self._judged.wait_for(lambda: self._unjudged == 0)
            draws, self._follow_ups = self._follow_ups, []
        return draws

    def wait_for(self, unit: ClaimedUnit) -> Exception | None:
        """Wait until every picture of the unit is settled; returns the fault that kept one from being recorded."""
        with self._lock:
            futures = self._pending.pop(unit.id, [])
        for future in futures:
            future.result()
        with self._lock:
            return self._faults.pop(unit.id, None)

    def close(self) -> None:
        """Finish what was taken over."""
        self._pool.shutdown(wait=True)

    def _settle(self, finished: Finished) -> None:
        trial = finished.draw.trial
        try:
            with trial.lock:
                judgement = self._judged_now(finished)
                if judgement.decided:
                    self._with_patience(trial, finished)
        except Exception as error:  # noqa: BLE001 - it becomes the render's or the unit's fault, whatever it was
            self._note_fault(trial.render, error)
        finally:
            self._room.release()

    def _judged_now(self, finished: Finished) -> Judgement:
        """Judge, and let the planner know at once: it need not wait for the picture to be stored."""
        judgement = Judgement()
        try:
            _count_seconds(finished.draw.trial, finished)
            judgement = self._judge.look(finished.draw, finished.image, finished.cast)
        finally:
            with self._judged:
                self._unjudged -= 1
                self._follow_ups += judgement.draws
                self._judged.notify_all()
        return judgement

    def _note_fault(self, render: WaitingRender, error: Exception) -> None:
        """A fault that stays fails the render alone; one that may pass is the unit's, which is tried again."""
        if not is_retryable(error):
            log.info("render %s: %s", render.id, error)
            try:
                with self._database.transaction() as tx:
                    render_rows.fail(tx, render, self._owner, error_code=code_of(error), error=str(error))
                return
            except JobsError as away:
                error = away
        log.error("a picture could not be recorded", extra={"render": str(render.id)}, exc_info=error)
        with self._lock:
            self._faults[render.unit.id] = error

    def _with_patience(self, trial: Trial, finished: Finished) -> None:
        """Try again after transient faults, a few times and ever later."""
        files = self._outputs.files(trial, self._known(trial, finished))
        for attempt in range(TRIES):
            try:
                self._record(trial, finished, files)
                return
            except JobsError as error:
                if not error.retryable or attempt == TRIES - 1:
                    raise
                log.warning("recording a picture again after: %s", error)
                self._wake.wait(FIRST_WAIT_SECONDS * 2**attempt)

    def _record(self, trial: Trial, finished: Finished, files: list[PictureFile]) -> None:
        """Store the files, then settle the row; the first file is the render's picture."""
        render, best = trial.render, trial.best
        assert best is not None
        began = time.perf_counter()
        others = [self._store_candidate(render, file) for file in files if file.candidate is not None]
        outputs = [self._store_output(render, file) for file in files if file.candidate is None]
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
            weight_set_fingerprint=finished.cast.fingerprint,
            device=self._renderer.device,
            worker=self._worker_name,
            batch_size=finished.batch_size if trial.batch_size == 0 else trial.batch_size,
            seconds_weights=finished.seconds_weights,
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

    def _known(self, trial: Trial, finished: Finished) -> dict[str, object]:
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
            "weight_set_fingerprint": finished.cast.fingerprint,
            "device": self._renderer.device,
            "batch_size": finished.batch_size,
            "draws": trial.draws,
            "seconds_weights": round(finished.seconds_weights, 4),
            "recogniser": self._renderer.recogniser,
            "safety_checker": self._renderer.checker,
        }
        options = trial.options.dump()
        if options:
            record["options"] = options
        if trial.options.start is not None:
            record["strength"] = trial.options.start.strength
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
    trial.seconds["denoise"] += finished.seconds_denoise
    trial.seconds["decode"] += finished.seconds_decode
