"""`portraits archive` and `portraits verify` on the command line."""

from __future__ import annotations

from pathlib import Path

from cli_world import CliWorld
from sqlalchemy import update

from jobs.database import Database
from jobs.models import Unit


def test_a_job_is_archived_fetched_and_restored(cli: CliWorld, tmp_path: Path) -> None:
    # Given a drawn job
    job = cli.enqueue()["job_id"]
    cli.draw()
    before = cli.json("status", job)

    # When it is archived
    assert "0 jobs" in cli.run("archive", "--older-than", "90d").stdout
    assert cli.json("archive", "--older-than", "0s") == {"jobs": 1, "renders": 6, "turned": []}

    # Then status shows it, and its pictures, URLs and contact sheet can be had as before
    now = cli.json("status", job)
    assert now["job"].pop("archived_at") is not None and before["job"].pop("archived_at") is None
    assert now == before
    assert "archived" in cli.run("status", job).stdout
    assert cli.json("results", job, "--out", tmp_path / "out", "--sheet")["fetched"] == 6
    assert (tmp_path / "out" / "contact-sheet.png").stat().st_size > 0
    assert len(cli.json("results", job, "--urls")["renders"]) == 6
    assert cli.json("verify", job, "--objects")["ok"] is True

    # And it is retried only when it is restored
    assert "archive --restore" in cli.run("retry", job, exit_code=1).output
    assert cli.json("archive", "--restore", job) == {"jobs": 1, "renders": 6, "turned": []}
    assert "is not archived" in cli.run("archive", "--restore", job).stdout
    cli.run("retry", job)


def test_either_an_age_or_a_job_is_wanted(cli: CliWorld) -> None:
    # Given no job
    cli.migrate()

    # When neither is said, or both, or a job that is not there, then each is refused with what was wanted
    for asked in ((), ("--older-than", "1d", "--restore", "job")):
        assert "either --older-than TIME or --restore" in " ".join(
            cli.run("archive", *asked, exit_code=2).stderr.split()
        )
    assert "unheard-of" in cli.run("archive", "--restore", "unheard-of", exit_code=5).stderr


def test_verify_tells_differences_and_sets_settled_units_right(cli: CliWorld) -> None:
    # Given a drawn job whose units count wrong
    job = cli.enqueue()["job_id"]
    cli.draw()
    assert "all is as counted" in cli.run("verify").stdout
    database = Database.from_settings(cli.settings)
    with database.transaction() as tx:
        tx.execute(update(Unit).values(renders_done=2, renders_cancelled=1))
    database.dispose()

    # When it is verified, then it is told and the code says so; when it is set right, all is well
    told = cli.json("verify", job, exit_code=1)
    assert {one["kind"] for one in told["differences"]} == {"unit_counters"}
    assert "2 units corrected" in cli.run("verify", "--all", "--fix").stdout
    assert cli.json("verify", "--all")["ok"] is True
    cli.run("verify", job, "--all", exit_code=2)
