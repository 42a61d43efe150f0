"""Records what waits in the spool, as soon as store and database answer: a thread of every worker's parent.

So it goes on while the child loads a model, after the child was killed, and for whatever an earlier worker of this home
has left. Order and fence are the recorder's: objects under the lease's token, then the rows under owner and token.
Several workers of one home may do it side by side; recording one picture twice changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import threading

from jobs.database import Database
from jobs.errors import DatabaseUnavailable, JobsError, ObjectExists, StorageError
from jobs.repository import late
from jobs.repository import renders as render_rows
from jobs.settings import Settings
from jobs.storage import Storage, open_storage
from worker.breaker import AWAY, REFUSALS
from worker.errors import SpoolDamaged, SpoolUnusable, WorkerError
from worker.forks import Turns
from worker.spool import Spool, claim_in
from worker.spooled import Spooled, SpooledObject

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 30.0


def commit_all(database: Database, storage: Storage, spool: Spool) -> int:
    """Settle everything that waits, the oldest first; how many pictures were recorded.

    Raises: JobsError at the first for which store or database are away; it and the later ones stay. Where one alone is
    refused, or cannot be read, its fault is raised when the others were seen to.
    """
    recorded, fault = 0, None
    for name in spool.names():
        try:
            recorded += _settle(database, storage, spool, name)
        except (*REFUSALS, SpoolUnusable) as error:
            if isinstance(error, REFUSALS):
                storage.check()  # raises where it is not this picture's fault
            log.warning("%s stays put aside, the others go on: %s", name, error)
            fault = fault or error
    if recorded:
        log.info("%d pictures that were put aside are recorded", recorded)
    if fault is not None:
        raise fault
    return recorded


def _settle(database: Database, storage: Storage, spool: Spool, name: str) -> bool:
    """Record one picture and let its file go; whether it was recorded now. Raises: JobsError, SpoolUnusable."""
    try:
        picture = spool.read(name)
    except FileNotFoundError:
        return False  # another worker of this home was faster
    except SpoolDamaged as error:
        log.error("%s in %s is damaged and set aside, its render is drawn again: %s", name, spool.folder, error)
        spool.set_aside(name)
        return False
    answer = _answer(database, storage, picture)
    if answer in ("wanted", "held"):
        return False
    spool.remove(name)
    if all(claim_in(other) != claim_in(name) for other in spool.names()):
        with database.transaction() as tx:
            late.free(tx, picture.unit)
    return answer == "recorded"


def _answer(database: Database, storage: Storage, picture: Spooled) -> late.Standing:
    """What became of it; `wanted` where this picture alone meets a fault, `held` where its unit is another's."""
    try:
        return _commit(database, storage, picture)
    except Exception as error:
        if isinstance(error, (*AWAY, DatabaseUnavailable)):
            raise
        log.exception("render %s stays put aside", picture.render_id)
        return "wanted"


def _commit(database: Database, storage: Storage, picture: Spooled) -> late.Standing:
    with database.reading() as tx:
        answer = late.standing(tx, picture.unit, picture.owner, picture.render_id, picture.drawn.storage_key)
    if answer == "wanted":  # asked first: what was erased meanwhile must not be stored again
        for one in picture.objects:
            _store(storage, one)
        answer = _record(database, picture)
    if answer == "too late":
        log.warning("a picture that was put aside came too late, render %s: its unit is another's", picture.render_id)
        _remove(storage, picture)
    return answer


def _store(storage: Storage, one: SpooledObject) -> None:
    try:
        storage.put(one.key, one.data, content_type=one.media_type, if_absent=True)
    except ObjectExists:  # of an earlier try under this lease, which no row names
        found = hashlib.sha256(storage.get(one.key)).digest()
        if found != hashlib.sha256(one.data).digest():
            storage.put(one.key, one.data, content_type=one.media_type)


def _record(database: Database, picture: Spooled) -> late.Standing:
    unit, owner, render = picture.unit, picture.owner, picture.render
    with database.transaction() as tx:
        was = late.take_back(tx, unit, owner)
        recorded = render_rows.complete(
            tx, render, owner, picture.drawn, others=picture.others, outputs=picture.outputs
        )
        if was is not None:
            late.give_back(tx, unit, owner, to=was)
        return "recorded" if recorded else late.standing(tx, unit, owner, render.id, picture.drawn.storage_key)


def _remove(storage: Storage, picture: Spooled) -> None:
    """Objects of this lease that no row names; those that cannot be removed now are left to the sweep."""
    for key in picture.keys:
        try:
            storage.delete(key)
        except StorageError:
            log.exception("a picture that no row names could not be removed", extra={"key": key})


class Committer:
    """Looks into the spool every few seconds, less often while store or database are away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop, self._turns = threading.Event(), Turns()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the picture in progress."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        database, wait = Database.from_settings(self._settings), LOOK_SECONDS
        storage, spool = open_storage(self._settings.storage_url, self._settings), Spool.from_settings(self._settings)
        while not self._stop.wait(wait):
            try:
                with self._turns.turn():
                    commit_all(database, storage, spool)
                wait = LOOK_SECONDS
            except (JobsError, WorkerError) as error:
                wait = min(LONGEST_WAIT_SECONDS, 2 * wait)
                log.warning("pictures wait in %s, tried again in %g s: %s", spool.folder, wait, error)
            except Exception:
                wait = LONGEST_WAIT_SECONDS
                log.exception("the committer met something unforeseen and goes on")
        database.dispose()
