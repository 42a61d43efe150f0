"""Following a job until it is finished: what is read, and what it says in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.cli.fleet import at_work, fleet, unfit_reasons
from worker.cli.output import ago
from worker.cli.speed import Speed

if TYPE_CHECKING:
    import uuid

    from sqlalchemy import Connection

    from jobs.database import Database
    from jobs.settings import Settings

QUIET_SECONDS = 10.0
SHOWN_WORKERS, SHOWN_FAILURES = 3, 5


@dataclass(frozen=True)
class Moment:
    """A job at one moment: its counts, or why they could not be read; and whether every worker is told to pause.

    `at_work` are the workers that hold units of it, `failures` how many pictures failed for which reason.
    """

    job: Mapping[str, Any] | None
    workers: list[dict[str, Any]] = field(default_factory=list)
    trouble: str | None = None
    fleet_paused: bool = False
    at_work: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether the database says that nothing of the job waits any more; never so while it is away."""
        return self.trouble is None and self.job is not None and self.job["waiting"] == 0


def job_reader(database: Database, settings: Settings, tenant: str, job_id: uuid.UUID) -> Callable[[], Moment]:
    """A function that reads the job now; an outage of the database is an answer, not an error.

    It raises UnknownJob when the job is not there any more.
    """
    from jobs.errors import DatabaseUnavailable, UnknownJob
    from jobs.repository import control, queries

    failures = _Failures(tenant, job_id)

    def read() -> Moment:
        try:
            with database.reading() as tx:
                job = queries.job(tx, tenant, job_id)
                seen = [dict(row) for row in queries.workers(tx)]
                owners = queries.owners(tx, tenant, job_id)
                fleet_paused = control.fleet_paused_at(tx) is not None
                told = failures.of(tx, 0 if job is None else job["failed"])
        except DatabaseUnavailable as error:
            return Moment(None, trouble=str(error))
        if job is None:
            raise UnknownJob(f"job {job_id} is not there any more: it was erased while it was watched")
        workers = fleet(seen, time.time(), silent_after=settings.lease_seconds)
        return Moment(
            dict(job), workers, fleet_paused=fleet_paused, at_work=at_work(seen, workers, owners), failures=told
        )

    return read


class _Failures:
    """The reasons of failures, asked for only when there are more or fewer than before."""

    def __init__(self, tenant: str, job_id: uuid.UUID) -> None:
        self._job = (tenant, job_id)
        self._count, self._rows = 0, list[Mapping[str, Any]]()

    def of(self, tx: Connection, failed: int) -> list[Mapping[str, Any]]:
        """The reasons when so many have failed."""
        from jobs.repository import queries

        if failed != self._count:
            self._count, self._rows = failed, [dict(row) for row in queries.failures(tx, *self._job)]
        return self._rows


def follow(read: Callable[[], Moment], wait: Callable[[float], object], interval: float) -> Iterator[Moment]:
    """Moments of the job, one each interval, up to the one in which nothing waits any more."""
    while True:
        moment = read()
        yield moment
        if moment.is_over:
            return
        wait(interval)


def settled(job: Mapping[str, Any]) -> int:
    """Pictures that are done, failed or cancelled."""
    return int(job["renders"] - job["waiting"])


def remark(moment: Moment, speed: Speed) -> str:
    """What a person should know about why it does not go on; empty when it does."""
    if moment.trouble is not None:
        return f"the database is away, trying again: {moment.trouble}"
    if moment.job is not None and moment.job["state"] == "paused":
        return "the job is paused; `portraits resume` lets it go on"
    if moment.fleet_paused:
        return "the fleet is paused; `portraits resume --fleet` lets it go on"
    unfit = unfit_reasons(moment.workers)
    fit = [worker for worker in moment.workers if worker["state"] in {"working", "starting", "idle"}]
    if unfit and (not fit or speed.quiet_seconds > QUIET_SECONDS):
        return "; ".join(unfit)
    if speed.quiet_seconds > QUIET_SECONDS and not any(w["state"] in {"working", "starting"} for w in fit):
        return "no worker is drawing; `portraits worker` starts one"
    if any(worker["state"] == "starting" for worker in fit) and moment.job is not None and not settled(moment.job):
        return "a worker is loading its weights"
    return ""


def speed_text(speed: Speed) -> str:
    """Pictures a second, as far as they are known."""
    rate = speed.per_second
    return "" if rate is None else f"{rate:.2f} images/s"


def left_text(moment: Moment, speed: Speed) -> str:
    """The time that is left, as sure as it is; empty where nothing waits."""
    if moment.job is None or not moment.job["waiting"]:
        return ""
    left = speed.left(moment.job["waiting"])
    if left is None and speed.is_stalled:
        return f"time left unknown: nothing has come for {ago(speed.quiet_seconds)}"
    if left is None:
        return "time left unknown until more pictures have come"
    if left.most is None:
        return f"{ago(left.least)} left or more"
    return f"about {ago(left.likely)} left ({ago(left.least)} to {ago(left.most)})"


def failures_text(moment: Moment) -> str:
    """Why pictures failed, the most frequent reason first."""
    told = [f"{row['renders']} {row['error_code']}" for row in moment.failures[:SHOWN_FAILURES]]
    rest = sum(row["renders"] for row in moment.failures[SHOWN_FAILURES:])
    return ", ".join([*told, *([f"{rest} others"] if rest else [])])


def workers_text(moment: Moment) -> str:
    """Who is drawing this job and how busy each device is, and how many others are there."""
    shown = [f"{worker['name']} {_use(worker)}" for worker in moment.at_work[:SHOWN_WORKERS]]
    rest = len(moment.at_work) - len(shown)
    others = [w for w in moment.workers if w["state"] in {"working", "starting", "idle"}]
    elsewhere = max(0, len(others) - len(moment.at_work))
    parts = [", ".join(shown) if shown else "nobody holds it now", f"{rest} more" if rest > 0 else ""]
    parts += [f"{elsewhere} other{'s' if elsewhere > 1 else ''} running" if elsewhere else ""]
    return "; ".join(part for part in parts if part)


def _use(worker: Mapping[str, Any]) -> str:
    share = worker["drawing_share"]
    if share is None:
        return "(device use unknown)"
    return f"(device {100 * share:.0f} % drawing, {100 * (1 - share):.0f} % idle)"
