"""The clerk's process: a thread for each errand, so that a gallery of minutes holds up no webhook.

A fault of one errand is logged, and that errand tries again later, later each time; the others go on. All that an
errand holds are leases in rows, so a clerk may be killed at any moment, and any number of them may run.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.clerk.errands import Errand, errands
from jobs.database import Database
from jobs.errors import JobsError
from jobs.repository import fleet
from jobs.settings import Settings
from jobs.storage import open_storage

log = logging.getLogger(__name__)
OFFICE = "clerk"
LONGEST_WAIT_SECONDS = 60.0
SIGN_SECONDS, SIGN_LASTS_SECONDS = 20.0, 90.0
PATIENCE_SECONDS = 5.0


def own_name() -> str:
    """Under which this process holds leases."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class Outcome:
    """What came of one errand's turn: how much was done, or the fault that it met."""

    errand: str
    done: int = 0
    fault: str = ""


class Clerk:
    """Goes about its errands until told to stop."""

    def __init__(self, database: Database, run: Sequence[Errand], owner: str) -> None:
        self._database, self._owner = database, owner
        self._stop = threading.Event()
        self._woken = {errand.name: threading.Event() for errand in run}
        names = {f"clerk {errand.name}": errand for errand in run}
        self._threads = [
            *(
                threading.Thread(target=self._go_about, args=(one,), name=name, daemon=True)
                for name, one in names.items()
            ),
            threading.Thread(target=self._show_life, name="clerk life", daemon=True),
        ]

    @classmethod
    def from_settings(cls, settings: Settings) -> Clerk:
        """The clerk of an installation. Raises SettingsInvalid."""
        database, storage, owner = (
            Database.from_settings(settings),
            open_storage(settings.storage_url, settings),
            own_name(),
        )
        return cls(database, errands(database, storage, settings, owner), owner)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after what is in hand, or in a few seconds without: its leases run out."""
        self._stop.set()
        for woken in self._woken.values():
            woken.set()
        for thread in self._threads:
            thread.join(timeout=PATIENCE_SECONDS / len(self._threads))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        if left:
            log.warning("not waited for: %s; another clerk goes on when the leases run out", ", ".join(left))

    def _go_about(self, errand: Errand) -> None:
        wait, woken = errand.seconds, self._woken[errand.name]
        while not self._stop.is_set():
            outcome = take_turn(errand, self._stop)
            if outcome.fault:
                wait = min(2 * wait, max(LONGEST_WAIT_SECONDS, errand.seconds))
                log.warning("clerk, %s: tried again in %g s: %s", errand.name, wait, outcome.fault)
                self._stop.wait(wait)  # whoever wakes it meanwhile finds the same fault
                continue
            wait = errand.seconds
            if outcome.done:
                log.info("clerk, %s: %d", errand.name, outcome.done)
                for name in errand.wakes:
                    self._woken[name].set()
            woken.wait(wait)
            woken.clear()

    def _show_life(self) -> None:
        """Hold the clerks' office, so that `portraits doctor` knows that there is one."""
        while not self._stop.is_set():
            try:
                with self._database.transaction() as tx:
                    fleet.elect(tx, OFFICE, self._owner, seconds=SIGN_LASTS_SECONDS)
            except JobsError as error:
                log.warning("clerk: no sign of life could be given: %s", error)
            self._stop.wait(SIGN_SECONDS)
        try:
            with self._database.transaction() as tx:
                fleet.step_down(tx, OFFICE, self._owner)
        except JobsError as error:
            log.warning("the clerk's office stays taken until it runs out: %s", error)


def take_turn(errand: Errand, stop: threading.Event) -> Outcome:
    """One turn of an errand; a fault becomes its outcome, as it must not end the others."""
    try:
        return Outcome(errand.name, errand.turn(stop.is_set))
    except JobsError as error:
        return Outcome(errand.name, fault=str(error))
    except Exception as error:
        log.exception("clerk, %s: something unforeseen", errand.name)
        return Outcome(errand.name, fault=f"{type(error).__name__}, see the log")


def once(settings: Settings) -> list[Outcome]:
    """Every errand, one after the other, each until nothing is due; what each did."""
    database, storage = Database.from_settings(settings), open_storage(settings.storage_url, settings)
    try:
        return [_until_done(errand) for errand in errands(database, storage, settings, own_name())]
    finally:
        database.dispose()


def _until_done(errand: Errand) -> Outcome:
    never, done = threading.Event(), 0
    while True:
        outcome = take_turn(errand, never)
        done += outcome.done
        if not outcome.done:
            return Outcome(errand.name, done, outcome.fault)
