"""Draws people: batch after batch, and what follows from the pictures, until nothing does.

While the last pictures of some are looked at, those who come next are begun, and what follows from the former is drawn
in between: in full batches where it fills them, and no later than when nothing else may be begun.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from jobs.database import Database
from jobs.errors import JobsError
from jobs.repository import renders as render_rows
from jobs.repository.renders import WaitingRender
from worker.begun import Claim, News, claim_of
from worker.cast import Cast
from worker.costs import Costs
from worker.drawn import Drawn
from worker.errors import BatchAbandoned, OutOfMemory, code_of, is_retryable
from worker.groups import Group
from worker.leases import Leases
from worker.plan import BatchKey, BatchSizes, Planned, batch_key, batches
from worker.preparing import Preparing
from worker.recorder import Finished, Recorder
from worker.renderer import Batch, Renderer, Sample
from worker.samples import setting_of, text_sample
from worker.telemetry.events import NOBODY, BatchDrawn, Observer
from worker.trial import Draw, Trial

log = logging.getLogger(__name__)
Todo = deque[Planned]


class People(Protocol):
    """Where people come from and go to; it wakes the drawer (`Begun.nudge`) when somebody may have come."""

    preparing: Preparing

    def near_end(self) -> None:
        """The last batch that may begin without others is about to be drawn: see to it that some are there then."""

    def join(self) -> Sequence[Group]:
        """Who is begun now, beside those in the making; nobody where nobody is ready."""

    def is_coming(self) -> bool:
        """Whether it helps to wait for somebody who joins."""

    def finished(self, group: Group) -> None:
        """Everything of this person is decided; what is left is to record it."""


class Drawer:
    """Draws for one shift; used by one thread."""

    def __init__(
        self,
        database: Database,
        renderer: Renderer,
        recorder: Recorder,
        leases: Leases,
        owner: str,
        *,
        sizes: BatchSizes,
        costs: Costs | None,
        should_stop: Callable[[], bool],
        is_over: Callable[[], bool],
        people: People,
        observer: Observer = NOBODY,
    ) -> None:
        """`is_over` says that no render may be begun any more."""
        self._database, self._renderer, self._recorder, self._leases = database, renderer, recorder, leases
        self._owner, self._sizes, self._costs = owner, sizes, costs
        self._should_stop, self._is_over, self._people = should_stop, is_over, people
        self._observer = observer
        self._most_begun = max(16, 4 * renderer.batch_size)
        self._group_of: dict[Claim, Group] = {}
        self._first: Todo = deque()
        self._following: dict[Draw, BatchKey] = {}
        self.faults: dict[Claim, Exception] = {}
        """Faults of units that may pass: whoever settles the unit takes its own out."""
        self.drawn = Drawn()

    @property
    def groups(self) -> list[Group]:
        """The people in the making."""
        return list(dict.fromkeys(self._group_of.values()))

    def begin(self, hand: Sequence[Group]) -> None:
        """Take these people in when nobody is left to begin: everything that waits for them is to be drawn."""
        self._group_of |= {claim_of(unit): group for group in hand for unit in group.units}
        able = [group for group in hand if group.cast is not None]
        waiting = [render for group in able for render in self._readable(group.waiting)]
        keys = self._keys_of([Trial(render).first() for render in waiting])
        self._first = self._cut(keys)

    def draw(self) -> None:
        """Draw everything that waits for the people in hand and for those who join them.

        Only so many renders are begun before others are brought to their end: pictures in the making lie in memory,
        and are lost when the worker is stopped. When the shift's time is up no render is begun any more, but those that
        were begun are finished: else a gate with many seeds would go round in circles.
        """
        ripe: Todo = deque()
        try:
            while not self._should_stop():
                news = self._recorder.begun.look()
                self._following |= self._keys_of(news.follow_ups)
                self._let_go()
                if self._has_joined():
                    continue
                may_begin = self._may_begin()
                ripe = self._ripe(news, may_begin)
                if ripe:
                    while ripe and not self._should_stop():
                        self._draw_next(ripe)
                elif may_begin:
                    if len(self._first) == 1:
                        self._people.near_end()
                    self._draw_next(self._first)
                elif news.unjudged or self._people.is_coming():
                    self._recorder.begun.wait(news.number)
                else:
                    break
        finally:
            left = [draw for batch in ripe for draw in batch.draws]
            self._recorder.forget([*self._following, *left, *self._recorder.begun.look().follow_ups])
            self._following = {}

    def give_back(self) -> list[Group]:
        """The people who are not finished: nothing more of them is drawn here."""
        groups = self.groups
        self._group_of, self._first = {}, deque()
        return groups

    def _has_joined(self) -> bool:
        hand = [] if self._first else self._people.join()
        if hand:
            self.begin(hand)
        return bool(hand)

    def _may_begin(self) -> bool:
        return bool(self._first) and not self._is_over() and len(self._recorder.begun) < self._most_begun

    def _let_go(self) -> None:
        """Hand on who is finished: nothing of them is to be drawn, and nothing is undecided."""
        drawings = [*self._following, *(draw for batch in self._first for draw in batch.draws)]
        busy = self._recorder.begun.claims() | {claim_of(draw.render.unit) for draw in drawings}
        for group in self.groups:
            claims = [claim_of(unit) for unit in group.units]
            if busy.isdisjoint(claims):
                for claim in claims:
                    del self._group_of[claim]
                self._people.finished(group)

    def _ripe(self, news: News, may_begin: bool) -> Todo:
        """Take out the batches of follow-ups that are to be drawn now."""
        if not self._following:
            return deque()
        waiting = {claim_of(draw.render.unit) for b in self._first for draw in b.draws} if may_begin else set()
        growing = [self._group_of[claim] for claim in waiting | news.unjudged if claim in self._group_of]
        planned = self._cut(self._following)
        ripe = deque(batch for batch in planned if self._is_ripe(batch, growing))
        for batch in ripe:
            for draw in batch.draws:
                del self._following[draw]
        return ripe

    def _is_ripe(self, batch: Planned, growing: Sequence[Group]) -> bool:
        """Whether a batch is full, or nothing that would fill it up can come from these people."""
        size, key, count = self._sizes.of(batch.key), batch.key, len(batch.draws)
        if count >= size or not growing:
            return True
        if batch.mixed or (
            self._costs is not None
            and key.shared is not None
            and self._costs.pays(count, size, key.steps, key.width * key.height)
        ):
            return False
        return self._group(batch.draws[0]) not in growing

    def _readable(self, waiting: Sequence[WaitingRender]) -> list[WaitingRender]:
        """The renders whose options this version knows; the others fail alone."""
        for render in waiting:
            if render.fault is not None:
                self._fail_alone(render, render.fault)
        return [render for render in waiting if render.fault is None]

    def _keys_of(self, draws: Sequence[Draw]) -> dict[Draw, BatchKey]:
        """The drawings with what must be equal in their batches; a text that cannot be read fails its render."""
        keys: dict[Draw, BatchKey] = {}
        side = self._renderer.detail_side()
        for draw in draws:
            try:
                chunks = self._renderer.prompt_chunks(text_sample(draw))
                people = len(self._cast_of(draw).roles)
                keys[draw] = batch_key(draw, chunks=chunks, detail_side=side, people=people)
            except Exception as error:  # noqa: BLE001 - it becomes the render's fault, whatever it was
                self._give_up(draw, error)
        return keys

    def _cut(self, keys: dict[Draw, BatchKey]) -> Todo:
        numbers = {id(group): number for number, group in enumerate(self.groups)}

        def person_of(draw: Draw) -> int:
            return numbers[id(self._group(draw))]

        return deque(batches(list(keys), self._sizes, keys.__getitem__, person_of, self._costs))

    def _group(self, draw: Draw) -> Group:
        return self._group_of[claim_of(draw.render.unit)]

    def _cast_of(self, draw: Draw) -> Cast:
        cast = self._group(draw).cast
        assert cast is not None
        return cast

    def _draw_next(self, todo: Todo) -> None:
        """Draw the next batch.

        A batch that does not fit is cut smaller, and the worker remembers. A batch that meets another fault is cut in
        two until the drawing at fault stands alone: one bad render fails itself, not the person's other jobs.
        """
        batch = todo.popleft()
        lost = [draw for draw in batch.draws if not self._may_draw(draw)]
        self._recorder.forget(lost)
        batch = batch.only([draw for draw in batch.draws if draw not in lost])
        count = len(batch.draws)
        if not count:
            return
        try:
            self._draw_with_room(batch)
            self._sizes.did_fit(batch.key, count)
        except BatchAbandoned as error:
            log.info("%s", error)
            gone = [draw for draw in batch.draws if not self._may_draw(draw)] if batch.mixed else []
            self._recorder.forget(gone or batch.draws)
            if gone:  # the others wanted nothing of it
                todo.appendleft(batch.only([draw for draw in batch.draws if draw not in gone]))
        except OutOfMemory as error:
            self._observer.out_of_memory("batch", count)
            fits = self._sizes.did_not_fit(batch.key, count)
            log.warning("out of memory with a batch of %d; going on with %d", count, fits)
            if count == 1:
                self._give_up(batch.draws[0], error)
            else:
                left = [batch, *todo]
                todo.clear()
                todo.extend(self._cut({draw: key for b in left for draw, key in b.pairs}))
        except Exception as error:  # noqa: BLE001 - it becomes the render's fault, whatever it was
            if count == 1:
                self._give_up(batch.draws[0], error)
            else:
                todo.extendleft(reversed(batch.halves()))

    def _may_draw(self, draw: Draw) -> bool:
        unit = draw.render.unit
        return draw.trial.is_open and self._leases.holds(unit) and claim_of(unit) not in self.faults

    def _give_up(self, draw: Draw, error: Exception) -> None:
        """A drawing that cannot be made: its render fails, or goes without it where there is a picture already."""
        if draw.is_first:
            self._fail_alone(draw.render, error)
        else:
            log_fault(f"what followed from render {draw.render.id} could not be drawn", error)
            self._recorder.add_failed(draw, self._cast_of(draw))

    def _fail_alone(self, render: WaitingRender, error: Exception) -> None:
        """The one render at fault: failed with its reason, or its unit tried again later if that may help."""
        log_fault(f"render {render.id} could not be drawn", error)
        if is_retryable(error):
            self.faults[claim_of(render.unit)] = error
            return
        try:
            with self._database.transaction() as tx:
                render_rows.fail(tx, render, self._owner, error_code=code_of(error), error=told_of(error))
        except JobsError as away:  # the reason could not be written: the unit is tried again
            self.faults[claim_of(render.unit)] = away
            return
        self._observer.picture_failed(render, error)

    def _draw_with_room(self, batch: Planned) -> None:
        """Draw; a batch that does not fit beside people who are prepared is tried once more when they are.

        Else what both need together would be taken for what such a batch needs, and remembered.
        """
        ended = self._people.preparing.ended
        try:
            self._draw_batch(batch)
            return
        except OutOfMemory:
            if not self._people.preparing.was_beside(ended):
                raise
            log.warning("out of memory with a batch of %d beside people who were prepared; again", len(batch.draws))
        self._draw_batch(batch)

    def _draw_batch(self, batch: Planned) -> None:
        self._observer.batch_began(len(batch.draws))
        asked, before = [self._sample(draw, key) for draw, key in batch.pairs], self.drawn.seconds_drawing
        merging, drawn = self._draw_mixed(batch, asked) if batch.mixed else self._draw_merged(batch, asked)
        count = len(batch.draws)
        firsts = sum(draw.is_first for draw in batch.draws)
        places = self._sizes.of(batch.key)
        self.drawn.add_batch(count, places, firsts=firsts, mixed=batch.mixed)
        renders, seconds = [draw.render for draw in batch.draws], self.drawn.seconds_drawing - before
        self._observer.batch_drawn(BatchDrawn(renders, places, batch.mixed, seconds, self.drawn))
        for draw, sample, image in zip(batch.draws, asked, drawn.images, strict=True):
            self._recorder.add(
                Finished(
                    draw=draw,
                    image=image,
                    cast=self._cast_of(draw),
                    batch_size=count,
                    seconds_weights=self._group(draw).seconds_weights,
                    seconds_merge=merging / count,
                    seconds_denoise=drawn.seconds_denoise / count,
                    seconds_decode=drawn.seconds_decode / count,
                    mask=sample.mask,
                )
            )

    def _sample(self, draw: Draw, key: BatchKey) -> Sample:
        samples = self._group(draw).samples
        assert samples is not None
        return samples.of(draw, key)

    def _draw_merged(self, batch: Planned, asked: Sequence[Sample]) -> tuple[float, Batch]:
        """One person's pictures: merging takes the first number of seconds."""
        cast = self._cast_of(batch.draws[0])
        setting, stack = setting_of(batch.key, cast), cast.merged(batch.key)
        began = time.monotonic()
        merging = self._renderer.apply(stack)
        drawn = self._renderer.draw(asked, setting, on_step=self._watching(batch))
        self.drawn.add_time(began)
        return merging, drawn

    def _draw_mixed(self, batch: Planned, asked: Sequence[Sample]) -> tuple[float, Batch]:
        """Several people's pictures, each with LoRAs of its own; nothing is merged."""
        stacks = [self._cast_of(draw).merged(key) for draw, key in batch.pairs]
        setting = setting_of(batch.key, self._cast_of(batch.draws[0]))
        began = time.monotonic()
        drawn = self._renderer.draw(asked, setting, stacks=stacks, on_step=self._watching(batch))
        self.drawn.add_time(began)
        return 0.0, drawn

    def _watching(self, batch: Planned) -> Callable[[int, int], None]:
        def on_step(_step: int, _steps: int) -> None:
            if not any(self._leases.holds(draw.render.unit) for draw in batch.draws):
                raise BatchAbandoned

        return on_step


def log_fault(what: str, error: Exception) -> None:
    """Our own errors speak for themselves; of foreign ones the log keeps the traceback."""
    if _expected(error):
        log.info("%s: %s", what, error)
    else:
        log.error("%s: %s", what, error, exc_info=error)


def told_of(error: Exception) -> str:
    """What the row says: our own errors speak for themselves, foreign ones are named by type, without their text.

    A foreign text may hold a path, an address or a secret; the worker's log has it.
    """
    return str(error) if _expected(error) else f"unforeseen {type(error).__name__}; the worker's log has the traceback"


def _expected(error: Exception) -> bool:
    return isinstance(error, JobsError) or code_of(error) != "internal"
