"""What one worker process holds from its first shift on: a database, a store, and one loaded profile."""

from __future__ import annotations

import datetime as dt
import gc
import logging
import multiprocessing
import os
import platform
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from jobs import logs
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, JobsError
from jobs.orm import utcnow
from jobs.profiles import Profile, find_profile, load_profiles
from jobs.repository import drain, fleet
from jobs.repository import units as unit_rows
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.aside import Outages
from worker.breaker import Breaker
from worker.costs import Costs, load_costs, name_of
from worker.errors import MarkingBroken, SpoolFull, SpoolUnusable
from worker.forgetting import Forgetter, Minder
from worker.leases import Leases, end_this_process
from worker.lessons import Lessons
from worker.marking.marker import Marker
from worker.plan import BatchKey, BatchSizes
from worker.recorder import Recorder
from worker.renderer import Renderer
from worker.shift import Shift, ShiftReport
from worker.spool import Spool
from worker.telemetry.observing import observer_of
from worker.telemetry.use import DeviceUse
from worker.version import package_version
from worker.watchdog import Watchdog, Watched
from worker.weights import WeightSets

log = logging.getLogger(__name__)
# How long a profile that could not be loaded is left alone: messages for it must not unload the one that works. Twice
# as long after each further failure, as reading gigabytes for nothing is not free either.
UNFIT_SECONDS, LONGEST_UNFIT_SECONDS = 60.0, 3600.0
# What is due so soon would wait for a compilation that is begun now.
SOON_SECONDS = 300.0
NOBODY = uuid.UUID(int=0)  # no unit's id

# Set by the parent when it is told to stop, read by the child between batches. It must exist before the fork.
STOPPING = multiprocessing.get_context("fork").Event() if platform.system() != "Windows" else multiprocessing.Event()
# This worker's row: the parent makes the name before it forks, so that parent and child speak of the same row.
WORKER_ID = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def make_renderer(profile: Profile, settings: Settings) -> Renderer:
    """Load a profile's weights. Raises WeightsMissing, CheckpointMismatch, FaceEncoderMismatch."""
    if profile.renderer == "fake":
        from worker.testing import FakeRenderer

        return FakeRenderer(
            profile.name,
            batch_size=settings.batch_size or profile.batch_size,
            step_seconds=float(os.environ.get("PORTRAITS_FAKE_STEP_SECONDS", "0")),
        )
    from worker.quiet import quiet_libraries

    quiet_libraries()
    from worker.sdxl import SdxlRenderer

    return SdxlRenderer.load_profile(profile, settings)


def remembered_sizes(renderer: Renderer, settings: Settings) -> BatchSizes:
    """What this model on this device was seen to have room for, under this limit of memory. Raises SettingsInvalid."""
    limit = "" if settings.vram_gb is None else f", {settings.vram_gb:g} GB"

    def expected(key: BatchKey) -> int:
        controls = [name for name, *_ in key.controls]
        return renderer.largest_batch(
            key.width, key.height, guided=key.guided, given=bool(key.given), controls=controls, loras=key.loras
        )

    lessons = Lessons(settings.home, f"{name_of(renderer)}{limit}")
    return BatchSizes(renderer.batch_size, expected=expected, lessons=lessons)


@contextmanager
def _sigterm_finishes_the_batch() -> Iterator[threading.Event]:
    """During a shift, SIGTERM means to this process what it means to its parent: finish the batch, give the rest back.

    systemd and others send it to the whole group; without this the child would end in the middle of a batch, and what
    it held would wait for its leases to run out. The event is set when the signal came.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told  # only the main thread may set handlers; elsewhere somebody else minds the signals
        return
    before = signal.signal(signal.SIGTERM, lambda _signal, _frame: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


class WorkerProcess:
    """Runs shifts; loads a profile when a shift first needs it, and holds one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.name = f"{socket.gethostname()[:40]}:{os.getpid()}"
        # A new owner for every process start: a recycled process id can never be taken for its predecessor.
        self.owner = f"{self.name}:{uuid.uuid4().hex[:12]}"
        self._database = Database.from_settings(settings)
        self._storage = open_storage(settings.storage_url, settings)
        self._renderer: Renderer | None = None
        self._weight_sets: WeightSets | None = None
        self._sizes = BatchSizes(1)
        self._costs: Costs | None = None
        self._breaker = Breaker(self._storage.check, on_change=self._tell_of_a_change)
        self._spool = Spool.from_settings(settings)
        self._marker = Marker(settings, version=package_version(), on_change=self._tell_of_a_change)
        self._watchdog = Watchdog(settings.stall_seconds)
        self._use = DeviceUse()
        self._observer = observer_of(settings, self._database, self._use)
        self._forgetter, self._at_work = Forgetter(WORKER_ID, self._spool), threading.Lock()
        self._forgetting_fault = ""
        self._minder = Minder(self._drop_while_idle, seconds=settings.reap_seconds)
        self._unfit_until: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._state, self._busy, self._draining = "starting", False, threading.Event()
        self._seconds_loading = self._seconds_warming = 0.0

    def profile_to_draw(self, unit_id: uuid.UUID, *, within_seconds: float = 0.0) -> str | None:
        """The profile to load for this message, or None when nothing waits that this worker could draw by then."""
        now = time.monotonic()
        known = [name for name in load_profiles(self._settings) if self._unfit_until.get(name, 0.0) <= now]
        held = self._renderer.profile if self._renderer else None
        with self._database.reading() as tx:
            known.sort(key=lambda name: name != held)
            return unit_rows.profile_to_draw(tx, unit_id, known, within_seconds=within_seconds)

    def run_shift(self, unit_id: uuid.UUID, profile_name: str) -> ShiftReport:
        """Draw from this unit on until the shift ends, and when nothing waits any more do what was put off.

        The profile is loaded and warmed first, with nothing claimed; told to stop meanwhile, nothing is.
        """
        with self._alone(), _sigterm_finishes_the_batch() as told:

            def should_stop() -> bool:
                is_told = told.is_set() or STOPPING.is_set() or self._draining.is_set()
                return is_told or self._marker.holds_back  # what is drawn now could not be shipped

            if not self._may_work(unit_id):
                return ShiftReport()
            report: ShiftReport | None = None
            try:
                self._confirm_forgetting()
                self._check_means(profile_name)
                renderer, weight_sets = self._ready_for(profile_name, should_stop)
                if should_stop():
                    return ShiftReport()
                logs.name_process(shift=uuid.uuid4().hex[:12])
                self._observer.shift_began(profile_name)
                report = self._run_shift(unit_id, renderer, weight_sets, should_stop=should_stop)
            finally:
                self._observer.shift_ended(report)
                logs.name_process(shift=None)
                self._rest_from_work()
                self._confirm_forgetting()
            if report.ran_dry:
                self._rest(renderer, should_stop)
            return report

    def _may_work(self, unit_id: uuid.UUID) -> bool:
        """Whether this worker was not asked to drain; from now on it is waited for.

        Else the reaper announces the unit anew, for another worker: its message has come to the wrong one.
        """
        with self._database.transaction() as tx:
            self._busy = drain.begin_work(tx, WORKER_ID)
            if not self._busy:
                unit_rows.mark_unsent(tx, unit_id)
        if self._busy:
            self._draining.clear()
        return self._busy

    def _look_for_drain(self, tx: Connection) -> None:
        if drain.is_asked(tx, WORKER_ID):
            self._draining.set()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing is dropped beside a shift that only a resting process may drop. Where dropping hangs in a driver,
        this process is given up, as nothing else would end it.
        """
        if not self._at_work.acquire(timeout=self._settings.stall_seconds):
            log.critical("dropping what is forgotten stands still; this process is ended")
            end_this_process()
        try:
            yield
        finally:
            self._at_work.release()

    def forget(self, weight_sets: frozenset[str]) -> None:
        """Drop these weight sets and every remembered prompt, beside a drawing; see `worker.forgetting`."""
        held, renderer = self._weight_sets, self._renderer
        if held is not None and renderer is not None:
            held.forget(weight_sets)
            renderer.forget_texts()

    def rest(self) -> None:
        """Drop what is merged, as nothing is drawn."""
        if self._renderer is not None:
            self._renderer.forget()
            gc.collect()

    def _look_for_forgetting(self, _tx: Connection) -> None:
        """On a connection of its own: whatever fails here, such as for a missing grant, leases are prolonged."""
        try:
            with self._database.reading() as tx:
                self._forgetter.look(tx, self)
        except (JobsError, SpoolUnusable) as error:
            self._warn_of_forgetting(error)

    def _warn_of_forgetting(self, error: Exception) -> None:
        """Once for each reason: it is looked for every few seconds."""
        if str(error) != self._forgetting_fault:
            log.warning("what was to be dropped of erased people is looked for again later: %s", error)
        self._forgetting_fault = str(error)

    def _confirm_forgetting(self) -> None:
        """Drop everything of people who were erased, and say so; nothing is drawn now."""
        try:
            if self._renderer is not None:
                self._forgetter.confirm(self._database, self)
                return
            with self._database.reading() as tx:  # nothing is held; files are the parent's care
                self._forgetter.begin(tx)
        except (JobsError, SpoolUnusable) as error:
            self._warn_of_forgetting(error)

    def _drop_while_idle(self) -> None:
        """Between shifts this process holds weight sets, and nobody else could drop them."""
        if self._at_work.acquire(blocking=False):
            try:
                self._confirm_forgetting()
            finally:
                self._at_work.release()

    def _rest_from_work(self) -> None:
        """Nothing is held any more: who was asked to drain is drained."""
        self._busy = False
        try:
            with self._database.transaction() as tx:
                drain.end_work(tx, WORKER_ID)
            if self._draining.is_set():
                self._observer.drained()
        except JobsError as error:
            log.warning("the worker's row does not tell that it rests: %s", error)

    def _rest(self, renderer: Renderer, should_stop: Callable[[], bool]) -> None:
        """Let the renderer do what was put off; what fails there costs nobody a picture."""

        def must_end() -> bool:
            try:
                return should_stop() or self.profile_to_draw(NOBODY, within_seconds=SOON_SECONDS) is not None
            except JobsError as error:  # a database that is away has no work for us
                log.warning("whether something waits cannot be asked: %s", error)
                return False

        try:
            renderer.when_idle(must_end)
        except Exception:
            log.exception("what was put off could not be done")

    def _run_shift(
        self, unit_id: uuid.UUID, renderer: Renderer, weight_sets: WeightSets, *, should_stop: Callable[[], bool]
    ) -> ShiftReport:
        self.tell("working")
        began_at, began = utcnow(), time.monotonic()
        leases = Leases(
            self._database,
            self.owner,
            lease_seconds=self._settings.lease_seconds,
            also=(self._sign_of_life, weight_sets.heartbeat, lambda _tx: self._observer.alive()),
            watch=(self._look_for_drain, self._look_for_forgetting),
            overdue=self._watchdog.overdue,
            tell=self._tell_that_it_stands_still,
        )
        recorder = Recorder(
            self._database,
            self._storage,
            renderer,
            self.owner,
            worker_name=self.name,
            threads=self._settings.upload_threads,
            queue=self._settings.upload_queue,
            outages=Outages(
                self._breaker,
                self._spool,
                patience_seconds=self._settings.storage_wait_seconds,
                hold_seconds=self._settings.spool_hold_seconds,
                is_over=should_stop,
            ),
            marker=self._marker,
            observer=self._observer,
        )
        try:
            with leases:
                shift = Shift(
                    self._database,
                    self._settings,
                    self._storage,
                    renderer,
                    weight_sets,
                    leases,
                    recorder,
                    self.owner,
                    sizes=self._sizes,
                    should_stop=should_stop,
                    costs=self._costs,
                    observer=self._observer,
                )
                report = shift.run(unit_id)
        finally:
            recorder.close()
            self._state = "idle"
        self.tell()
        self._keep(report, renderer, began_at, time.monotonic() - began)
        return report

    def _keep(self, report: ShiftReport, renderer: Renderer, began_at: dt.datetime, seconds: float) -> None:
        """Record what the shift did; one that found nobody leaves no row."""
        if not report.groups:
            return
        row = report.row() | {"seconds": seconds}
        row |= {"seconds_loading": self._seconds_loading, "seconds_warming": self._seconds_warming}
        self._seconds_loading = self._seconds_warming = 0.0
        try:
            with self._database.transaction() as tx:
                fleet.record_shift(
                    tx,
                    worker=self.name,
                    worker_id=WORKER_ID,
                    profile=renderer.profile,
                    device=renderer.device[:100],
                    version=package_version(),
                    began_at=began_at,
                    ended_at=utcnow(),
                    **row,
                )
        except Exception as error:  # noqa: BLE001 - such as a missing grant; the pictures are recorded all the same
            log.warning("what the shift did is not kept: %s", error)

    def load(self, profile_name: str) -> Renderer:
        """What shifts of this profile draw with, loaded now if it is not. Raises what loading raises."""
        return self._ready_for(profile_name, lambda: False)[0]

    def tell(self, state: str | None = None, error: str | None = None) -> None:
        """Give a sign of life now."""
        self._state = state or self._state
        try:
            with self._database.transaction() as tx:
                self._sign_of_life(tx, error)
        except DatabaseUnavailable:
            log.exception("no sign of life: the database does not answer")

    def close(self) -> None:
        """Say goodbye and close the connections."""
        self._minder.stop()
        self.tell("stopped")
        self._database.dispose()

    def _tell_that_it_stands_still(self, reason: str) -> None:
        self._observer.stands_still(reason)
        self.tell("unfit", reason)

    def _tell_of_a_change(self) -> None:
        """The store went away or came back, marking broke or works again: the worker's row says so at once."""
        try:
            self.tell()
        except JobsError as error:
            log.warning("the worker's row does not tell that it changed: %s", error)

    def _check_means(self, profile_name: str) -> None:
        """Take no unit where a finished picture could not be kept, as this worker's own disk is full or read-only, or
        could not be marked as AI-made.
        """
        try:
            self._spool.check()
            self._marker.check()
        except (SpoolFull, SpoolUnusable, MarkingBroken) as error:
            self._unfit_until[profile_name] = time.monotonic() + UNFIT_SECONDS
            self.tell("unfit", str(error))
            log.error("this worker takes no unit: %s", error)
            raise

    def _unfit_seconds(self, profile_name: str) -> float:
        """How long to leave a profile alone that could not be loaded once more."""
        self._failures[profile_name] += 1
        return min(LONGEST_UNFIT_SECONDS, UNFIT_SECONDS * 2.0 ** min(self._failures[profile_name] - 1, 10))

    def _sign_of_life(self, tx: Connection, error: str | None = None) -> None:
        state, away = self._state, self._breaker.reason
        if away is not None and error is None:
            state, error = "unfit", f"waiting for storage: {away}"
        elif self._marker.fault is not None and error is None:
            state, error = "unfit" if self._marker.holds_back else state, f"pictures not marked: {self._marker.fault}"
        fleet.sign_of_life(
            tx,
            WORKER_ID,
            name=self.name,
            pid=os.getpid(),
            version=package_version(),
            state=state,
            profile=self._renderer.profile if self._renderer else None,
            device=self._renderer.device if self._renderer else None,
            error=error,
            busy=self._busy,
            drawing_share=self._use.share() if state == "working" else None,
        )

    def _ready_for(self, profile_name: str, should_stop: Callable[[], bool]) -> tuple[Renderer, WeightSets]:
        """The profile, loaded and warmed; a worker that cannot load it says so in its row and takes no unit of it for a
        while. One that is told to stop ends warming early.
        """
        if self._renderer is not None and self._weight_sets is not None and self._renderer.profile == profile_name:
            return self._renderer, self._weight_sets
        profile = find_profile(self._settings, profile_name)
        self._renderer = self._weight_sets = None  # the old profile's memory goes before the new one is loaded
        gc.collect()
        self.tell("starting")
        self._observer.loading(profile_name)
        began = time.monotonic()
        try:
            renderer = make_renderer(profile, self._settings)
            costs = load_costs(self._settings.home, renderer)
            sizes = remembered_sizes(renderer, self._settings)
            loaded = time.monotonic()
            renderer.warm(should_stop)
        except Exception as error:
            self._unfit_until[profile_name] = time.monotonic() + self._unfit_seconds(profile_name)
            self.tell("unfit", f"profile {profile_name}: {error}")
            log.error("this worker takes no unit of profile %s: %s", profile_name, error)
            raise
        self._seconds_loading, self._seconds_warming = loaded - began, time.monotonic() - loaded
        self._renderer, self._sizes, self._costs = Watched.of(renderer, self._watchdog), sizes, costs
        del self._failures[profile_name]
        log.info(
            "%s profile %s: loaded in %.1f s, warmed in %.1f s",
            "told to stop with" if should_stop() else "ready for",
            profile_name,
            self._seconds_loading,
            self._seconds_warming,
        )
        self._observer.ready(profile_name, renderer.device, self._seconds_loading, self._seconds_warming)
        self._weight_sets = WeightSets(
            self._database,
            self._storage,
            self._renderer,
            self.owner,
            lease_seconds=self._settings.lease_seconds,
            max_lost_workers=self._settings.max_lost_workers,
            observer=self._observer,
        )
        self.tell("idle")
        self._minder.start()
        return self._renderer, self._weight_sets
