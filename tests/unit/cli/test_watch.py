"""What `portraits watch` says: how fast, how long, how sure; why, by whom; and that unknown is not done."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

import pytest
from cli_world import CliWorld
from rich.console import Console

from hyperlora.errors import NoUsablePhoto
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, UnknownJob
from jobs.reports import find_job
from worker.cli import watch
from worker.cli.fleet import at_work, fleet
from worker.cli.progress import Moment, failures_text, follow, job_reader, left_text, workers_text
from worker.cli.speed import Speed
from worker.cli.views import LinesView, LiveView, Unknown


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _job(done: int, total: int = 100, **more: Any) -> dict[str, Any]:
    counts = {"renders": total, "done": done, "failed": 0, "cancelled": 0, "waiting": total - done, "running": 0}
    return {**counts, "state": "running", **more}


def _speed(clock: Clock, counts: Sequence[tuple[float, int]]) -> Speed:
    speed = Speed(clock)
    for at, count in counts:
        clock.now = at
        speed.add(count)
    return speed


def test_the_time_left_is_unknown_until_pictures_have_come_three_times(clock: Clock) -> None:
    # Given a watch that has seen two batches
    speed = _speed(clock, [(0, 0), (10, 4), (20, 8)])
    assert speed.left(40) is None
    assert "unknown until more pictures" in left_text(Moment(_job(8)), speed)

    # When the third comes, then there is an estimate: 4 pictures in 10 s, 40 wait
    clock.now = 30
    speed.add(12)
    left = speed.left(40)
    assert left is not None and left.likely == pytest.approx(100)


def test_steady_work_is_known_well_and_uneven_work_is_not(clock: Clock) -> None:
    # Given 4 pictures every 10 s; and 4 pictures after 2 s and 18 s in turn: as many in the same time
    steady = _speed(clock, [(10.0 * n, 4 * n) for n in range(6)]).left(40)
    uneven_clock = Clock()
    times, now = [], 0.0
    for n in range(6):
        times.append((now, 4 * n))
        now += 2.0 if n % 2 else 18.0
    uneven = _speed(uneven_clock, times).left(40)

    # Then nobody claims to know the first better than by a tenth, and the second is told as less sure
    assert steady is not None and uneven is not None and steady.most is not None
    assert steady.least == pytest.approx(100 / 1.1) and steady.most == pytest.approx(100 / 0.9)
    assert uneven.least < steady.least
    assert uneven.most is None or uneven.most > steady.most


def test_work_that_stopped_has_no_time_left(clock: Clock) -> None:
    # Given batches every 10 s
    speed = _speed(clock, [(10.0 * n, 4 * n) for n in range(6)])
    assert speed.left(40) is not None

    # When nothing has come for more than four times as long, then there is no telling
    clock.now += 41
    assert speed.left(40) is None
    assert left_text(Moment(_job(20)), speed) == "time left unknown: nothing has come for 41 s"


def test_pictures_that_are_tried_again_are_no_speed_backwards(clock: Clock) -> None:
    speed = _speed(clock, [(10.0 * n, 4 * n) for n in range(6)])
    clock.now += 10
    speed.add(4)  # sixteen failed ones wait again
    assert speed.left(96) is None and (speed.per_second is None or speed.per_second > 0)


def test_reasons_are_told_the_most_frequent_first_and_not_without_end() -> None:
    rows = [{"error_code": f"code_{n}", "renders": 20 - n} for n in range(8)]
    told = failures_text(Moment(_job(1), failures=rows))
    assert told == "20 code_0, 19 code_1, 18 code_2, 17 code_3, 16 code_4, 42 others"


def _row(name: str, pid: int, **more: Any) -> dict[str, Any]:
    row = {"name": name, "pid": pid, "profile": "p", "device": "cuda", "version": "1", "error": None}
    return {**row, "state": "working", "last_seen_at": 100.0, "drawing_share": None, **more}


def test_who_draws_the_job_is_told_with_the_use_of_the_device() -> None:
    # Given three workers: the name is the parent's process, the lease is the child's
    rows = [_row("gpu1:10", 11, drawing_share=0.934), _row("gpu2:20", 21), _row("gpu3:30", 31, state="idle")]
    workers = fleet(rows, 101.0, silent_after=60)

    # When two of them hold units of the job
    mine = at_work(rows, workers, ["gpu1:11:abc", "gpu2:21:def", "gone:9:x"])

    # Then these are told, and what is not known of a device is not made up
    told = workers_text(Moment(_job(1), workers, at_work=mine))
    assert told == "gpu1:10 (device 93 % drawing, 7 % idle), gpu2:20 (device use unknown); 1 other running"


def _shown(view: LiveView, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(view._picture())
    told: Any = console.file
    return str(told.getvalue())


def _live(clock: Clock) -> LiveView:
    view = LiveView(Console(file=io.StringIO(), width=100), clock)
    view._unknown = Unknown(lambda: dt.datetime(2026, 11, 28, 12, 30, 5) + dt.timedelta(seconds=clock.now))
    return view


def test_the_view_tells_state_speed_workers_and_reasons(clock: Clock) -> None:
    # Given a job of which some failed, watched for a minute
    view = _live(clock)
    workers = fleet([_row("gpu1:10", 11, drawing_share=0.9)], 101.0, silent_after=60)
    for count in (0, 10, 20, 30):
        clock.now += 10
        failed = [{"error_code": "no_face", "renders": 2}]
        view.show(Moment(_job(count, failed=2, waiting=98 - count), workers, at_work=workers, failures=failed))

    # Then all of it is there
    told = _shown(view)
    assert "running" in told and "32/100" in told and "32 %" in told
    assert "1.00 images/s, about 1 min left" in told
    assert "gpu1:10 (device 90 % drawing, 10 % idle)" in told and "2: 2 no_face" in told


@pytest.mark.parametrize("waiting", [40, 0])
def test_unknown_is_never_shown_as_done(clock: Clock, waiting: int) -> None:
    # Given a job that was running when the database was last heard of, with everything settled or not
    view = _live(clock)
    view.show(Moment(_job(100 - waiting)))

    # When the database is away for 20 s
    for _ in range(2):
        clock.now += 10
        view.show(Moment(None, trouble="postgresql://db does not answer"))

    # Then it is unknown, since when it was first noticed, what was known is a lower bound, and no rate is told
    told = _shown(view)
    assert "unknown since 12:30:15" in told and f"at least {100 - waiting}/100" in told
    assert "does not answer" in told
    assert "done" not in told and "images/s" not in told and "%" not in told
    # And when it answers, all is as it was
    view.show(Moment(_job(100, state="done")))
    assert "unknown" not in _shown(view) and "done" in _shown(view)


def test_following_never_ends_on_what_is_unknown() -> None:
    # Given a job whose end falls into an outage
    moments = iter(
        [Moment(_job(99)), Moment(None, trouble="away"), Moment(_job(100), trouble="away"), Moment(_job(100))]
    )
    waits: list[float] = []

    # When it is followed, then to the moment in which the database says so
    seen = list(follow(moments.__next__, waits.append, 1.0))
    assert len(seen) == 4 and seen[-1].trouble is None and waits == [1.0] * 3


def test_lines_tell_since_when_nothing_is_known() -> None:
    # Given lines for a log, and an outage of two looks
    out = io.StringIO()
    view = LinesView(Console(file=out, width=300), clock=lambda: 0.0)
    view._unknown = Unknown(lambda: dt.datetime(2026, 11, 28, 12, 30, 5))
    for moment in (Moment(_job(1)), Moment(None, trouble="away"), Moment(None, trouble="away"), Moment(_job(2))):
        view.show(moment)

    # Then it is told once, and what follows is known again
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and "unknown since 12:30:05, the database is away, trying again: away" in lines[1]
    assert lines[2].startswith("2/100 drawn")


def test_a_narrow_terminal_shows_all_of_it(clock: Clock) -> None:
    view = _live(clock)
    view.show(Moment(_job(10), failures=[]))
    assert "10/100" in _shown(view, width=46) and "watched" in _shown(view, width=46)


def test_a_hostile_reason_does_not_reach_the_terminal(clock: Clock) -> None:
    view = _live(clock)
    view.show(Moment(_job(1, failed=1), failures=[{"error_code": "x\x1b[2J[red]", "renders": 1}]))
    assert "\x1b" not in _shown(view) and "[red]" in _shown(view)


def test_a_job_that_is_erased_while_it_is_watched_is_told_as_gone(cli: CliWorld) -> None:
    # Given somebody who watches a job
    job = cli.enqueue()
    database = Database.from_settings(cli.settings)
    row = find_job(database, "default", job["job_id"])
    read = job_reader(database, cli.settings, "default", row.id)
    assert read().job is not None

    # When the job's rows are erased, then that is an error and no end
    with database.transaction() as tx:
        for table in ("renders", "units"):
            tx.exec_driver_sql(f"DELETE FROM {table}")
    with pytest.raises(UnknownJob, match="erased while it was watched"):
        read()
    database.dispose()


def test_the_end_is_told_when_the_database_is_back(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job that is done, and a database that goes away between the last look and the summary
    cli.enqueue(key="party")
    cli.draw()
    asked: list[int] = []
    from jobs import reports

    known = reports.status

    def sometimes(*given: Any, **named: Any) -> Any:
        asked.append(1)
        if len(asked) < 3:
            raise DatabaseUnavailable("sqlite:// does not answer")
        return known(*given, **named)

    monkeypatch.setattr(reports, "status", sometimes)

    # When it is watched, then it says unknown, and the end in the end
    told = cli.run("watch", "party", "--interval", "0.05").stdout
    assert "unknown since" in told and told.rstrip().endswith("done: 6 done")
    assert watch.Exit.OK == 0


def test_watch_tells_why_pictures_failed(cli: CliWorld) -> None:
    cli.enqueue(key="party")
    cli.draw(refuse=lambda photos: NoUsablePhoto("no face"))
    told = cli.run("watch", "party", exit_code=1)
    assert "6 failed (6 no_usable_photo)" in told.stdout and "6 x no_usable_photo: no face" in told.stderr
