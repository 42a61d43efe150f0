"""One shift: a stretch of claiming and drawing many units under one Celery task.

1. claim the unit that the message names, and what else the same person waits for
2. where that person's pictures would leave a batch half empty, and the device draws people together cheaply, claim the
   next ones too, until a batch is full
3. obtain their weight sets, in one pass over the networks
4. draw them (see `worker.drawing`), and while their last pictures are looked at, those who come next
5. settle the units: done, failed with a reason, or released for another try
6. go on with the next people until nothing waits, the time is up, or the worker is told to stop

Beside the drawing, in a thread each: the next people are claimed and prepared from the last batch of these on, one hand
of them at most, and those who are finished are settled. So the device waits for no photo, no judgement and no commit.

But for a unit that a worker was lost with: it is claimed when everything else is settled, and nothing beside it. Should
it end this process too, it costs no other unit anything, and what it is blamed with is its own.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection

from jobs import logs
from jobs.database import Database
from jobs.errors import JobsError
from jobs.repository import late
from jobs.repository import renders as render_rows
from jobs.repository import units as unit_rows
from jobs.repository.units import ClaimedUnit
from jobs.settings import Settings
from jobs.storage import Storage
from worker.begun import claim_of
from worker.cast import Cast
from worker.costs import Costs
from worker.drawing import Drawer, log_fault, told_of
from worker.drawn import Drawn
from worker.errors import PeopleOutOfMemory, code_of, is_retryable
from worker.groups import Group
from worker.leases import Leases
from worker.pictures import GivenPictures
from worker.plan import BatchSizes, has_room
from worker.preparing import Preparing
from worker.recorder import Recorder
from worker.renderer import Renderer
from worker.samples import Samples
from worker.telemetry.events import NOBODY, Observer, Outcome, ids_of
from worker.weights import WeightSets

log = logging.getLogger(__name__)
MOST_HANDS = 4
"""Hands that were begun and are not settled: the one that is drawn, and those whose pictures are judged or stored."""


@dataclass
class ShiftReport:
    """What one shift did.

    `groups` are people who were begun; `seconds_preparing` are those of reading what waits for them and of their
    weights, most of them beside the drawing; `ran_dry` says that it ended because nobody waited any more.
    """

    units: int = 0
    groups: int = 0
    generated: int = 0
    seconds_preparing: float = 0.0
    ran_dry: bool = False
    handed_back: list[uuid.UUID] = field(default_factory=list)
    drawn: Drawn = field(default_factory=Drawn)

    @property
    def renders(self) -> int:
        """Pictures that were begun."""
        return self.drawn.renders

    @property
    def batches(self) -> int:
        """Batches that were drawn."""
        return self.drawn.batches

    @property
    def idle_share(self) -> float:
        """The part of the time from the first batch to the last in which no batch was drawn, 0 to 1."""
        return self.drawn.idle_share

    def row(self) -> dict[str, Any]:
        """The columns of `shifts` that a shift knows itself."""
        counts = ("renders", "pictures", "places", "batches", "mixed")
        seconds = ("seconds_drawing", "seconds_between", "seconds_before")
        return {name: getattr(self.drawn, name) for name in (*counts, *seconds)} | {
            "units": self.units,
            "people": self.groups,
            "generated": self.generated,
            "batch_sizes": {str(size): count for size, count in sorted(self.drawn.sizes.items())},
            "ran_dry": self.ran_dry,
            "seconds_preparing": self.seconds_preparing,
        }


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
        costs: Costs | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        """Without `costs` no batch holds several people."""
        self._observer = observer
        self._database, self._settings, self._storage, self._renderer = database, settings, storage, renderer
        self._pictures = GivenPictures(storage, settings)
        self._weight_sets, self._leases, self._recorder = weight_sets, leases, recorder
        self._owner, self._should_stop, self._costs = owner, should_stop, costs
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._settling: list[Future[None]] = []
        self._next: Future[list[Group]] | None = None
        self._hands: list[list[Group]] = []
        self._aside: list[Group] = []  # claimed, but to be prepared with nobody else in the making
        self.preparing = Preparing()
        self._ends_at = time.monotonic() + settings.shift_seconds
        self._drawer = Drawer(
            database,
            renderer,
            recorder,
            leases,
            owner,
            sizes=sizes,
            costs=costs,
            should_stop=should_stop,
            is_over=self._is_over,
            people=self,
            observer=observer,
        )
        self.report = ShiftReport(drawn=self._drawer.drawn)

    def run(self, unit_id: uuid.UUID) -> ShiftReport:
        """Draw the named unit's person, or the next if that one does not wait, and go on until the shift ends."""
        with self._ahead, self._behind:
            try:
                hand = self._take(self._claim_named(unit_id) or self._claim_next())
                while hand:
                    self._draw(hand)
                    if self._is_over():
                        break
                    hand = self._taken_over() or self._take(self._claim_after())
                else:
                    self.report.ran_dry = not self._is_over() and self._recorder.may_claim(lambda: True)
            finally:
                self._settle_soon([*self._left_ahead(), *self._aside])
            for settling in self._settling:
                settling.result()
        return self.report

    def near_end(self) -> None:
        """Begin to claim and prepare the next people, once; not when no more will be drawn, and nobody beside a
        suspected unit.
        """
        if self._holds_suspected():
            return
        if self._next is None and not self._aside and not self._is_over():
            self._next = self._ahead.submit(self._take_ahead)
            self._next.add_done_callback(lambda _: self._recorder.begun.nudge())

    def _take_ahead(self) -> list[Group]:
        return self._take(self._claim_next(beside_others=True), beside_others=True)

    def join(self) -> list[Group]:
        """The people who were prepared ahead, as soon as they are and there is room for them."""
        self.near_end()
        if not self._is_ready() or not self._has_room_for_a_hand():
            return []
        return self._begun(self._ahead_of_time())

    def is_coming(self) -> bool:
        """Whether somebody is being prepared, or waits for room."""
        return self._next is not None and not self._is_over() and (not self._next.done() or self._is_ready())

    def finished(self, group: Group) -> None:
        """Settle a person's units beside the drawing."""
        self._settle_soon([group])

    def _is_ready(self) -> bool:
        """Whether people were prepared ahead who may be begun beside others; a fault of claiming them is raised later,
        when nobody is in hand whose fault it might be taken for.
        """
        if self._next is None or not self._next.done() or self._next.exception() is not None or self._is_over():
            return False
        return bool(self._next.result())

    def _has_room_for_a_hand(self) -> bool:
        return len(self._unsettled()) < MOST_HANDS

    def _unsettled(self) -> list[list[Group]]:
        return [hand for hand in self._hands if not all(group.is_settled for group in hand)]

    def _holds_suspected(self) -> bool:
        return any(group.is_suspected for hand in self._unsettled() for group in hand)

    def _begun(self, hand: list[Group]) -> list[Group]:
        self._hands = [*self._unsettled(), hand]
        self.report.groups += len(hand)
        self.report.generated += sum(group.cast.generated for group in hand if group.cast is not None)
        return hand

    def _taken_over(self) -> list[Group]:
        """The people who were prepared ahead, else who was set aside, prepared now; none where nobody was."""
        hand = self._ahead_of_time()
        if not hand and self._aside:  # asked in this order: who comes next may have been set aside a moment ago
            hand = [self._aside.pop(0)]
            self._prepare(hand)
        return hand

    def _ahead_of_time(self) -> list[Group]:
        """The people who were prepared ahead; none where they could not be claimed, as they are then claimed anew."""
        ahead, self._next = self._next, None
        try:
            return [] if ahead is None else ahead.result()
        except JobsError as error:
            log.warning("nobody could be claimed ahead of time: %s", error)
            return []

    def _left_ahead(self) -> list[Group]:
        """The same at the end of the shift, which has its own outcome: no fault of theirs takes its place."""
        try:
            return self._ahead_of_time()
        except Exception as error:  # noqa: BLE001 - their units are left to their leases
            log_fault("people could not be made ready ahead of time", error)
            return []

    def _is_over(self) -> bool:
        """Whether no further batch may begin: told to stop, or so late that the broker may take its message back.

        Every shift draws one batch at least, however short it is meant to be: else work would go round in circles.
        """
        return self._should_stop() or (self.report.batches > 0 and time.monotonic() > self._ends_at)

    def _is_late(self) -> bool:
        return self._should_stop() or time.monotonic() > self._ends_at

    def _claim_named(self, unit_id: uuid.UUID) -> list[ClaimedUnit]:
        return self._claim(
            lambda tx, **terms: unit_rows.claim_unit(tx, unit_id, self._renderer.profile, self._owner, **terms)
        )

    def _claim_next(self, *, beside_others: bool = False) -> list[ClaimedUnit]:
        profile = self._renderer.profile
        return self._claim(
            lambda tx, **limits: unit_rows.claim_next(
                tx, profile, self._owner, limit=1, beside_others=beside_others, **limits
            )
        )

    def _claim_after(self) -> list[ClaimedUnit]:
        """Claim when nobody is drawn any more: what may be held beside the units that are being settled, else whatever
        comes next, when they are.
        """
        others = bool(self._unsettled())  # asked once: they may be settled before the claim has its answer
        units = [] if self._holds_suspected() else self._claim_next(beside_others=others)
        if units or not others:
            return units
        for settling in self._settling:
            settling.result()
        return [] if self._is_over() else self._claim_next()

    def _claim(self, first: Callable[..., list[ClaimedUnit]]) -> list[ClaimedUnit]:
        """Lease one unit, and with it what waits for the same weight set in any job; none while the store is away."""
        if not self._recorder.may_claim(self._is_late):
            return []
        terms: dict[str, Any] = {
            "lease_seconds": self._settings.lease_seconds,
            "max_attempts": self._settings.max_attempts,
            "max_lost_workers": self._settings.max_lost_workers,
        }
        with self._database.transaction() as tx:
            claimed = first(tx, **terms)
            if claimed:
                room = self._settings.claim_units - len(claimed)
                claimed += unit_rows.claim_same_person(tx, claimed[0], self._owner, limit=room, **terms)
        self._leases.hold(claimed)
        if claimed:
            self._observer.claimed(claimed)
        return claimed

    def _take(self, units: list[ClaimedUnit], *, beside_others: bool = False) -> list[Group]:
        """These units' person, and others as long as there is room in a batch that they would share."""
        hand: list[Group] = []
        while units:
            hand.append(self._open(units))
            if self._is_over() or not self._has_room(hand) or not self._recorder.may_claim(lambda: True):
                break
            try:
                units = self._claim_next(beside_others=True)
            except JobsError as error:  # those in hand are drawn all the same
                log.warning("nobody else could be claimed: %s", error)
                break
        self._prepare(hand)
        return self._without_cramped(hand) if beside_others else hand

    def _without_cramped(self, hand: list[Group]) -> list[Group]:
        """Set those aside whose photos did not fit beside the drawing: they are tried again when nobody is drawn, and
        only then is it their fault.
        """
        cramped = [group for group in hand if isinstance(group.fault, PeopleOutOfMemory)]
        for group in cramped:
            group.fault = None
        self._aside += cramped
        return [group for group in hand if group not in cramped]

    def _has_room(self, hand: Sequence[Group]) -> bool:
        """Whether left-over pictures of these people would be much cheaper in batches that others fill up."""
        size, last = self._renderer.batch_size, hand[-1].waiting
        if self._costs is None or not last or hand[-1].is_suspected:
            return False
        counts, render = [len(group.waiting) for group in hand], last[0]
        return has_room(counts, size, render.steps, render.width * render.height, self._costs)

    def _open(self, units: list[ClaimedUnit]) -> Group:
        """What waits for these units' person; a fault is told when the group is settled."""
        group = Group(units)
        try:
            with self._database.reading() as tx:
                group.waiting = render_rows.waiting(tx, units)
        except Exception as error:  # noqa: BLE001 - it becomes the units' fault, whatever it was
            log_fault("what waits for a person could not be read", error)
            group.fault = error
        return group

    def _prepare(self, groups: Sequence[Group]) -> None:
        """Everybody's weights, made together; whose cannot be had is told when the group is settled."""
        began = time.monotonic()
        able = [group for group in groups if group.waiting]
        wanted = [(group.units[0], partial(self._wanted, group.units)) for group in able]
        with self.preparing.one():
            casts = Cast.obtain_many(wanted, self._weight_sets, self._pictures)
        for group, cast in zip(able, casts, strict=True):
            fault = cast if isinstance(cast, Exception) else None
            self._observer.prepared(group.units, time.monotonic() - began, fault)
            if isinstance(cast, PeopleOutOfMemory):
                self._observer.out_of_memory("people", len(group.waiting))
            if isinstance(cast, Exception):
                with logs.about(**ids_of(group.units[0])):
                    log_fault("a person could not be prepared", cast)
                self._recorder.suspect(cast)
                group.fault = cast
            elif cast is not None:
                group.cast = cast
                group.samples = Samples(self._renderer, self._storage, self._pictures, cast)
        self.report.seconds_preparing += time.monotonic() - began

    def _draw(self, hand: list[Group]) -> None:
        """Draw everything that waits for these people, and for those who join them."""
        try:
            self._drawer.begin(self._begun(hand))
            self._drawer.draw()
        except Exception as error:  # noqa: BLE001 - it becomes the units' fault, whatever it was
            log_fault("people could not be drawn", error)
            for group in self._drawer.groups:
                group.fault = group.fault or error
        finally:
            self._settle_soon(self._drawer.give_back())

    def _settle_soon(self, groups: Sequence[Group]) -> None:
        """Settle these people's units in the thread behind, in turn."""
        for group in groups:
            group.let_go()
        self._settling.append(self._behind.submit(self._settle_all, groups))

    def _settle_all(self, groups: Sequence[Group]) -> None:
        """Settle the units when all their pictures are recorded, whatever happened."""
        for group in groups:
            for unit in group.units:
                recorded = self._recorder.wait_for(unit)
                self._settle(unit, recorded or self._drawer.faults.pop(claim_of(unit), None) or group.fault)
            self.report.units += len(group.units)
            group.is_settled = True
            self._recorder.begun.nudge()

    def _wanted(self, group: Sequence[ClaimedUnit]) -> bool:
        return not self._is_over() and any(map(self._leases.holds, group))

    def _settle(self, unit: ClaimedUnit, fault: Exception | None) -> None:
        """End a unit that met a fault, or hand it back; one without a fault was settled by its last picture.

        Whatever is raised here, the lease is let go: it runs out, and somebody else takes the unit.
        """
        outcome: Outcome = "left"
        failed = 0
        try:
            if self._leases.holds(unit):
                with self._database.transaction() as tx:
                    open_before = unit_rows.open_renders(tx, unit) if fault is not None else 0
                    became = self._settle_held(tx, unit, fault)
                # Told when it is committed: until then the unit may be left to its lease.
                outcome, failed = became, open_before if became in {"done", "failed"} else 0
            else:
                with self._database.reading() as tx:
                    outcome = unit_rows.became(tx, unit)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other units are settled
            log_fault(f"unit {unit.id} is left to its lease", error)
        finally:
            self._leases.let_go(unit)
        if fault is not None and failed:
            self._observer.pictures_failed(unit, failed, fault)
        self._observer.unit_settled(unit, outcome, fault)

    def _settle_held(self, tx: Connection, unit: ClaimedUnit, fault: Exception | None) -> Outcome:
        owner = self._owner
        put_off = self._put_off(tx, unit)
        if put_off:
            late.put_off(tx, unit, owner, after_seconds=put_off)
            return "put off"
        if fault is None:
            unit_rows.recount(tx, unit, owner)
            if unit_rows.release(tx, unit, owner, give_attempt_back=True):
                self.report.handed_back.append(unit.id)
                return "handed back"
            return unit_rows.became(tx, unit)
        code, told = code_of(fault), told_of(fault)
        if self._recorder.is_outage(fault):  # whoever claims it next waits for the store first
            unit_rows.release(tx, unit, owner, give_attempt_back=True, error_code=code, error=told)
            return "handed back"
        if is_retryable(fault) and unit.attempts < self._settings.max_attempts:
            wait = self._wait_before(unit.attempts + 1)
            unit_rows.release(tx, unit, owner, after_seconds=wait, error_code=code, error=told)
            return "retried"
        unit_rows.fail(tx, unit, owner, error_code=code, error=told)
        return unit_rows.became(tx, unit)

    def _put_off(self, tx: Connection, unit: ClaimedUnit) -> float:
        """For how long the unit is left to the pictures of it that were put aside here, asked under its lock."""
        return self._recorder.put_off_seconds(unit) if unit_rows.lock_held(tx, unit, self._owner) else 0.0

    def _wait_before(self, attempt: int) -> float:
        """Doubling waits with jitter, so that units that failed together do not come back together."""
        return self._settings.retry_seconds * 2.0 ** (attempt - 2) * random.uniform(0.75, 1.25)
