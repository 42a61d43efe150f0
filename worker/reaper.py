"""The reaper: returns what dead workers held, and sends again what the broker lost.

A thread of every worker's parent; one of the fleet is elected for each turn by a row lease. It runs at start too, so
that a single worker on a broker that redelivers nothing heals by itself after a crash.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection

from jobs.broker import Broker
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, JobsError, SettingsInvalid
from jobs.repository import control, fleet, reaping
from jobs.repository import units as unit_rows
from jobs.settings import Settings
from worker.committer import LONGEST_WAIT_SECONDS
from worker.errors import WorkerError
from worker.forgetting import Forgetter
from worker.forks import Turns
from worker.process import WORKER_ID
from worker.spool import Spool
from worker.telemetry.events import NOBODY, Observer
from worker.version import package_version

log = logging.getLogger(__name__)
OFFICE = "reaper"


def turn(
    database: Database, broker: Broker, settings: Settings, owner: str, *, may_reap: bool = True
) -> tuple[int, int, int]:
    """One turn: units handed back, units given up, messages sent. All zero when another worker is the reaper.

    A message only wakes a worker, which then claims whatever is ready: so a few suffice, whatever the backlog. Without
    `may_reap` nothing is handed back or given up.
    """
    with database.transaction() as tx:
        if not fleet.elect(tx, OFFICE, owner, seconds=settings.reap_seconds * 2):
            return 0, 0, 0
        # Until every committer has looked once more, and whoever lives has prolonged its leases.
        grace = LONGEST_WAIT_SECONDS + settings.lease_seconds
        caps = {"max_attempts": settings.max_attempts, "max_lost_workers": settings.max_lost_workers}
        returned, given_up = reaping.reap(tx, grace_seconds=grace, **caps) if may_reap else (0, 0)
        limit = max(8, 2 * fleet.alive(tx, within_seconds=settings.lease_seconds))
        paused = control.fleet_paused_at(tx) is not None
        ids = [] if paused else unit_rows.unsent(tx, resend_seconds=settings.resend_seconds, limit=limit)
    sent = broker.send(ids)
    with database.transaction() as tx:
        unit_rows.mark_sent(tx, ids)
    return returned, given_up, sent


def look_after_child(tx: Connection, worker_id: str) -> None:
    """Where the process that draws was killed, say so in the row: it could not, and the next one says nothing before
    the next message. So nobody waits for it to drain, and nobody takes it for unfit.
    """
    pid = fleet.process_of(tx, worker_id)
    if pid is None or pid == os.getpid() or _lives(pid):
        return
    if fleet.child_died(tx, worker_id, pid=pid, parent_pid=os.getpid()):
        log.warning("the process that drew is gone (pid %d)", pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's by now
        return False
    return True


class Patience:
    """After the database was away nobody is taken for lost until whoever lives has had a lease's life to say so: while
    it was away, leases ran out that no worker could prolong.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._is_away, self._until = False, clock()

    def begin(self) -> None:
        """The database does not answer."""
        self._is_away = True

    def is_over(self) -> bool:
        """Whether leases may be taken for lost; asked when the database has answered."""
        if self._is_away:
            self._is_away, self._until = False, self._clock() + self._seconds
        return self._clock() >= self._until


class Reaper:
    """Takes turns every `reap_seconds`, beginning at once, and shows that this worker lives while it idles."""

    def __init__(self, settings: Settings, observer: Observer = NOBODY) -> None:
        self._settings, self._owner, self._observer = settings, WORKER_ID, observer
        self._name = WORKER_ID.rsplit(":", 1)[0]
        self._stop, self._turns = threading.Event(), Turns()
        self._patience = Patience(settings.lease_seconds)
        self._forgetter = Forgetter(WORKER_ID, Spool.from_settings(settings))
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the turn in progress."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        database, broker = Database.from_settings(self._settings), Broker(self._settings)
        while True:
            try:
                with self._turns.turn():
                    with database.transaction() as tx:
                        fleet.seen(tx, self._owner, name=self._name, pid=os.getpid(), version=package_version())
                        look_after_child(tx, self._owner)
                    self._forget(database)
                    may_reap = self._patience.is_over()
                    returned, given_up, sent = turn(database, broker, self._settings, self._owner, may_reap=may_reap)
                    self._observer.reaped(returned, given_up)
                if returned or given_up or sent:
                    log.info("reaper: %d handed back, %d given up, %d messages sent", returned, given_up, sent)
            except JobsError as error:
                if isinstance(error, DatabaseUnavailable):
                    self._patience.begin()
                log.warning("the reaper tries again in %g s: %s", self._settings.reap_seconds, error)
            except Exception:
                # A reaper that died would leave the whole fleet without healing.
                log.exception("the reaper met something unforeseen and goes on")
            if self._stop.wait(self._settings.reap_seconds):
                break
        self._step_down(database)
        broker.close()
        database.dispose()

    def _forget(self, database: Database) -> None:
        """Drop files of people who were erased; where no process draws, nothing of them is left here then."""
        try:
            with database.reading() as tx:
                self._forgetter.look(tx)
                until, is_idle = self._forgetter.rest(), fleet.process_of(tx, self._owner) == os.getpid()
            if is_idle:
                with database.transaction() as tx:
                    self._forgetter.tell(tx, until)
        except (WorkerError, SettingsInvalid) as error:  # such as a missing grant: others are reaped all the same
            log.warning("files of erased people are not removed yet: %s", error)

    def _step_down(self, database: Database) -> None:
        try:
            with database.transaction() as tx:
                fleet.step_down(tx, OFFICE, self._owner)
                fleet.stopped(tx, self._owner)
        except JobsError as error:
            log.warning("the reaper's office stays taken until it runs out: %s", error)
