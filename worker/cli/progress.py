"""Following a job until it is finished: what is read, how fast it goes, how it is shown."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from worker.cli.fleet import fleet, unfit_reasons
from worker.cli.output import ago, clean

if TYPE_CHECKING:
    import uuid

    from rich.console import Console

    from jobs.database import Database
    from jobs.settings import Settings

WINDOW_SECONDS = 60.0
LINE_SECONDS = 10.0
QUIET_SECONDS = 10.0


@dataclass(frozen=True)
class Moment:
    """A job at one moment: its counts, or why they could not be read; and whether every worker is told to pause."""

    job: Mapping[str, Any] | None
    workers: list[dict[str, Any]] = field(default_factory=list)
    trouble: str | None = None
    fleet_paused: bool = False


def job_reader(database: Database, settings: Settings, tenant: str, job_id: uuid.UUID) -> Callable[[], Moment]:
    """A function that reads the job now; an outage of the database is an answer, not an error."""
    from jobs.errors import DatabaseUnavailable
    from jobs.repository import control, queries

    def read() -> Moment:
        try:
            with database.reading() as tx:
                job = queries.job(tx, tenant, job_id)
                seen = [dict(row) for row in queries.workers(tx)]
                fleet_paused = control.fleet_paused_at(tx) is not None
        except DatabaseUnavailable as error:
            return Moment(None, trouble=str(error))
        workers = fleet(seen, time.time(), silent_after=settings.lease_seconds)
        return Moment(dict(job) if job is not None else None, workers, fleet_paused=fleet_paused)

    return read


def follow(read: Callable[[], Moment], wait: Callable[[float], object], interval: float) -> Iterator[Moment]:
    """Moments of the job, one each interval, up to the one in which nothing waits any more."""
    while True:
        moment = read()
        yield moment
        if moment.job is not None and moment.job["waiting"] == 0:
            return
        wait(interval)


class Speed:
    """Pictures a second over the last minute, from counts as they come.

    It begins with the first change that is seen: the wait before, for a worker that loads its weights, is no drawing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._first: int | None = None
        self.changed_at = clock()

    def add(self, settled: int) -> None:
        """Note how many pictures are settled now."""
        now = self._clock()
        if self._seen and self._seen[-1][1] != settled:
            self.changed_at = now
            if self._seen[0][1] == self._first:
                self._first = None
                self._seen.clear()
        elif not self._seen:
            self._first = settled
        self._seen.append((now, settled))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """Pictures a second; None as long as it is unknown."""
        if len(self._seen) < 2:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began and last > first else None

    @property
    def quiet_seconds(self) -> float:
        """For how long nothing has been settled."""
        return self._clock() - self.changed_at


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


def rate_text(moment: Moment, speed: Speed) -> str:
    """Pictures a second and the time that is left, as far as they are known."""
    rate = speed.per_second
    if rate is None or moment.job is None:
        return ""
    left = moment.job["waiting"] / rate
    return f"{rate:.2f} images/s" + (f", {ago(left)} left" if moment.job["waiting"] else "")


class View(AbstractContextManager["View"], Protocol):
    """Something that shows moments as they come."""

    def show(self, moment: Moment) -> None:
        """Show the job as it is now."""


class LinesView:
    """A line at the start, at the end, when the trouble changes, and else every few seconds: for pipes and logs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._speed = Speed(clock)
        self._last: tuple[float, int, str] | None = None

    def __enter__(self) -> LinesView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, moment: Moment) -> None:
        """Print a line if there is something new to say."""
        now = self._clock()
        if moment.job is not None:
            self._speed.add(settled(moment.job))
        note = remark(moment, self._speed)
        count = settled(moment.job) if moment.job is not None else -1
        finished = moment.job is not None and moment.job["waiting"] == 0
        if self._last is not None and not finished and note == self._last[2]:
            nothing_new = count in {self._last[1], -1}
            if nothing_new or now - self._last[0] < LINE_SECONDS:
                return
        self._last = (now, count, note)
        self._console.print(clean(self._line(moment, note)), markup=False, soft_wrap=True)

    def _line(self, moment: Moment, note: str) -> str:
        if moment.job is None:
            return note
        job = moment.job
        parts = [f"{job['done']}/{job['renders']} drawn", f"{job['failed']} failed" if job["failed"] else ""]
        parts += [rate_text(moment, self._speed), note]
        return ", ".join(part for part in parts if part)


class BarView:
    """A live bar, for terminals."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._speed = Speed()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="yellow", markup=False),
            console=console,
        )
        self._task = self._progress.add_task("drawing", total=None, failed="", rate="", note="")

    def __enter__(self) -> BarView:
        try:
            self._progress.start()
        except BaseException:  # interrupted in here, it would leave the terminal without its cursor
            self._progress.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, moment: Moment) -> None:
        """Move the bar."""
        if moment.job is None:
            self._progress.update(self._task, note=clean(remark(moment, self._speed)))
            return
        job = moment.job
        self._speed.add(settled(job))
        self._progress.update(
            self._task,
            description=clean(job["state"]),
            total=job["renders"],
            completed=settled(job),
            failed=f"{job['failed']} failed" if job["failed"] else "",
            rate=rate_text(moment, self._speed),
            note=clean(remark(moment, self._speed)),
        )


def view_for(console: Console) -> LinesView | BarView:
    """A bar on a terminal, lines elsewhere."""
    return BarView(console) if console.is_terminal else LinesView(console)
