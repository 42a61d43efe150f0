"""`portraits enqueue`, and its dry run."""

from __future__ import annotations

import pytest
from cli_world import CliWorld

from jobs.broker import Broker
from jobs.errors import BrokerUnavailable
from worker.estimate import DECODE_TFLOP, UNET_TFLOP, hours_text, measured_pace


def test_a_manifest_becomes_a_job(cli: CliWorld) -> None:
    # Given a migrated database and a manifest of two people with three pictures each
    cli.migrate()
    manifest = cli.manifest()

    # When it is enqueued
    answer = cli.json("enqueue", manifest, "--key", "first")

    # Then the answer has the job and its counts
    assert set(answer) == {
        *("tenant", "job_id", "key", "created", "identities", "units", "renders", "messages_sent", "warnings")
    }
    assert (answer["key"], answer["created"], answer["identities"], answer["renders"]) == ("first", True, 2, 6)


def test_people_are_told_id_key_and_counts(cli: CliWorld) -> None:
    cli.migrate()
    told = cli.run("enqueue", cli.manifest(), "--key", "first")
    assert "key       first" in told.stdout
    assert "people    2" in told.stdout
    assert "pictures  6 in 2 units" in told.stdout
    assert "portraits watch" in told.stderr


def test_the_same_again_is_the_same_job_unless_asked_otherwise(cli: CliWorld) -> None:
    # Given a job
    first = cli.enqueue()

    # When the same manifest is enqueued, and enqueued with --again
    same, fresh = cli.json("enqueue", cli.manifest()), cli.json("enqueue", cli.manifest(), "--again")

    # Then the first is the old job and the second a new one
    assert (same["created"], same["job_id"]) == (False, first["job_id"])
    assert fresh["created"] and fresh["job_id"] != first["job_id"]


def test_a_key_with_other_content_is_a_conflict(cli: CliWorld) -> None:
    cli.enqueue(key="mine")
    answer = cli.json("enqueue", cli.manifest(people=["ada"], key="mine"), exit_code=6)
    assert answer["error"]["code"] == "key_conflict"


def test_overrides_win_over_the_manifest(cli: CliWorld) -> None:
    cli.migrate()
    cli.run("enqueue", cli.manifest(priority=1), "--tenant", "acme", "--profile", "other", "--priority", 7)
    (job,) = cli.json("status", "--tenant", "acme")["jobs"]
    assert (job["profile"], job["priority"]) == ("other", 7)


def _faulty(cli: CliWorld, count: int) -> object:
    people = [{"id": f"p{n}", "photos": [f"nowhere{n}.jpg"]} for n in range(count)]
    return cli.manifest(identities=people)


def test_faults_are_told_with_line_and_field_and_nothing_is_written(cli: CliWorld) -> None:
    # Given a manifest with 30 missing photos
    cli.migrate()
    manifest = _faulty(cli, 30)

    # When it is enqueued for a program
    error = cli.json("enqueue", manifest, exit_code=2)["error"]

    # Then every fault is there with its place, and there is no job
    assert (error["code"], error["faults_total"], len(error["faults"])) == ("manifest_invalid", 30, 30)
    assert error["faults"][3]["field"] == "identities[3].photos[0]"
    assert error["faults"][3]["source"] == "people.yaml"
    assert isinstance(error["faults"][3]["line"], int)
    assert "\n" not in error["message"]
    assert cli.json("status")["jobs"] == []


def test_a_terminal_shows_twenty_faults_or_all(cli: CliWorld) -> None:
    cli.migrate()
    manifest = _faulty(cli, 30)
    some, every = cli.run("enqueue", manifest, exit_code=2), cli.run("enqueue", manifest, "--all-faults", exit_code=2)
    assert some.stderr.count("nowhere") == 20
    assert "10 more" in some.stderr
    assert every.stderr.count("nowhere") == 30
    assert "Traceback" not in some.output + every.output


def test_a_dry_run_counts_and_writes_nothing(cli: CliWorld) -> None:
    # Given a manifest and no database
    manifest = cli.manifest()

    # When it is tried
    plan = cli.json("enqueue", manifest, "--dry-run")

    # Then counts and first pictures are told, and no home was made
    assert {name: plan[name] for name in ("identities", "photos", "units", "renders")} == {
        **{"identities": 2, "photos": 2},
        **{"units": 2, "renders": 6},
    }
    assert [one["seed"] for one in plan["first"]] == [1, 2, 3, 1, 2]
    assert plan["first"][2]["prompt"] == "a portrait on a beach"
    assert (plan["first"][0]["external_id"], plan["first"][0]["width"]) == ("ada", 64)
    assert not cli.home.exists()


def test_without_measurements_the_formula_estimates(cli: CliWorld) -> None:
    # Given six pictures of 64 x 64 in two guided steps
    plan = cli.json("enqueue", cli.manifest(), "--dry-run")

    # Then the work is 6 x (2 steps x 2 forwards x 6.76 + 10.5) TFLOP at 1/256 of the area, at 370 TFLOP/s
    tflop = 6 * (2 * 2 * 6.76 + 10.5) / 256
    assert plan["estimate"]["basis"] == "formula"
    assert plan["estimate"]["tflop"] == pytest.approx(tflop)
    assert plan["estimate"]["gpu_hours"] == pytest.approx(tflop / 370 / 3600)
    assert "no database yet" in plan["estimate"]["explanation"]
    assert (UNET_TFLOP, DECODE_TFLOP) == (6.76, 10.5)


def test_a_terminal_reads_the_time_in_words(cli: CliWorld) -> None:
    told = cli.run("enqueue", cli.manifest(), "--dry-run").stdout
    assert "GPU time  under a minute, by formula" in told


@pytest.mark.parametrize(
    ("hours", "wanted"),
    [
        (0, "under a minute"),
        (4.87e-05, "under a minute"),
        (0.99 / 60, "under a minute"),
        (1.4 / 60, "1 minute"),
        (0.5, "30 minutes"),
        (59.4 / 60, "59 minutes"),
        (59.6 / 60, "1 hour"),
        (1.04, "1 hour"),
        (1.26, "1.3 hours"),
        (9.96, "10 hours"),
        (130.4, "130 hours"),
        (12_345.6, "12,346 hours"),
    ],
)
def test_hours_are_told_as_people_say_them(hours: float, wanted: str) -> None:
    assert hours_text(hours) == wanted


@pytest.mark.parametrize(
    ("pictures", "words"),
    [(0, "since no picture of profile p was drawn"), (1, "since only one picture of profile p was drawn"),
     (2, "since only 2 pictures of profile p were drawn")],
)  # fmt: skip
def test_too_few_pictures_are_told_as_they_are(pictures: int, words: str) -> None:
    row = {"pictures": pictures, "seconds": 1.0, "width": 64, "height": 64, "steps": 2, "guided": True}
    assert words in measured_pace([row] if pictures else [], "p").explanation


def test_twenty_drawn_pictures_are_a_measurement(cli: CliWorld) -> None:
    # Given 21 drawn pictures
    cli.enqueue(people=[f"p{n}" for n in range(7)])
    cli.draw()
    rows = cli.json("results")["renders"]
    parts = ("seconds_weights", "seconds_merge", "seconds_denoise", "seconds_decode")
    mean = sum(row[part] for row in rows for part in parts) / len(rows)

    # When a job of the same kind is tried
    estimate = cli.json("enqueue", cli.manifest(people=["q"]), "--dry-run")["estimate"]

    # Then three pictures cost three times the mean
    assert estimate["basis"] == "measured"
    assert estimate["gpu_hours"] * 3600 == pytest.approx(3 * mean)


def test_an_outdated_schema_is_an_environment_fault(cli: CliWorld) -> None:
    answer = cli.json("enqueue", cli.manifest(), exit_code=3)
    assert answer["error"]["code"] == "database_outdated"
    assert "portraits db upgrade" in answer["error"]["message"]


def test_a_database_that_is_away_is_unavailable(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTRAITS_DATABASE_URL", "postgresql+psycopg://me:secret@127.0.0.1:1/none")
    told = cli.run("status", "--json", exit_code=4)
    assert "database_unavailable" in told.stdout
    assert "secret" not in told.output


def test_a_broker_that_is_away_leaves_the_job_and_warns(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.migrate()

    def away(*_: object) -> int:
        raise BrokerUnavailable("the broker took 0 messages")

    monkeypatch.setattr(Broker, "send", away)
    answer = cli.json("enqueue", cli.manifest())
    assert answer["created"] and answer["messages_sent"] == 0
    assert "stored" in answer["warnings"][0]


def test_a_refused_setting_is_named_without_its_value(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTRAITS_LEASE_SECONDS", "hunter2")
    error = cli.json("status", exit_code=3)["error"]
    assert error["code"] == "settings_invalid"
    assert "PORTRAITS_LEASE_SECONDS" in error["message"]
    assert "hunter2" not in error["message"]
