"""The Celery tasks: a shift, and for who runs `celery beat` the sweep of who is kept too long."""

from __future__ import annotations

import logging
import os
import uuid

from kombu.exceptions import OperationalError

from jobs.broker import RETENTION_TASK, SHIFT_TASK
from jobs.database import Database
from jobs.privacy import retention as sweeping
from jobs.settings import get_settings
from jobs.storage import open_storage
from worker.app import app
from worker.process import STOPPING, WorkerProcess

log = logging.getLogger(__name__)
_process: WorkerProcess | None = None
_process_pid = 0


def _this_process() -> WorkerProcess:
    """The state of this process, made in its first shift; a forked child never uses its parent's."""
    global _process, _process_pid
    if _process is None or _process_pid != os.getpid():
        _process, _process_pid = WorkerProcess(get_settings()), os.getpid()
    return _process


@app.task(name=SHIFT_TASK, acks_late=True, reject_on_worker_lost=True, ignore_result=True)  # type: ignore[untyped-decorator]
def shift(unit_id: str) -> None:
    """Draw the unit that the message names, and go on with whatever waits.

    A message is only a wake-up: when its unit is leased, done or unknown, the worker takes whatever else waits.
    """
    try:
        wanted = uuid.UUID(unit_id)
    except (TypeError, ValueError, AttributeError):
        log.error("a message names no unit: %.100r", unit_id)
        return
    if STOPPING.is_set():
        return  # the unit stays ready; another worker, or the reaper, sees to it
    process = _this_process()
    profile = process.profile_to_draw(wanted)
    if profile is None:
        return
    report = process.run_shift(wanted, profile)
    if report.handed_back:
        _wake_another(report.handed_back[0])
    log.info(
        "shift ended: %d pictures of %d people in %d batches (%d of several people), %d weight sets generated, "
        "batches %.0f %% full, idle between batches %.0f %%",
        report.renders,
        report.groups,
        report.batches,
        report.drawn.mixed,
        report.generated,
        100 * report.drawn.fill,
        100 * report.idle_share,
    )


def _wake_another(unit_id: uuid.UUID) -> None:
    """Announce what this shift handed back; if the broker is away, the reaper will."""
    try:
        app.send_task(SHIFT_TASK, args=[str(unit_id)], retry=False)
    except (OperationalError, OSError) as error:
        log.warning("the reaper will announce what was handed back: %s", error)


@app.task(name=RETENTION_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
def retention() -> None:
    """A turn of what clerks do as well: who is kept too long is erased, once a day, whoever asks how often."""
    settings = get_settings()
    database = Database.from_settings(settings)
    try:
        done = sweeping.turn(database, open_storage(settings.storage_url, settings), settings)
    finally:
        database.dispose()
    if done:
        log.info("retention: %d people, photos, uploads and objects let go of", done)
