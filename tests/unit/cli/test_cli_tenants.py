"""Limits of tenants: set on the command line, and what enqueueing says about them."""

from __future__ import annotations

import pytest
from cli_world import CliWorld


def test_shares_and_limits_are_set_shown_and_taken_away(cli: CliWorld) -> None:
    # Given a tenant that is new
    cli.migrate()
    assert cli.json("tenants", "list") == {"tenants": []}

    # When its weight and two limits are set, one after the other
    cli.run("tenants", "set", "acme", "--weight", 2, "--people", 5)
    row = cli.json("tenants", "set", "acme", "--per-minute", 100)

    # Then they are kept beside each other
    assert (row["weight"], row["max_people"], row["max_renders_per_minute"]) == (2.0, 5, 100)
    assert cli.json("tenants", "list")["tenants"] == [row]
    assert "acme" in cli.run("tenants", "list").stdout
    # And without limits the weight stays
    row = cli.json("tenants", "set", "acme", "--unlimited")
    assert (row["weight"], row["max_people"], row["max_renders_per_minute"]) == (2.0, None, None)
    cli.run("tenants", "set", "acme", exit_code=2)
    for weight in ("nan", "inf", 0, 1001):
        cli.run("tenants", "set", "acme", "--weight", weight, exit_code=2)
    cli.run("tenants", "set", "acme", "--people", -1, exit_code=2)


@pytest.mark.parametrize(
    ("limit", "enough", "too_little", "code", "told"),
    [
        ("--people", 2, 1, "quota_exceeded", "may have 1 people; it has 0, and this job adds 2"),
        ("--waiting", 6, 5, "quota_exceeded", "may have 5 waiting pictures; it has 0, and this job adds 6"),
        ("--bytes", 10_000, 100, "quota_exceeded", "may have 100 stored bytes; it has 0, and this job adds"),
        ("--per-minute", 6, 5, "quota_exceeded", "may have 5 pictures a minute; it has 0, and this job adds 6"),
    ],
)
def test_a_job_over_a_limit_is_refused_with_the_numbers_and_leaves_nothing(
    cli: CliWorld, limit: str, enough: int, too_little: int, code: str, told: str
) -> None:
    # Given a limit that a job of two people and six pictures is over
    cli.migrate()
    manifest = cli.manifest()
    cli.run("tenants", "set", "default", limit, too_little)

    # When it is enqueued, then it is refused with the limit, what was found and what to do, and nothing was stored
    error = cli.json("enqueue", manifest, exit_code=7)["error"]
    assert error["code"] == code and told in error["message"]
    assert cli.json("status")["jobs"] == []
    assert not list(cli.home.glob("objects/**/*.png"))

    # And when the limit is just enough, it is accepted; enqueued again it is the same job, which costs nothing
    cli.run("tenants", "set", "default", limit, enough)
    job = cli.json("enqueue", manifest)["job_id"]
    assert cli.json("enqueue", manifest)["job_id"] == job


def test_waiting_pictures_count_until_they_are_drawn(cli: CliWorld) -> None:
    # Given a tenant that may have six pictures waiting, and has
    cli.migrate()
    cli.run("tenants", "set", "default", "--waiting", 6)
    manifest = cli.manifest()
    cli.run("pause", cli.json("enqueue", manifest)["job_id"])

    # When it asks for more, then paused ones count too, and drawn ones do not
    cli.run("enqueue", manifest, "--again", exit_code=7)
    cli.run("resume", cli.json("status")["jobs"][0]["job_id"])
    cli.draw()
    cli.run("enqueue", manifest, "--again")
    assert len(cli.json("status")["jobs"]) == 2


def test_pictures_of_the_last_minute_count_although_they_are_drawn(cli: CliWorld) -> None:
    # Given a tenant that may ask for eleven pictures a minute and has asked for six, which are drawn
    cli.migrate()
    cli.run("tenants", "set", "default", "--per-minute", 11)
    manifest = cli.manifest()
    cli.run("enqueue", manifest)
    cli.draw()

    # Then six more are refused within this minute, and the job that is too large for any minute is told apart
    refused = cli.json("enqueue", manifest, "--again", exit_code=4)["error"]
    assert refused["code"] == "rate_limited" and "try again in a minute" in refused["message"]
    cli.run("tenants", "set", "default", "--per-minute", 5)
    assert "split the job" in cli.json("enqueue", manifest, "--again", exit_code=7)["error"]["message"]


@pytest.mark.parametrize("name", ["", "A B", "../x", "a/b", "n\nl", "x" * 65, "Acme"])
def test_a_name_under_which_nobody_could_enqueue_is_refused(cli: CliWorld, name: str) -> None:
    # Given an empty database
    cli.migrate()

    # When such a name is to be given a weight, then it is refused with what a name is, and nothing is made
    told = cli.run("tenants", "set", name, "--weight", 1, exit_code=2).stderr
    assert "lower-case letters a to z" in " ".join(told.replace("│", " ").split())
    assert cli.json("tenants", "list") == {"tenants": []}


@pytest.mark.parametrize("limit", ["--people", "--waiting", "--bytes", "--per-minute"])
def test_a_limit_beyond_what_a_row_can_hold_is_refused(cli: CliWorld, limit: str) -> None:
    # Given an empty database
    cli.migrate()

    # When a limit has 64 bits, then it is refused as an argument, and nothing is made
    cli.run("tenants", "set", "acme", limit, 2**63, exit_code=2)
    assert cli.json("tenants", "list") == {"tenants": []}
