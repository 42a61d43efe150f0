"""The units in this worker's hands: kept alive from a thread, and watched for loss.

The thread prolongs every lease in hand three times per lease life, each by its token: a lease that was forgotten,
because a step raised or a commit's answer was lost, runs out and goes to whoever comes next. In between it looks, every
`LOOK_SECONDS`, whether the leases are still ours, which writes nothing.

A unit that the database no longer counts as ours (cancelled, or taken over after a silence) is lost as soon as that is
seen. A batch of which nothing else is wanted ends at the next denoising step that the host asks for. So a cancel takes
effect within `LOOK_SECONDS`, and the three steps at most that the device had been asked for (`hyperlora.pace`).

While work stands still (`worker.watchdog`), nothing is prolonged: what is held goes to somebody else. When the leases
have run out this process is given up, because a call that hangs in a driver can be ended in no other way.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from sqlalchemy import Connection

from jobs.database import Database
from jobs.repository import units
from jobs.repository.units import ClaimedUnit

log = logging.getLogger(__name__)
LOOK_SECONDS = 5.0


def end_this_process() -> None:
    """End at once, as a crash would: the parent starts a new process, and the reaper gives away what this one held."""
    os.kill(os.getpid(), signal.SIGKILL)


class Leases:
    """Heartbeats for whatever `owner` holds, from `__enter__` to `__exit__`."""

    def __init__(
        self,
        database: Database,
        owner: str,
        *,
        lease_seconds: float,
        also: Sequence[Callable[[Connection], None]] = (),
        watch: Sequence[Callable[[Connection], None]] = (),
        overdue: Callable[[], str | None] = lambda: None,
        tell: Callable[[str], None] = lambda reason: None,
        give_up: Callable[[], None] = end_this_process,
    ) -> None:
        """`also` are what each heartbeat does besides: the sign of life, the claim of a weight set in the making.

        `watch` are what each look and each heartbeat reads besides: whether this worker was asked to drain.
        `overdue` says what stands still, `tell` is told when that is first seen, and `give_up` ends the process.
        """
        self._database, self._owner, self._lease_seconds = database, owner, lease_seconds
        self._also, self._watch = also, watch
        self._overdue, self._tell, self._give_up = overdue, tell, give_up
        self._stands_since: float | None = None
        self._lock = threading.Lock()
        self._tokens: dict[uuid.UUID, int] = {}
        self._last_confirmed = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def hold(self, claimed: Sequence[ClaimedUnit]) -> None:
        """Begin to watch units that were just claimed."""
        with self._lock:
            if not self._tokens:  # of others in hand only a beat can say that they are still ours
                self._last_confirmed = time.monotonic()
            self._tokens.update({unit.id: unit.lease_token for unit in claimed})

    def let_go(self, unit: ClaimedUnit) -> None:
        """Stop watching a unit that was settled or released."""
        with self._lock:
            if self._tokens.get(unit.id) == unit.lease_token:  # else it was claimed anew in the meantime
                del self._tokens[unit.id]

    def holds(self, unit: ClaimedUnit) -> bool:
        """Whether the unit is still ours as far as this process can know.

        After a silence longer than a lease life (a stopped process, a database that was away) nothing is ours until
        the database has said so again.
        """
        with self._lock:
            silent = time.monotonic() - self._last_confirmed > self._lease_seconds
            return not silent and self._tokens.get(unit.id) == unit.lease_token

    def beat(self) -> None:
        """Prolong what is held, drop what was lost, and give a sign of life."""
        before = self._held()
        with self._database.transaction() as tx:
            held = units.heartbeat(tx, self._owner, before, lease_seconds=self._lease_seconds)
            for duty in (*self._also, *self._watch):  # where beats are as frequent as looks, nobody looks
                duty(tx)
        with self._lock:
            self._last_confirmed = time.monotonic()
        self._drop_lost(before, held)

    def look(self) -> None:
        """Drop what was lost, and read what is watched besides."""
        before = self._held()
        if before or self._watch:
            with self._database.reading() as tx:
                held = units.still_held(tx, self._owner, before)
                for reading in self._watch:
                    reading(tx)
            self._drop_lost(before, held)

    def _held(self) -> dict[uuid.UUID, int]:
        with self._lock:
            return dict(self._tokens)

    def _drop_lost(self, before: Mapping[uuid.UUID, int], held: Mapping[uuid.UUID, int]) -> None:
        with self._lock:
            for unit_id, token in before.items():
                if held.get(unit_id) != token and self._tokens.get(unit_id) == token:
                    del self._tokens[unit_id]
                    log.debug("unit no longer held: settled, cancelled or taken over", extra={"unit": str(unit_id)})

    def _run(self) -> None:
        third = self._lease_seconds / 3
        pause = min(LOOK_SECONDS, third)
        due = time.monotonic() + third
        while not self._stop.wait(min(pause, max(0.0, due - time.monotonic()))):
            if self._stands_still():
                due = time.monotonic() + pause
                continue
            try:
                if time.monotonic() < due:
                    self.look()
                else:
                    due = time.monotonic() + pause  # should it fail, the next one is due soon
                    self.beat()
                    due = time.monotonic() + third
            except Exception:
                # Whatever it was, the next beat may succeed; without beats, `holds` soon says no and drawing stops.
                log.exception("no heartbeat")

    def _stands_still(self) -> bool:
        """Whether the leases are left to run out, as nothing moves; when they have, this process is given up."""
        reason = self._overdue()
        if reason is None:
            self._stands_since = None
            return False
        if self._stands_since is None:
            self._stands_since = time.monotonic()
            log.error("%s; its units go to others when their leases run out", reason)
            self._tell(reason)
        elif time.monotonic() - self._stands_since > self._lease_seconds:
            log.critical("%s; this process is ended", reason)
            self._give_up()
        return True
