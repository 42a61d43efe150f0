"""`portraits pause` and `resume` on the command line."""

from __future__ import annotations

import re
import uuid

from cli_world import CliWorld
from sqlalchemy import update

from jobs.database import Database
from jobs.models_fleet import Worker
from jobs.repository import fleet
from worker.cli.progress import Moment, remark
from worker.cli.speed import Speed
from worker.process import WorkerProcess


def test_a_job_is_paused_shown_and_resumed(cli: CliWorld) -> None:
    # Given a job
    job = cli.enqueue()["job_id"]

    # When it is paused
    assert cli.json("pause", job) == {"job": job, "fleet": False, "units": 2}

    # Then status says so, drawing does nothing, and pausing it again is no error
    shown = cli.run("status", job).stdout
    assert "paused" in shown and "6 paused" in shown
    cli.draw()
    assert cli.json("status", job)["job"]["done"] == 0
    assert "paused already" in cli.run("pause", job).stdout

    # And when it is resumed, it is drawn
    assert cli.json("resume", job)["units"] == 2
    cli.draw()
    assert cli.json("status", job)["job"]["state"] == "done"
    assert "nothing of" in cli.run("resume", job).stdout


def test_the_fleet_is_paused_shown_and_resumed(cli: CliWorld) -> None:
    # Given a job and a paused fleet
    job = cli.enqueue()["job_id"]
    assert cli.json("pause", "--fleet") == {"job": None, "fleet": True, "units": 0}

    # Then status says so, and a worker that is woken has nothing to draw
    assert "resume --fleet" in cli.run("status").stdout
    assert cli.json("status")["fleet_paused_at"] is not None
    assert WorkerProcess(cli.settings).profile_to_draw(uuid.uuid4()) is None

    # And when it goes on, everything is drawn
    assert cli.json("resume", "--fleet")["was_paused"] is True
    cli.draw()
    assert cli.json("status", job)["job"]["state"] == "done"
    assert cli.json("status")["fleet_paused_at"] is None


def test_a_job_or_the_fleet_is_meant_never_both_or_neither(cli: CliWorld) -> None:
    cli.migrate()
    for command in ("pause", "resume"):
        cli.run(command, exit_code=2)
        cli.run(command, "job", "--fleet", exit_code=2)
        cli.run(command, "--fleet", "--tenant", "acme", exit_code=2)
        assert "unheard-of" in cli.run(command, "unheard-of", exit_code=5).stderr
    assert cli.json("status")["fleet_paused_at"] is None


def test_a_paused_job_is_never_shown_as_stuck() -> None:
    # Given a job for which nothing has happened for a minute, and no worker
    now = 0.0
    speed = Speed(clock=lambda: now)
    speed.add(0)
    now = 60.0
    job = {"renders": 10, "done": 0, "failed": 0, "cancelled": 0, "waiting": 10, "running": 0}

    # Then a pause is the reason that is told
    assert "job is paused" in remark(Moment(job | {"state": "paused"}), speed)
    assert "fleet is paused" in remark(Moment(job | {"state": "waiting"}, fleet_paused=True), speed)


def test_a_worker_is_drained_and_goes_on(cli: CliWorld) -> None:
    # Given an idle worker
    cli.migrate()
    cli.run("drain", "host", exit_code=5)
    database = Database.from_settings(cli.settings)
    with database.transaction() as tx:
        fleet.seen(tx, "host:1:a", name="host:1", pid=1, version="0")

    # When it is drained, then status says so
    assert cli.json("drain", "host:1")["drained"] is True
    assert "1 drained" in cli.run("status").stdout
    assert cli.json("drain", "--all", "--undo") == {"undone": ["host:1"]}
    assert "1 idle" in cli.run("status").stdout

    # And one that does not end in time is a problem
    with database.transaction() as tx:
        fleet.sign_of_life(tx, "host:1:a", name="host:1", pid=1, version="0", state="working", busy=True)
    database.dispose()
    cli.run("drain", "host:1", "--timeout", "0.01", exit_code=1)
    assert "1 draining" in cli.run("status").stdout
    cli.run("drain", exit_code=2)


def test_draining_a_worker_that_was_killed_says_that_it_is_silent(cli: CliWorld) -> None:
    # Given a worker that has been silent for longer than a lease, in the middle of work, and one that works
    cli.migrate()
    database = Database.from_settings(cli.settings)
    with database.transaction() as tx:
        for name in ("dead:1", "live:2"):
            fleet.sign_of_life(tx, f"{name}:a", name=name, pid=1, version="0", state="working", busy=True)
        long_ago = Worker.last_seen_at - cli.settings.lease_seconds - 30
        tx.execute(update(Worker).where(Worker.name == "dead:1").values(last_seen_at=long_ago))
    database.dispose()

    # When the first is to be drained, then it is not said to work, and nobody is told to wait for it
    told = cli.run("drain", "dead:1", exit_code=1).output
    assert re.search(r"dead:1: silent for \d+ s; its units go to others", told) and "once they see it" not in told

    # And of both, only the other is waited for
    told = cli.run("drain", "--all", "--timeout", "0.01", exit_code=1).output
    assert "live:2: working" in told and "1 are not drained" in told and "dead:1: silent" in told
