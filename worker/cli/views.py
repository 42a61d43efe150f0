"""How a job's progress is shown: live on a terminal, a line now and then elsewhere.

What the database said last stays visible while it is away, and is called what it is then: unknown, and since when.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from worker.cli.output import STATE_STYLES, clean
from worker.cli.progress import Moment, failures_text, left_text, remark, settled, speed_text, workers_text
from worker.cli.speed import Speed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

LINE_SECONDS = 10.0


class View(AbstractContextManager["View"], Protocol):
    """Something that shows moments as they come."""

    def show(self, moment: Moment) -> None:
        """Show the job as it is now."""


class Unknown:
    """Since when nobody has known how far the job is."""

    def __init__(self, now: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone()) -> None:
        self._now = now
        self._since: dt.datetime | None = None

    def note(self, moment: Moment) -> str:
        """What to say of it at this moment; empty while it is known."""
        if moment.trouble is None:
            self._since = None
            return ""
        self._since = self._since or self._now()
        return f"unknown since {self._since:%H:%M:%S}"


class LinesView:
    """A line at the start, at the end, when the trouble changes, and else every few seconds: for pipes and logs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._speed, self._unknown = Speed(clock), Unknown()
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
        note = ", ".join(part for part in (self._unknown.note(moment), remark(moment, self._speed)) if part)
        count = settled(moment.job) if moment.job is not None else -1
        if self._last is not None and not moment.is_over and note == self._last[2]:
            nothing_new = count in {self._last[1], -1}
            if nothing_new or now - self._last[0] < LINE_SECONDS:
                return
        self._last = (now, count, note)
        self._console.print(clean(self._line(moment, note)), markup=False, soft_wrap=True)

    def _line(self, moment: Moment, note: str) -> str:
        if moment.job is None:
            return note
        job, why = moment.job, failures_text(moment)
        failed = f"{job['failed']} failed" + (f" ({why})" if why else "") if job["failed"] else ""
        left = left_text(moment, self._speed) if self._speed.per_second is not None else ""
        workers = f"drawn by {workers_text(moment)}" if moment.at_work else ""
        parts = [f"{job['done']}/{job['renders']} drawn", failed, speed_text(self._speed), left, workers, note]
        return ", ".join(part for part in parts if part)


class LiveView:
    """A picture of the job that changes in its place, for terminals."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self._speed, self._unknown, self._clock, self._began = Speed(clock), Unknown(), clock, clock()
        self._known: Moment | None = None
        self._moment: Moment | None = None
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=4)

    def __enter__(self) -> LiveView:
        try:
            self._live.start()
        except BaseException:  # interrupted in here, it would leave the terminal without its cursor
            self._live.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, moment: Moment) -> None:
        """Show the job as it is now, or that nobody knows."""
        if moment.job is not None:
            self._known = moment
            self._speed.add(settled(moment.job))
        self._moment = moment
        self._live.refresh()

    def _picture(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        moment, known = self._moment, self._known
        if moment is None:
            return Text("looking")
        unknown = self._unknown.note(moment)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        if known is None:
            grid.add_row(Text(unknown, style="bold yellow"), "")
        else:
            grid.add_row(self._state(known, unknown), self._bar(known, is_known=not unknown))
            for name, text, style in self._facts(known, is_known=not unknown):
                grid.add_row(Text(name, style="dim"), Text(clean(text), style=style))
        note = remark(moment, self._speed)
        if note:
            grid.add_row(Text("note", style="dim"), Text(clean(note), style="yellow"))
        return grid

    def _state(self, known: Moment, unknown: str) -> Text:
        from rich.text import Text

        assert known.job is not None
        if unknown:
            return Text(unknown, style="bold yellow")
        state = str(known.job["state"])
        return Text(clean(state), style=f"bold {STATE_STYLES.get(state, '')}".strip())

    def _bar(self, known: Moment, *, is_known: bool) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert known.job is not None
        count, total = settled(known.job), known.job["renders"]
        style, word = ("bar.complete", "") if is_known else ("dim", "at least ")
        row = Table.grid(padding=(0, 1))
        share = f"{100 * count // total} %" if total else ""
        bar = ProgressBar(total=max(total, 1), completed=count, width=32, complete_style=style, finished_style=style)
        row.add_row(bar, Text(f"{word}{count}/{total}"), Text(share if is_known else "", style="bold"))
        return row

    def _facts(self, known: Moment, *, is_known: bool) -> list[tuple[str, str, str]]:
        """Names, texts and styles of the lines under the bar; what would be guessed is left out."""
        assert known.job is not None
        passed = dt.timedelta(seconds=round(self._clock() - self._began))
        facts = [("watched", f"for {passed}", "")]
        if is_known and known.job["waiting"]:
            speed = speed_text(self._speed)
            facts.append(("speed", f"{speed}, {left_text(known, self._speed)}" if speed else "not known yet", ""))
            facts.append(("workers", workers_text(known), ""))
        if known.job["failed"]:
            why = failures_text(known)
            facts.append(("failed", f"{known.job['failed']}" + (f": {why}" if why else ""), "red"))
        return facts


def view_for(console: Console) -> LinesView | LiveView:
    """A live view on a terminal, lines elsewhere."""
    return LiveView(console) if console.is_terminal else LinesView(console)
