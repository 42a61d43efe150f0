"""The Celery application: `celery -A worker.app worker`.

One process, one device. Prefork with one child, because only a child can be killed without its parent losing the
broker's heartbeats; other pools and counts are refused. Weights are loaded in the first shift, not at start-up: a
parent waits only seconds for a child to come up.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Protocol

from celery import Celery
from celery.concurrency import ALIASES as POOLS
from celery.schedules import crontab
from celery.signals import (
    celeryd_init,
    setup_logging,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from jobs import logs
from jobs.broker import RETENTION_TASK, Broker, make_app
from jobs.clerk import ClerkChild
from jobs.errors import BrokerUnavailable
from jobs.settings import get_settings
from worker.committer import Committer
from worker.errors import PoolRefused
from worker.process import STOPPING, WORKER_ID
from worker.reaper import Reaper
from worker.telemetry import parent
from worker.telemetry.polling import Polling

log = logging.getLogger(__name__)


class Helper(Protocol):
    """A thread of the parent."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End soon."""


# OpenMP's threads spin while they wait. On a CPU that draws, finds faces and compresses at once, spinning threads take
# the cores from those that work: measured on two cores, the demo's worker used half the CPU time with this. It must be
# set before torch loads OpenMP, which happens in the child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
app: Celery = make_app(get_settings(), current=True)
app.conf.imports = ("worker.tasks",)
# For who runs `celery beat`: hourly, as the database knows whether the day's sweep was done. The schedule is kept in
# memory, so that no file of pickles is written.
app.conf.beat_scheduler = "celery.beat:Scheduler"
app.conf.beat_schedule = {
    "retention": {"task": RETENTION_TASK, "schedule": crontab(minute=17), "options": {"expires": 3600}}
}
app.steps["consumer"].add(Polling)

_helpers: list[Helper] = []


def _refuse_shared_devices(sender: Any = None, options: dict[str, Any] | None = None, **_: Any) -> None:
    """Keep one device to one process: several would share one GPU's memory and slow each other down."""
    chosen = options or {}
    pool = _pool_name(chosen.get("pool") or chosen.get("pool_cls") or "prefork")
    if "prefork" not in pool and "processes" not in pool:
        reason = f"the pool {pool!r} is refused: solo loses heartbeats, threads ignore time limits; wanted prefork"
        raise SystemExit(str(PoolRefused(reason)))
    count = chosen.get("autoscale") or chosen.get("concurrency")
    if count not in {None, 0, 1, "1"}:
        reason = (
            f"concurrency {count!r} is refused: a worker is one process on one device; "
            "several GPUs have a worker each with `portraits worker --gpus all`"
        )
        raise SystemExit(str(PoolRefused(reason)))


def _pool_name(pool: Any) -> str:
    """The name under which people choose the pool; Celery gives its class."""
    if not isinstance(pool, type):
        return str(pool)
    place = f"{pool.__module__}:{pool.__qualname__}"
    return next((name for name, where in POOLS.items() if where == place), place)


def _set_up_logs(loglevel: int | str | None = None, logfile: str | None = None, **_: Any) -> None:
    """Celery's processes log as all of ours do; with a receiver of this signal it leaves logging alone."""
    logs.set_up(get_settings(), level=loglevel or logging.INFO, file=logfile or None)
    logs.name_process(worker=WORKER_ID.rsplit(":", 1)[0])
    app.log.redirect_stdouts("WARNING")


def _begin_to_tell(instance: Any = None, **_: Any) -> None:
    """Before anything is forked: where this worker's processes write what they tell of themselves."""
    if get_settings().log_format == "json" and instance is not None:
        instance.quiet = True  # Celery's banner is no JSON
    parent.begin(get_settings())


def _start_helpers(**_: Any) -> None:
    try:
        Broker(get_settings(), app).prepare()
    except BrokerUnavailable as error:  # without it dead letters are dropped, and their units are announced again
        log.warning("%s: %s", error, error.__cause__)
    helpers: list[Helper] = [
        Reaper(get_settings(), parent.observer()),
        Committer(get_settings()),
        ClerkChild(get_settings()),
        *parent.helpers(get_settings()),
    ]
    for helper in helpers:
        helper.start()
        _helpers.append(helper)


def _tell_child_to_stop(**_: Any) -> None:
    """A warm shut-down: the child finishes its batch, releases the rest, and ends its shift."""
    STOPPING.set()


def _stop_helpers(**_: Any) -> None:
    while _helpers:
        _helpers.pop().stop()
    parent.end()


setup_logging.connect(_set_up_logs, weak=False)
celeryd_init.connect(_refuse_shared_devices, weak=False)
celeryd_init.connect(_begin_to_tell, weak=False)
worker_process_shutdown.connect(parent.child_ends, weak=False)
worker_ready.connect(_start_helpers, weak=False)
worker_shutting_down.connect(_tell_child_to_stop, weak=False)
worker_shutdown.connect(_stop_helpers, weak=False)
