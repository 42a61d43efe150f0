"""`portraits status`, `watch`, `cancel`, `retry`, `rerun`, `db`."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from cli_world import CliWorld
from rich.console import Console

from hyperlora.errors import NoUsablePhoto
from jobs.database import Database
from jobs.repository import fleet
from worker.cli import watch
from worker.cli.fleet import fleet as fleet_of
from worker.cli.fleet import fleet_line, fleet_shifts
from worker.cli.progress import Moment, follow, remark
from worker.cli.speed import Speed
from worker.cli.views import LinesView


def test_the_schema_is_shown_and_upgraded(cli: CliWorld) -> None:
    assert cli.json("db", "current", exit_code=3)["current"] is False
    first = cli.json("db", "upgrade")
    assert first["before"] is None and first["revision"]
    assert cli.json("db", "upgrade")["before"] == first["revision"]
    assert cli.json("db", "current") == {
        **{"database": first["database"], "revision": first["revision"]},
        **{"wanted": first["revision"], "current": True},
    }


def test_status_lists_jobs_and_workers(cli: CliWorld) -> None:
    # Given a job
    job = cli.enqueue(name="Summer party", key="party")

    # When the status is asked
    answer, told = cli.json("status"), cli.run("status").stdout

    # Then both forms have it
    assert set(answer) == {"jobs", "next", "workers", "fleet_paused_at"}
    assert answer["jobs"][0]["job_id"] == job["job_id"]
    assert answer["jobs"][0]["waiting"] == 6
    assert "Summer party" in told and "0/6" in told and "none running" in told


def test_status_of_the_fleet_tells_how_busy_devices_are(cli: CliWorld) -> None:
    # Given a day without a shift, and then a job that a worker draws
    cli.migrate()
    assert "no shift ended within a day" in cli.run("status", "--fleet").stdout
    cli.enqueue(key="party")
    cli.draw()

    # When the fleet's status is asked
    answer, told = cli.json("status", "--fleet"), cli.run("status", "--fleet").stdout

    # Then the worker's shifts are summed: 6 pictures of two people in two batches of at most 4
    assert set(answer) == {"workers", "together", "shifts"}
    [together], [shift] = answer["together"], answer["shifts"]
    assert [together[name] for name in ("shifts", "pictures", "batches", "fill")] == [1, 6, 2, 0.75]
    assert shift["worker"] == together["worker"] and shift["batch_sizes"] == {"3": 2}
    assert 0 <= together["idle_share"] < 1 and 0 < together["busy_share"] <= 1
    assert "75 %" in told and "busy: drawing" in cli.run("status", "--fleet").stderr


def test_shares_of_several_shifts_are_of_all_their_seconds() -> None:
    # Given a long shift that hardly idled and a short one that idled for half of its time
    common = {"worker": "a", "profile": "p", "device": "d", "version": "1", "ended_at": None}
    counts = dict.fromkeys(("units", "people", "renders", "mixed", "generated"), 1)
    long = {"seconds": 100.0, "seconds_drawing": 90.0, "seconds_between": 0.0, "pictures": 9, "places": 10}
    short = {"seconds": 25.0, "seconds_drawing": 10.0, "seconds_between": 10.0, "pictures": 1, "places": 10}
    rest = {"batches": 1, "seconds_before": 1.0, "seconds_preparing": 1.0}

    # When they are taken together
    [told] = fleet_shifts([common | counts | rest | long, common | counts | rest | short])

    # Then shares are weighted by time and places: 10 of 110 seconds, 100 of 125, 10 of 20
    assert (told["idle_share"], told["busy_share"], told["fill"]) == (pytest.approx(10 / 110), 0.8, 0.5)
    assert told["shifts"] == 2
    [none] = fleet_shifts([common | counts | rest | dict.fromkeys(long, 0)])
    assert (none["idle_share"], none["busy_share"], none["fill"]) == (None, None, None)


def test_the_fleet_is_nobodys_job_or_tenant(cli: CliWorld) -> None:
    cli.migrate()
    assert "serve every job" in cli.run("status", "party", "--fleet", exit_code=2).stderr


def test_status_of_a_job_by_id_and_by_key(cli: CliWorld) -> None:
    job = cli.enqueue(key="party")
    cli.draw()
    for name in (job["job_id"], "party"):
        answer = cli.json("status", name)
        assert set(answer) == {"job", "people", "failures", "next"}
        assert answer["job"]["state"] == "done"
        assert [one["external_id"] for one in answer["people"]] == ["ada", "alan"]


def test_status_tells_why_pictures_failed(cli: CliWorld) -> None:
    cli.enqueue(key="party")
    cli.draw(refuse=lambda photos: NoUsablePhoto("the face is turned away"))
    answer, told = cli.json("status", "party"), cli.run("status", "party").stdout
    assert answer["failures"][0]["error_code"] == "no_usable_photo"
    assert answer["failures"][0]["renders"] == 6
    assert "the face is turned away" in told


def test_an_unknown_job_is_not_found(cli: CliWorld) -> None:
    cli.migrate()
    for command in ("status", "cancel", "retry", "results", "watch"):
        assert cli.json(command, "nobody", exit_code=5)["error"]["code"] == "unknown_job"


def test_names_cannot_act_on_the_terminal(cli: CliWorld) -> None:
    cli.enqueue(name="[red]x[/red] [link=file:///etc]y[/link]")
    assert "[red]x[/red]" in cli.run("status").stdout


def test_unfit_workers_are_told_with_their_reason(cli: CliWorld) -> None:
    # Given a worker that cannot load its profile
    cli.migrate()
    database = Database.from_settings(cli.settings)
    with database.transaction() as tx:
        fleet.sign_of_life(
            tx, "w1", name="host:1", pid=1, version="0.1", state="unfit", error="profile big: no weights at /models"
        )
    database.dispose()

    # Then the status names it
    assert "1 unfit" in cli.run("status").stdout
    assert "no weights at /models" in cli.run("status").stdout
    (worker,) = cli.json("status")["workers"]
    assert (worker["state"], worker["error"]) == ("unfit", "profile big: no weights at /models")


def _worker(state: str, age: float, **more: Any) -> dict[str, Any]:
    row = {"name": "w", "profile": None, "device": None, "version": "0", "error": None}
    return {**row, "last_seen_at": 1000.0 - age, "drawing_share": None, "state": state, **more}


def test_a_working_worker_without_a_sign_of_life_is_silent() -> None:
    found = fleet_of([_worker("working", 5), _worker("working", 500), _worker("idle", 500)], 1000.0, silent_after=120)
    assert [worker["state"] for worker in found] == ["working", "silent", "idle"]
    assert fleet_line(found) == "workers: 1 working, 1 idle, 1 silent; last sign of life 5 s ago"


def test_watch_ends_with_0_when_all_is_done(cli: CliWorld) -> None:
    cli.enqueue(key="party")
    cli.draw()
    told = cli.run("watch", "party").stdout
    assert "6/6 drawn" in told and "done: 6 done" in told


def test_watch_ends_with_1_when_some_failed_and_answers_json(cli: CliWorld) -> None:
    cli.enqueue(key="party")
    first: list[bool] = []
    cli.draw(refuse=lambda photos: None if first or first.append(True) else NoUsablePhoto("no face"))
    answer = cli.json("watch", "party", exit_code=1)
    assert (answer["job"]["state"], answer["job"]["done"], answer["job"]["failed"]) == ("partial", 3, 3)


def test_watch_survives_the_keyboard_with_a_hint(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job that nobody draws, and a user who interrupts
    job = cli.enqueue()

    def interrupted(*_: object) -> Iterator[Moment]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(watch, "follow", interrupted)

    # When it is watched, then the hint says how to see it again, and the job is untouched
    told = cli.run("watch", exit_code=130)
    assert f"portraits watch {job['job_id']}" in told.stderr
    assert cli.json("status", job["job_id"])["job"]["waiting"] == 6


def _job(done: int, **more: Any) -> dict[str, Any]:
    counts = {"renders": 10, "done": done, "failed": 0, "cancelled": 0, "waiting": 10 - done, "running": 0}
    return {**counts, "state": "running", **more}


def test_an_outage_is_shown_and_survived() -> None:
    # Given a database that is away for one look
    moments = [Moment(_job(2)), Moment(None, trouble="it does not answer"), Moment(_job(10))]
    waits: list[float] = []
    out = io.StringIO()
    view = LinesView(Console(file=out, width=200), clock=lambda: 100.0)

    # When the job is followed
    for moment in follow(iter(moments).__next__, waits.append, 0.5):
        view.show(moment)

    # Then the outage was told and the end was seen
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("2/10 drawn")
    assert "the database is away" in lines[1] and "it does not answer" in lines[1]
    assert lines[2].startswith("10/10 drawn")
    assert waits == [0.5, 0.5]


def test_speed_is_that_of_the_last_minute() -> None:
    # Given 10 pictures in the first 100 s and 60 in the 60 s after
    now = 0.0
    speed = Speed(clock=lambda: now)
    for now, count in ((0.0, 0), (100.0, 10), (130.0, 40), (160.0, 70)):  # noqa: B007
        speed.add(count)

    # Then it is (70 - 10) / 60 s
    assert speed.per_second == pytest.approx(1.0)
    assert speed.quiet_seconds == 0.0


def test_a_job_that_nobody_draws_is_explained() -> None:
    now = 0.0
    speed = Speed(clock=lambda: now)
    speed.add(0)
    assert remark(Moment(_job(0)), speed) == ""
    now = 60.0
    assert "`portraits worker`" in remark(Moment(_job(0)), speed)
    unfit = [{"state": "unfit", "error": "no weights"}]
    assert "no weights" in remark(Moment(_job(0), unfit), speed)


def test_cancel_stops_what_waits(cli: CliWorld) -> None:
    cli.enqueue(key="party")
    assert cli.json("cancel", "party") == {"job": "party", "cancelled": 6}
    assert cli.json("status", "party")["job"]["state"] == "cancelled"
    assert cli.json("watch", "party", exit_code=1)["job"]["cancelled"] == 6


def test_retry_draws_failed_and_cancelled_ones_again(cli: CliWorld) -> None:
    # Given a job whose pictures all failed
    cli.enqueue(key="party")
    cli.draw(refuse=lambda photos: NoUsablePhoto("no face"))

    # When it is tried again, then all are drawn
    assert cli.json("retry", "party")["retried"] == 6
    cli.draw()
    assert cli.json("status", "party")["job"]["done"] == 6
    # And nothing more is to be tried
    assert cli.json("retry", "party")["retried"] == 0
    assert "nothing of party that failed may be tried now" in cli.run("retry", "party").stdout


def test_retry_of_cancelled_ones_must_be_asked_for(cli: CliWorld) -> None:
    cli.enqueue(key="party")
    cli.run("cancel", "party")
    assert cli.json("retry", "party")["retried"] == 0
    assert cli.json("retry", "party", "--cancelled")["retried"] == 6


def test_rerun_draws_one_picture_under_another_seed(cli: CliWorld) -> None:
    # Given a finished job
    cli.enqueue(key="party")
    cli.draw()
    old = cli.json("results", "party")["renders"][0]

    # When one picture is asked for again with seed 77
    answer = cli.json("rerun", old["render_id"], "--seed", 77)
    cli.draw()

    # Then there is a seventh picture that names the old one
    rows = cli.json("results", "party")["renders"]
    assert (answer["seed"], answer["rerun_of"]) == (77, old["render_id"])
    assert len(rows) == 7
    assert (rows[-1]["render_id"], rows[-1]["seed"]) == (answer["render_id"], 77)
    assert rows[-1]["rerun_of"] == old["render_id"]


def test_rerun_of_nothing_known(cli: CliWorld) -> None:
    cli.migrate()
    assert cli.json("rerun", uuid.uuid4(), exit_code=5)["error"]["code"] == "unknown_job"
    assert cli.json("rerun", "not-an-id", exit_code=2)["error"]["code"] == "usage"


def test_jobs_people_and_results_come_in_pages(cli: CliWorld) -> None:
    # Given three jobs
    jobs = [cli.enqueue(key=f"job-{number}")["job_id"] for number in range(3)]

    # When they are listed two at a time, then the second page goes on after the first
    first = cli.json("status", "--limit", 2)
    assert [one["job_id"] for one in first["jobs"]] == [jobs[2], jobs[1]] and first["next"] == jobs[1]
    second = cli.json("status", "--limit", 2, "--after", first["next"])
    assert [one["job_id"] for one in second["jobs"]] == [jobs[0]] and second["next"] is None
    assert f"--after {jobs[1]}" in cli.run("status", "--limit", 2).output
    assert "no job is older" in cli.run("status", "--after", jobs[0]).stdout

    # And so do the people of a job, and its pictures
    people = [one["external_id"] for one in cli.json("status", jobs[0])["people"]]
    page = cli.json("status", jobs[0], "--limit", 1)
    rest = cli.json("status", jobs[0], "--limit", 1, "--after", page["next"])
    assert [one["external_id"] for one in (*page["people"], *rest["people"])] == people
    assert rest["next"] is None and cli.json("status", jobs[0])["next"] is None
    assert f"--after {page['next']}" in cli.run("status", jobs[0], "--limit", 1).output
    last = cli.run("status", jobs[0], "--limit", 1, "--after", page["next"]).output
    assert "more people" not in last and "--after" not in last
    some = cli.json("results", jobs[0], "--limit", 4)
    more = cli.json("results", jobs[0], "--limit", 4, "--after", some["next"])
    assert [one["ordinal"] for one in (*some["renders"], *more["renders"])] == list(range(6))
    assert "next" not in more

    # And what is no key is refused
    cli.run("status", "--after", "soon", exit_code=2)
    cli.run("results", jobs[0], "--out", "out", "--limit", 4, exit_code=2)
