"""A unit's way as OpenTelemetry spans, within the trace of its job's enqueueing.

    enqueue                     (jobs.intake)
      unit                      from its claim until nothing more becomes of it here
        weights                 everything the person needs
        batch                   one for each unit that had pictures in it; `portraits.batch` is the same in all of them
          picture               from judged to recorded
            upload, commit

What is told is over by then, so spans are made with the moments at which they began and ended.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from jobs import tracing
from jobs.database import Database
from jobs.repository import jobs as job_rows
from jobs.repository.renders import Drawn as DrawnRow
from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from worker.begun import Claim, claim_of
from worker.errors import code_of
from worker.telemetry.events import BatchDrawn, Observer, Outcome, ids_of, stages_of

if TYPE_CHECKING:
    from worker.shift import ShiftReport

JOBS_KEPT = 256


class Spans(Observer):
    """Makes the spans of one worker process; safe to be told by several threads."""

    def __init__(self, tracer: Tracer, database: Database) -> None:
        self._tracer, self._database = tracer, database
        self._lock = threading.Lock()
        self._units: dict[Claim, Span] = {}
        self._batches: dict[tuple[Claim, uuid.UUID], Span] = {}  # of each picture the batch it was drawn in last
        self._jobs: OrderedDict[tuple[str, uuid.UUID], str | None] = OrderedDict()

    def claimed(self, units: Sequence[ClaimedUnit]) -> None:
        for unit in units:
            more = {"attempt": unit.attempts, "waited_seconds": unit.waited_seconds, "profile": unit.profile}
            span = self._tracer.start_span(
                "unit",
                context=tracing.parent_of(self._traceparent(unit)),
                kind=SpanKind.CONSUMER,
                attributes=tracing.named({**ids_of(unit), **more}),
            )
            with self._lock:
                self._units[claim_of(unit)] = span

    def prepared(self, units: Sequence[ClaimedUnit], seconds: float, error: Exception | None) -> None:
        for unit in units:
            with self._past("weights", self._of(unit), seconds, {}) as span:
                _tell_fault(span, error)

    def batch_drawn(self, batch: BatchDrawn) -> None:
        told = {"batch": uuid.uuid4().hex[:12], "pictures": len(batch.renders), "places": batch.places}
        for unit in batch.units:
            own = [render for render in batch.renders if render.unit.id == unit.id]
            more = {**told, "mixed": batch.mixed, "own_pictures": len(own)}
            with self._past("batch", self._of(unit), batch.seconds, more) as span, self._lock:
                self._batches |= {(claim_of(unit), render.id): span for render in own}

    def picture_recorded(self, render: WaitingRender, row: DrawnRow, seconds_commit: float) -> None:
        stages = stages_of(row, seconds_commit)
        told: dict[str, Any] = {f"seconds_{name}": seconds for name, seconds in stages.items()}
        told |= {"size_bytes": row.size_bytes, "id_similarity": row.id_similarity, "draws": row.draws}
        behind = sum(stages.get(name, 0.0) for name in ("finish", "encode", "upload", "commit"))
        with self._past("picture", self._batch_of(render), behind, {"render": render.id, **told}) as span:
            after = {"upload": seconds_commit, "commit": 0.0}
            for name, seconds in (("upload", row.seconds_upload), ("commit", seconds_commit)):
                with self._past(name, span, seconds, {}, ended_ago=after[name]):
                    pass

    def picture_failed(self, render: WaitingRender, error: Exception) -> None:
        with self._past("picture", self._batch_of(render), 0.0, {"render": render.id}) as span:
            _tell_fault(span, error)

    def unit_settled(self, unit: ClaimedUnit, outcome: Outcome, error: Exception | None) -> None:
        claim = claim_of(unit)
        with self._lock:
            span = self._units.pop(claim, None)
            self._batches = {key: batch for key, batch in self._batches.items() if key[0] != claim}
        if span is None:
            return
        span.set_attributes(tracing.named({"outcome": outcome}))
        _tell_fault(span, error)
        if error is None and outcome in {"failed", "lost", "left"}:
            span.set_status(Status(StatusCode.ERROR, outcome))
        span.end()

    def shift_ended(self, report: ShiftReport | None) -> None:
        with self._lock:
            left, self._units, self._batches = list(self._units.values()), {}, {}
        for span in left:
            span.end()

    def _of(self, unit: ClaimedUnit) -> Span | None:
        with self._lock:
            return self._units.get(claim_of(unit))

    def _batch_of(self, render: WaitingRender) -> Span | None:
        with self._lock:
            batch = self._batches.get((claim_of(render.unit), render.id))
        return batch or self._of(render.unit)

    @contextmanager
    def _past(
        self, name: str, parent: Span | None, seconds: float, told: Mapping[str, Any], *, ended_ago: float = 0.0
    ) -> Iterator[Span]:
        """A span of something that ended just now, or so many seconds ago, and took so long."""
        ended = time.time_ns() - round(1e9 * ended_ago)
        context = tracing.parent_of(None) if parent is None else set_span_in_context(parent, tracing.parent_of(None))
        span = self._tracer.start_span(
            name, context=context, start_time=ended - round(1e9 * max(0.0, seconds)), attributes=tracing.named(told)
        )
        try:
            yield span
        finally:
            span.end(ended)

    def _traceparent(self, unit: ClaimedUnit) -> str | None:
        key = (unit.tenant_id, unit.job_id)
        with self._lock:
            if key in self._jobs:
                self._jobs.move_to_end(key)
                return self._jobs[key]
        with self._database.reading() as tx:
            found = job_rows.traceparent_of(tx, *key)
        with self._lock:
            self._jobs[key] = found
            while len(self._jobs) > JOBS_KEPT:
                self._jobs.popitem(last=False)
        return found


def _tell_fault(span: Span, error: Exception | None) -> None:
    """The code alone: a message may name a photo, a path or what somebody wrote."""
    if error is not None:
        span.set_attributes(tracing.named({"code": code_of(error)}))
        span.set_status(Status(StatusCode.ERROR, code_of(error)))
