"""`portraits forget` and `portraits privacy` on the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from cli_world import CliWorld

from jobs.storage import open_storage


def drawn(cli: CliWorld) -> None:
    cli.enqueue(people=("ada-quill", "bob-rook"))
    cli.draw()


def test_it_says_what_will_go_and_asks_and_nothing_goes_without_a_yes(cli: CliWorld) -> None:
    # Given two people who were drawn
    drawn(cli)

    # When it is only looked at, then it is counted
    told = cli.json("forget", "ada-quill", "--dry-run")
    assert told["is_dry"] and told["counts"]["renders"] == 3 and told["counts"]["photos"] == 1
    assert "renders" in cli.run("forget", "ada-quill", "--dry-run").stdout

    # And when nobody answers, or the answer is no, then nothing goes
    refused = cli.run("forget", "ada-quill", exit_code=130)
    assert "will be erased, for good" in refused.stdout and "forget ada-quill?" in refused.output
    assert cli.json("status")["jobs"][0]["identities"] == 2
    assert "asks nobody" in cli.json("forget", "ada-quill", exit_code=2)["error"]["message"]


def test_a_person_is_forgotten_with_a_receipt_by_which_it_is_verified(cli: CliWorld) -> None:
    # Given two people who were drawn
    drawn(cli)
    receipt = cli.folder / "receipt.json"
    assert cli.json("privacy", "verify", "ada-quill", exit_code=1)["remains"]

    # When one is forgotten
    told = cli.json("forget", "ada-quill", "--yes", "--reason", "asked by letter", "--receipt", receipt)

    # Then nothing is left, by name, by photo, by receipt
    assert told["counts"]["renders"] == 3 and told["removed"] == 5 and not told["is_dry"]
    for how in (("ada-quill",), ("--photo", cli.folder / "photo0.png"), ("--receipt", receipt)):
        assert cli.json("privacy", "verify", *how) == {"tenant": "default", "remains": []}
    assert "nothing is left" in cli.run("privacy", "verify", "ada-quill").stdout

    # and the receipt is this user's alone, and what is no receipt is refused without being repeated
    assert stat.S_IMODE(receipt.stat().st_mode) == 0o600
    assert json.loads(receipt.read_text())["names"] == ["ada-quill"]
    forged = cli.folder / "forged.json"
    forged.write_text('{"tenant": "default", "names": ["ada-quill"], "more": 1}')
    error = cli.json("privacy", "verify", "--receipt", forged, exit_code=2)["error"]
    assert error["code"] == "receipt_invalid" and "ada-quill" not in error["message"]

    # and the audit tells when, how much, by whom and why, and not who
    (row,) = cli.json("privacy", "audits")["audits"]
    assert row["reason"] == "asked by letter" and row["counts"]["renders"] == 3
    shown = cli.run("privacy", "audits").stdout
    assert "person.forgotten" in shown and "ada-quill" not in shown

    # and the other one's pictures are there
    storage = open_storage(cli.settings.storage_url, cli.settings)
    assert len([key for key in storage.list("default/") if key.endswith(".png") and "/photos/" not in key]) == 3


def test_whoever_is_unknown_is_told_and_so_is_what_cannot_be_meant(cli: CliWorld) -> None:
    cli.migrate()
    assert cli.json("forget", "nobody", "--yes", exit_code=5)["error"]["code"] == "unknown_person"
    assert cli.json("forget", "--whole-tenant", "nobody", "--yes", exit_code=5)["error"]["code"] == "unknown_tenant"
    cli.run("forget", exit_code=2)
    cli.run("forget", "ada", "--whole-tenant", "acme", exit_code=2)
    cli.run("privacy", "verify", exit_code=2)
    cli.run("privacy", "verify", "--photo", cli.folder / "none.png", exit_code=2)
    assert cli.json("privacy", "audits") == {"audits": []}


def test_a_reason_that_says_who_is_refused(cli: CliWorld) -> None:
    # Given somebody, when the reason that would be kept names her, then it is refused, and she is there
    drawn(cli)
    told = cli.json("forget", "ada-quill", "--yes", "--reason", "Ada-Quill wrote to us", exit_code=2)["error"]
    assert told["code"] == "audit_refused"
    assert cli.json("forget", "ada-quill", "--dry-run")["counts"]["people"] == 1


def test_a_whole_tenant_is_forgotten(cli: CliWorld) -> None:
    # Given a tenant that has drawn
    drawn(cli)

    # When it is forgotten, then the tables and the store have nothing of it but the audit row
    told = cli.json("forget", "--whole-tenant", "default", "--yes")
    assert told["counts"]["people"] == 2 and told["removed"] > 0
    storage = open_storage(cli.settings.storage_url, cli.settings)
    assert list(storage.list("")) == []
    left = cli.json("privacy", "verify", "--whole-tenant", "default")
    assert left == {"tenant": "default", "remains": []}
    assert [row["action"] for row in cli.json("privacy", "audits")["audits"]] == ["tenant.forgotten"]

    # And it may begin anew
    cli.enqueue(people=("ada-quill",))
    assert len(cli.json("status")["jobs"]) == 1


def test_how_long_people_are_kept_is_set_and_swept(cli: CliWorld) -> None:
    # Given a tenant whose people are kept for a month, with consent
    drawn(cli)
    row = cli.json("tenants", "set", "default", "--retention", "30d", "--require-consent")
    assert (row["retention_days"], row["requires_consent"]) == (30, True)
    shown = cli.run("tenants", "list").stdout
    assert "30" in shown and "required" in shown

    # When people come without consent, then they are refused; and when the day's sweep is asked for, the young stay
    assert cli.json("enqueue", cli.manifest(key="again"), exit_code=2)["error"]["code"] == "manifest_invalid"
    assert cli.json("privacy", "sweep") == {"people": 0, "photos": 0, "uploads": 0, "objects": 0}
    assert "people" in cli.run("privacy", "sweep").stdout

    # And both are taken back; what is no number of days is refused
    row = cli.json("tenants", "set", "default", "--retention", "none", "--no-require-consent")
    assert (row["retention_days"], row["requires_consent"]) == (None, False)
    for text in ("12h", "0d", "soon"):
        cli.run("tenants", "set", "default", "--retention", text, exit_code=2)


def test_a_receipt_is_not_written_over_another_file(cli: CliWorld, tmp_path: Path) -> None:
    # Given a file that is there, when a receipt is to be written to it, then nobody is erased
    drawn(cli)
    file = tmp_path / "there.json"
    file.write_text("mine")
    told = cli.json("forget", "ada-quill", "--yes", "--receipt", file, exit_code=2)["error"]
    assert told["code"] == "receipt_invalid"
    assert file.read_text() == "mine" and cli.json("forget", "ada-quill", "--dry-run")["counts"]["people"] == 1

    # And where nobody is erased, none is left behind
    fresh = tmp_path / "fresh.json"
    cli.run("forget", "nobody", "--yes", "--receipt", fresh, exit_code=5)
    assert not fresh.exists()
