"""One shift: a stretch of claiming and drawing many units under one Celery task.

1. claim the unit that the message names, and what else the same person waits for
2. obtain the person's weight set
3. merge it, draw full batches, hand pictures to the recorder; draw what follows from them (a small face again, another
   seed where the likeness is not reached)
4. settle the units: done, failed with a reason, or released for another try
5. go on with the next person until nothing waits, the time is up, or the worker is told to stop

Beside the drawing, in a thread each: the next person is claimed and prepared from the last batch of this one on, and
the person before is settled. So at most three are in hand, and the device waits for no photo and no commit.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from jobs.database import Database
from jobs.errors import JobsError
from jobs.repository import renders as render_rows
from jobs.repository import units as unit_rows
from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.settings import Settings
from jobs.storage import Storage
from worker.cast import Cast
from worker.errors import BatchAbandoned, OutOfMemory, code_of, is_retryable
from worker.leases import Leases
from worker.pictures import GivenPictures
from worker.plan import BatchKey, BatchSizes, batch_key, batches
from worker.recorder import Claim, Finished, Recorder, claim_of
from worker.renderer import Renderer
from worker.samples import Samples, setting_of, text_sample
from worker.trial import Draw, Trial
from worker.weights import WeightSets

log = logging.getLogger(__name__)
Todo = deque[tuple[BatchKey, list[Draw]]]


@dataclass
class Group:
    """The units of one person in hand, with all that drawing them needs; `fault` where that could not be had."""

    units: list[ClaimedUnit]
    waiting: list[WaitingRender] = field(default_factory=list)
    cast: Cast | None = None
    fault: Exception | None = None


@dataclass
class ShiftReport:
    """What one shift did; of its seconds those that went into drawing, and those in which nothing was drawn between."""

    units: int = 0
    renders: int = 0
    groups: int = 0
    batches: int = 0
    generated: int = 0
    seconds_drawing: float = 0.0
    seconds_between: float = 0.0
    handed_back: list[uuid.UUID] = field(default_factory=list)

    @property
    def idle_share(self) -> float:
        """The part of the time from the first batch to the last in which no batch was drawn, 0 to 1."""
        whole = self.seconds_drawing + self.seconds_between
        return self.seconds_between / whole if whole else 0.0


class Shift:
    """Claims and draws for one profile; one instance per Celery task."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        storage: Storage,
        renderer: Renderer,
        weight_sets: WeightSets,
        leases: Leases,
        recorder: Recorder,
        owner: str,
        *,
        sizes: BatchSizes,
        should_stop: Callable[[], bool],
    ) -> None:
        self._database, self._settings, self._storage, self._renderer = database, settings, storage, renderer
        self._pictures = GivenPictures(storage, settings)
        self._weight_sets, self._leases, self._recorder = weight_sets, leases, recorder
        self._owner, self._should_stop = owner, should_stop
        self._sizes = sizes
        self._most_begun = max(16, 4 * renderer.batch_size)
        self._unit_faults: dict[Claim, Exception] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._next: Future[Group] | None = None
        self._drawn_until: float | None = None
        self._ends_at = time.monotonic() + settings.shift_seconds
        self.report = ShiftReport()

    def run(self, unit_id: uuid.UUID) -> ShiftReport:
        """Draw the named unit's person, or the next if that one does not wait, and go on until the shift ends."""
        behind: Future[None] | None = None
        with self._ahead, ThreadPoolExecutor(1, thread_name_prefix="behind") as settling:
            group = self._open(self._claim_named(unit_id) or self._claim_next())
            while group.units:
                try:
                    self._draw_group(group)
                finally:
                    if behind is not None:
                        behind.result()
                    behind = settling.submit(self._settle_group, group)
                if self._is_over():
                    break
                group = self._taken_over() or self._open(self._claim_next())
            left = self._taken_over()
            if left is not None:
                self._settle_group(left)
            if behind is not None:
                behind.result()
        return self.report

    def _look_ahead(self) -> None:
        """Begin to claim and prepare the next person, once; not when no more will be drawn."""
        if self._next is None and not self._is_over():
            self._next = self._ahead.submit(lambda: self._open(self._claim_next()))

    def _taken_over(self) -> Group | None:
        """The person who was prepared ahead; None where nobody was."""
        ahead, self._next = self._next, None
        return None if ahead is None else ahead.result()

    def _is_over(self) -> bool:
        """Whether no further batch may begin: told to stop, or so late that the broker may take its message back.

        Every shift draws one batch at least, however short it is meant to be: else work would go round in circles.
        """
        return self._should_stop() or (self.report.batches > 0 and time.monotonic() > self._ends_at)

    def _claim_named(self, unit_id: uuid.UUID) -> list[ClaimedUnit]:
        return self._claim(
            lambda tx, **terms: unit_rows.claim_unit(tx, unit_id, self._renderer.profile, self._owner, **terms)
        )

    def _claim_next(self) -> list[ClaimedUnit]:
        return self._claim(
            lambda tx, **terms: unit_rows.claim_next(tx, self._renderer.profile, self._owner, limit=1, **terms)
        )

    def _claim(self, first: Callable[..., list[ClaimedUnit]]) -> list[ClaimedUnit]:
        """Lease one unit, and with it what waits for the same weight set in any job."""
        terms: dict[str, Any] = {
            "lease_seconds": self._settings.lease_seconds,
            "max_attempts": self._settings.max_attempts,
        }
        with self._database.transaction() as tx:
            claimed = first(tx, **terms)
            if claimed:
                room = self._settings.claim_units - len(claimed)
                claimed += unit_rows.claim_same_person(tx, claimed[0], self._owner, limit=room, **terms)
        self._leases.hold(claimed)
        return claimed

    def _open(self, units: list[ClaimedUnit]) -> Group:
        """What waits for these units' person, and the person's weights; a fault is told when the group is settled."""
        group = Group(units)
        if not units:
            return group
        try:
            with self._database.reading() as tx:
                group.waiting = render_rows.waiting(tx, units)
            group.cast = self._cast(units) if group.waiting else None
        except Exception as error:  # noqa: BLE001 - it becomes the units' fault, whatever it was
            _log_fault("a person could not be prepared", error)
            group.fault = error
        return group

    def _draw_group(self, group: Group) -> None:
        """Draw everything that waits for one person."""
        self.report.groups += 1
        if group.cast is None:
            return
        self.report.generated += group.cast.generated
        try:
            self._draw_all(group.cast, group.waiting)
        except Exception as error:  # noqa: BLE001 - it becomes the units' fault, whatever it was
            _log_fault("a person could not be drawn", error)
            group.fault = error

    def _settle_group(self, group: Group) -> None:
        """Settle the units when all their pictures are recorded, whatever happened."""
        for unit in group.units:
            recorded = self._recorder.wait_for(unit)
            self._settle(unit, recorded or self._unit_faults.pop(claim_of(unit), None) or group.fault)
        self.report.units += len(group.units)

    def _cast(self, group: Sequence[ClaimedUnit]) -> Cast | None:
        return Cast.obtain(group[0], self._weight_sets, self._pictures, lambda: self._wanted(group))

    def _wanted(self, group: Sequence[ClaimedUnit]) -> bool:
        return not self._is_over() and any(map(self._leases.holds, group))

    def _draw_all(self, cast: Cast, waiting: Sequence[WaitingRender]) -> None:
        """Draw, batch after batch, and what follows from the pictures, until nothing does.

        Only so many renders are begun before others are brought to their end: pictures in the making lie in memory,
        and are lost when the worker is stopped. When the shift's time is up no render is begun any more, but those that
        were begun are finished: else a gate with many seeds would go round in circles.
        """
        samples = Samples(self._renderer, self._storage, self._pictures, cast)
        share = max(1, len(waiting))
        first = self._planned(cast, [Trial(render).first() for render in self._readable(waiting)])
        following: list[Draw] = []
        try:
            while not self._should_stop():
                may_begin = bool(first) and not self._is_over() and self._recorder.begun < self._most_begun
                following += self._recorder.follow_ups(wait=not may_begin)
                planned = self._planned(cast, following)
                ripe = deque(pair for pair in planned if not may_begin or len(pair[1]) >= self._sizes.of(pair[0]))
                if ripe:
                    following = [draw for pair in planned if pair not in ripe for draw in pair[1]]
                    while ripe and not self._should_stop():
                        self._draw_next(cast, samples, ripe, share=share)
                elif may_begin:
                    if len(first) == 1:
                        self._look_ahead()
                    self._draw_next(cast, samples, first, share=share)
                else:
                    break
        finally:
            self._recorder.forget([*following, *self._recorder.follow_ups()])

    def _readable(self, waiting: Sequence[WaitingRender]) -> list[WaitingRender]:
        """The renders whose options this version knows; the others fail alone."""
        for render in waiting:
            if render.fault is not None:
                self._fail_alone(render, render.fault)
        return [render for render in waiting if render.fault is None]

    def _planned(self, cast: Cast, draws: Sequence[Draw]) -> Todo:
        """The drawings in batches; a text that cannot be read fails its render."""
        keys: dict[Draw, BatchKey] = {}
        side, people = self._renderer.detail_side(), len(cast.roles)
        for draw in draws:
            try:
                chunks = self._renderer.prompt_chunks(text_sample(draw))
                keys[draw] = batch_key(draw, chunks=chunks, detail_side=side, people=people)
            except Exception as error:  # noqa: BLE001 - it becomes the render's fault, whatever it was
                self._give_up(draw, cast, error)
        return deque(batches(list(keys), self._sizes, keys.__getitem__))

    def _draw_next(self, cast: Cast, samples: Samples, todo: Todo, *, share: int) -> None:
        """Draw the next batch.

        A batch that does not fit is cut smaller, and the worker remembers. A batch that meets another fault is cut in
        two until the drawing at fault stands alone: one bad render fails itself, not the person's other jobs.
        """
        key, batch = todo.popleft()
        lost = [draw for draw in batch if not self._may_draw(draw)]
        self._recorder.forget(lost)
        batch = [draw for draw in batch if draw not in lost]
        if not batch:
            return
        try:
            self._draw_batch(cast, samples, key, batch, seconds_weights=cast.seconds / share)
        except BatchAbandoned as error:
            log.info("%s", error)
            self._recorder.forget(batch)
        except OutOfMemory as error:
            fits = self._sizes.did_not_fit(key, len(batch))
            log.warning("out of memory with a batch of %d; going on with %d", len(batch), fits)
            if len(batch) == 1:
                self._give_up(batch[0], cast, error)
            else:
                keys = {draw: key for draw in batch} | {draw: other for other, left in todo for draw in left}
                todo.clear()
                todo.extend(batches(list(keys), self._sizes, keys.__getitem__))
        except Exception as error:  # noqa: BLE001 - it becomes the render's fault, whatever it was
            if len(batch) == 1:
                self._give_up(batch[0], cast, error)
            else:
                half = len(batch) // 2
                todo.extendleft([(key, batch[half:]), (key, batch[:half])])

    def _may_draw(self, draw: Draw) -> bool:
        unit = draw.render.unit
        return self._leases.holds(unit) and claim_of(unit) not in self._unit_faults

    def _give_up(self, draw: Draw, cast: Cast, error: Exception) -> None:
        """A drawing that cannot be made: its render fails, or goes without it where there is a picture already."""
        if draw.is_first:
            self._fail_alone(draw.render, error)
        else:
            _log_fault(f"what followed from render {draw.render.id} could not be drawn", error)
            self._recorder.add_failed(draw, cast)

    def _fail_alone(self, render: WaitingRender, error: Exception) -> None:
        """The one render at fault: failed with its reason, or its unit tried again later if that may help."""
        _log_fault(f"render {render.id} could not be drawn", error)
        if is_retryable(error):
            self._unit_faults[claim_of(render.unit)] = error
            return
        with self._database.transaction() as tx:
            render_rows.fail(tx, render, self._owner, error_code=code_of(error), error=_told(error))

    def _draw_batch(
        self, cast: Cast, samples: Samples, key: BatchKey, batch: Sequence[Draw], *, seconds_weights: float
    ) -> None:
        def on_step(_step: int, _steps: int) -> None:
            if not any(self._leases.holds(draw.render.unit) for draw in batch):
                raise BatchAbandoned

        asked = [samples.of(draw, key) for draw in batch]
        setting = setting_of(key, cast)
        stack = cast.merged(key)
        began = time.monotonic()
        merging = self._renderer.apply(stack)
        drawn = self._renderer.draw(asked, setting, on_step=on_step)
        self._count_time(began)
        self.report.batches += 1
        self.report.renders += sum(draw.is_first for draw in batch)
        for draw, sample, image in zip(batch, asked, drawn.images, strict=True):
            self._recorder.add(
                Finished(
                    draw=draw,
                    image=image,
                    cast=cast,
                    batch_size=len(batch),
                    seconds_weights=seconds_weights,
                    seconds_merge=merging / len(batch),
                    seconds_denoise=drawn.seconds_denoise / len(batch),
                    seconds_decode=drawn.seconds_decode / len(batch),
                    mask=sample.mask,
                )
            )

    def _count_time(self, began: float) -> None:
        ended = time.monotonic()
        self.report.seconds_drawing += ended - began
        if self._drawn_until is not None:
            self.report.seconds_between += began - self._drawn_until
        self._drawn_until = ended

    def _settle(self, unit: ClaimedUnit, fault: Exception | None) -> None:
        """End a unit that met a fault, or hand it back; one without a fault was settled by its last picture.

        Whatever is raised here, the lease is let go: it runs out, and somebody else takes the unit.
        """
        try:
            if self._leases.holds(unit):
                with self._database.transaction() as tx:
                    self._settle_held(tx, unit, fault)
        except JobsError as error:
            log.warning("unit %s is left to its lease: %s", unit.id, error)
        finally:
            self._leases.let_go(unit)

    def _settle_held(self, tx: Connection, unit: ClaimedUnit, fault: Exception | None) -> None:
        owner = self._owner
        if fault is None:
            unit_rows.recount(tx, unit, owner)
            if unit_rows.release(tx, unit, owner, give_attempt_back=True):
                self.report.handed_back.append(unit.id)
            return
        code, told = code_of(fault), _told(fault)
        if is_retryable(fault) and unit.attempts < self._settings.max_attempts:
            unit_rows.release(
                tx, unit, owner, after_seconds=self._wait_before(unit.attempts + 1), error_code=code, error=told
            )
        else:
            unit_rows.fail(tx, unit, owner, error_code=code, error=told)

    def _wait_before(self, attempt: int) -> float:
        """Doubling waits with jitter, so that units that failed together do not come back together."""
        return self._settings.retry_seconds * 2.0 ** (attempt - 2) * random.uniform(0.75, 1.25)


def _log_fault(what: str, error: Exception) -> None:
    """Our own errors speak for themselves; of foreign ones the log keeps the traceback."""
    if _expected(error):
        log.info("%s: %s", what, error)
    else:
        log.error("%s: %s", what, error, exc_info=error)


def _expected(error: Exception) -> bool:
    return isinstance(error, JobsError) or code_of(error) != "internal"


def _told(error: Exception) -> str:
    """What the row says: our own errors speak for themselves, foreign ones are named by type, without their text.

    A foreign text may hold a path, an address or a secret; the worker's log has it.
    """
    return str(error) if _expected(error) else f"unforeseen {type(error).__name__}; the worker's log has the traceback"
