"""`portraits retry` and what it tries: failed, quarantined, cancelled, or one code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_world import CliWorld
from sqlalchemy import select, update

from hyperlora.errors import NoUsablePhoto
from jobs.database import Database
from jobs.models import Render, Unit


@pytest.fixture
def half_quarantined(cli: CliWorld) -> Iterator[CliWorld]:
    """A job of two people with three pictures each that all failed, one person's because it is quarantined."""
    cli.enqueue(key="party")
    cli.draw(refuse=lambda photos: NoUsablePhoto("no face"))
    database = Database.from_settings(cli.settings)
    with database.transaction() as tx:
        unit = tx.execute(select(Unit.id).limit(1)).scalar_one()
        tx.execute(update(Unit).where(Unit.id == unit).values(lost_workers=3, error_code="quarantined"))
        tx.execute(update(Render).where(Render.unit_id == unit).values(error_code="quarantined"))
    yield cli
    database.dispose()


@pytest.mark.parametrize(
    ("flags", "count"),
    [((), 3), (("--failed",), 3), (("--quarantined",), 3), (("--failed", "--quarantined"), 6), (("--code", "none"), 0)],
)
def test_the_flags_choose_what_waits_again(half_quarantined: CliWorld, flags: tuple[str, ...], count: int) -> None:
    # When it is tried again
    answer = half_quarantined.json("retry", "party", *flags)

    # Then so much waits, and who asked for no quarantined ones is told that some were left
    assert answer["retried"] == half_quarantined.json("status", "party")["job"]["waiting"] == count
    left = any("3 quarantined pictures were left" in warning for warning in answer["warnings"])
    assert left is ("--quarantined" not in flags)


def test_what_is_not_tried_is_not_said_to_be_well(half_quarantined: CliWorld) -> None:
    # Given failed pictures, when none has the code or is left to be tried, then nobody says that none failed
    told = half_quarantined.run("retry", "party", "--code", "none").stdout
    assert "nothing of party that failed with the code none may be tried now" in told
    half_quarantined.run("retry", "party", "--failed")
    assert "nothing of party that failed may be tried now" in half_quarantined.run("retry", "party").stdout


def test_the_warning_names_the_command_that_tries_them(half_quarantined: CliWorld) -> None:
    assert "portraits retry party --quarantined" in half_quarantined.run("retry", "party").output


def test_suggested_commands_name_the_tenant_that_was_asked_about(cli: CliWorld) -> None:
    # Given a job of another tenant than that of the settings, under a key that both use
    cli.enqueue(key="party", name="ours")
    theirs = cli.enqueue(key="party", name="theirs", tenant="acme")

    # When its pictures are cancelled and tried again, and its people are looked at a page at a time
    cli.run("cancel", "party", "--tenant", "acme")
    tried = cli.run("retry", "party", "--cancelled", "--tenant", "acme").output
    page = cli.run("status", "party", "--limit", 1, "--tenant", "acme").output
    jobs = cli.run("status", "--limit", 1, "--tenant", "acme").output
    none = cli.run("retry", "party", "--code", "oom", "--tenant", "acme").output

    # Then what is suggested looks at the same job, and pages are as long
    assert "portraits watch party --tenant acme" in tried
    assert f"portraits status {theirs['job_id']} --tenant acme --after" in " ".join(page.split())
    assert "portraits status --limit 1 --after" in jobs and "--tenant acme" in jobs
    assert "portraits status party --tenant acme" in " ".join(none.split())
