"""Behind the device: encode, upload and record finished pictures while the next batch is drawn.

Order: object, then row. The object's key carries the lease token and is written only if absent, so a worker that was
fenced out can neither overwrite nor win; its object is removed again. A bounded queue holds drawing back when the
store is slower than the device.
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
from jobs.repository.renders import Drawn, WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.storage import Storage
from worker.png import encode_png
from worker.renderer import Renderer
from worker.weights import Weights

log = logging.getLogger(__name__)
TRIES = 4
FIRST_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Finished:
    """A drawn picture with its share of the seconds that its batch and its person took."""

    render: WaitingRender
    image: Image
    weights: Weights
    final_prompt: str
    batch_size: int
    seconds_weights: float
    seconds_merge: float
    seconds_denoise: float
    seconds_decode: float


def render_key(render: WaitingRender) -> str:
    """Where this lease's picture of the render goes."""
    unit = render.unit
    return f"{unit.tenant_id}/{unit.job_id}/{render.id}/{unit.lease_token}.png"


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
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="recorder")
        self._room = threading.BoundedSemaphore(queue)
        self._lock = threading.Lock()
        self._pending: dict[uuid.UUID, list[Future[None]]] = {}
        self._faults: dict[uuid.UUID, Exception] = {}
        self._wake = threading.Event()

    def add(self, finished: Finished) -> None:
        """Take over a picture; waits while the queue is full."""
        self._room.acquire()
        future = self._pool.submit(self._settle, finished)
        with self._lock:
            self._pending.setdefault(finished.render.unit.id, []).append(future)

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
        try:
            self._with_patience(finished)
        except Exception as error:
            log.exception("a picture could not be recorded", extra={"render": str(finished.render.id)})
            with self._lock:
                self._faults[finished.render.unit.id] = error
        finally:
            self._room.release()

    def _with_patience(self, finished: Finished) -> None:
        """Try again after transient faults, a few times and ever later."""
        for attempt in range(TRIES):
            try:
                self._record(finished)
                return
            except JobsError as error:
                if not error.retryable or attempt == TRIES - 1:
                    raise
                log.warning("recording a picture again after: %s", error)
                self._wake.wait(FIRST_WAIT_SECONDS * 2**attempt)

    def _record(self, finished: Finished) -> None:
        render = finished.render
        similarity, reason = self._similarity(finished)
        known = self._known(finished, similarity, reason)
        began = time.perf_counter()
        data = encode_png(finished.image, known)
        encoded = time.perf_counter()
        key = render_key(render)
        data = self._store(key, data)
        uploaded = time.perf_counter()
        drawn = Drawn(
            storage_key=key,
            media_type="image/png",
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            final_prompt=finished.final_prompt,
            id_similarity=similarity,
            id_similarity_reason=reason,
            recogniser=self._renderer.recogniser,
            model_fingerprint=self._renderer.model_fingerprint,
            weight_set_fingerprint=finished.weights.fingerprint,
            device=self._renderer.device,
            worker=self._worker_name,
            batch_size=finished.batch_size,
            seconds_weights=finished.seconds_weights,
            seconds_merge=finished.seconds_merge,
            seconds_denoise=finished.seconds_denoise,
            seconds_decode=finished.seconds_decode,
            seconds_encode=encoded - began,
            seconds_upload=uploaded - encoded,
        )
        with self._database.transaction() as tx:
            recorded = render_rows.complete(tx, render, self._owner, drawn)
        if not recorded:
            log.warning("a picture came too late: its unit was cancelled or taken over", extra={"key": key})
            self._remove(key)

    def _similarity(self, finished: Finished) -> tuple[float | None, str | None]:
        """A picture that cannot be measured is still a picture: null, with the reason."""
        try:
            return self._renderer.similarity(finished.image, finished.weights.reference_embedding)
        except Exception as error:
            log.exception("the ID similarity could not be measured", extra={"render": str(finished.render.id)})
            return None, f"could not be measured: {type(error).__name__}"

    def _store(self, key: str, data: bytes) -> bytes:
        """Store the picture; returns the bytes that lie there, ours or those of an earlier try under the same lease."""
        try:
            self._storage.put(key, data, content_type="image/png", if_absent=True)
            return data
        except ObjectExists:
            return self._storage.get(key)

    def _remove(self, key: str) -> None:
        try:
            self._storage.delete(key)
        except StorageError:
            log.exception("a picture that no row names could not be removed", extra={"key": key})

    def _known(self, finished: Finished, similarity: float | None, reason: str | None) -> dict[str, object]:
        """What is written into the picture."""
        render = finished.render
        asked = ("prompt_name", "negative_prompt", "seed", "width", "height", "steps", "guidance", "scheduler")
        record: dict[str, object] = {name: getattr(render, name) for name in (*asked, "lora_weight")}
        taken = ("seconds_weights", "seconds_merge", "seconds_denoise", "seconds_decode")
        record |= {name: round(getattr(finished, name), 4) for name in taken}
        record |= {
            "software": "hyperlora-portraits",
            "job": str(render.unit.job_id),
            "render": str(render.id),
            "profile": self._renderer.profile,
            "final_prompt": finished.final_prompt,
            "model_fingerprint": self._renderer.model_fingerprint,
            "weight_set_fingerprint": finished.weights.fingerprint,
            "device": self._renderer.device,
            "batch_size": finished.batch_size,
            "id_similarity": similarity,
            "id_similarity_reason": reason,
            "recogniser": self._renderer.recogniser,
        }
        if self._renderer.notice:
            record["notice"] = self._renderer.notice
        return record
