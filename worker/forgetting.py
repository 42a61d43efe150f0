"""What a worker drops of people who were erased: from its disk by whoever looks first, from memory by who holds it.

The parent's reaper and the process that draws both read what is new in `forgettings`. Files of the spool go at once,
whoever sees it. What lies in memory is dropped by the process that draws, at once as far as that may be done beside a
drawing: weight sets, embeddings of prompts, decoded pictures. The units themselves are lost to it already, as their
rows are gone. What is merged into the networks goes when the next person is merged, or when the process rests; only
then its row says that it has obeyed. Where no process draws yet, or it is gone, the parent says so.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sqlalchemy import Connection

from jobs.database import Database
from jobs.errors import JobsError
from jobs.repository import forgettings
from jobs.repository.forgettings import Dropping
from worker.errors import WorkerError
from worker.spool import Spool

log = logging.getLogger(__name__)


class Memory(Protocol):
    """What holds something of people in memory."""

    def forget(self, weight_sets: frozenset[str]) -> None:
        """Drop these weight sets, and whatever else may be of the same people; safe from any thread."""

    def rest(self) -> None:
        """Drop what only a process that draws nothing can drop."""


def clear_spool(spool: Spool, units: Iterable[uuid.UUID]) -> int:
    """Remove every file of these units, whole, damaged or half-written; how many. Raises SpoolUnusable."""
    gone = {str(unit) for unit in units}
    return spool.remove_of(gone) if gone else 0


class Forgetter:
    """Reads what is to be dropped, and has it dropped; one for each process of a worker."""

    def __init__(self, worker_id: str, spool: Spool) -> None:
        self._worker_id, self._spool = worker_id, spool
        self._lock = threading.Lock()
        self._seen = 0.0
        self._is_owed = False

    def begin(self, tx: Connection) -> None:
        """This process holds nothing yet: what was to be dropped before need not be. Files are the parent's care."""
        with self._lock:
            self._seen = max(self._seen, forgettings.newest(tx))

    def look(self, tx: Connection, memory: Memory | None = None) -> None:
        """Drop what is new: files at once, and from `memory` what may be dropped beside a drawing.

        Raises: SpoolUnusable; it is tried again with the next look.
        """
        with self._lock:
            while rows := forgettings.newer(tx, self._seen):
                self._drop(rows, memory)
                self._seen, self._is_owed = rows[-1].at, True

    def rest(self, memory: Memory | None = None) -> float:
        """Drop the rest of what was seen, as nothing is drawn now; up to when all is dropped. Without a transaction: a
        device may take its time.
        """
        with self._lock:
            if self._is_owed and memory is not None:
                memory.rest()
            self._is_owed = False
            return self._seen

    def tell(self, tx: Connection, until: float) -> None:
        """Say in the worker's row that all is dropped up to then."""
        forgettings.obeyed(tx, self._worker_id, until)

    def confirm(self, database: Database, memory: Memory) -> None:
        """Drop everything that is new, as nothing is drawn now, and say so."""
        with database.reading() as tx:
            self.look(tx, memory)
        until = self.rest(memory)
        with database.transaction() as tx:
            self.tell(tx, until)

    def _drop(self, rows: Sequence[Dropping], memory: Memory | None) -> None:
        weight_sets = frozenset(one for row in rows for one in row.names.get("weight_sets", []))
        units = [uuid.UUID(one) for row in rows for one in row.names.get("units", [])]
        removed = clear_spool(self._spool, units)
        if removed:
            log.info("%d files of erased people are removed from %s", removed, self._spool.folder)
        if memory is not None:
            memory.forget(weight_sets)


class Minder:
    """A thread that does something every few seconds, beside shifts and between them, until it is stopped."""

    def __init__(self, act: Callable[[], None], *, seconds: float) -> None:
        self._act, self._seconds = act, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="minder", daemon=True)

    def start(self) -> None:
        """Begin; asking again changes nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End after what is under way."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._act()
            except (JobsError, WorkerError) as error:
                log.warning("the minder tries again in %g s: %s", self._seconds, error)
            except Exception:
                # Without this thread an idle worker would keep what it was told to drop.
                log.exception("the minder met something unforeseen and goes on")
