"""`portraits inspect`, and no command shows a secret, whatever it is asked for and however it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_world import CliWorld
from marking_world import write_pair
from PIL import Image
from typer.testing import CliRunner

from jobs.secret_files import secret_fields
from jobs.settings import Settings
from worker.cli.app import app
from worker.marking.self_made import AUTHORITY, FOLDER, KEY


def drawn(cli: CliWorld) -> Path:
    """One drawn picture of a job."""
    job = cli.enqueue(people=["ada"])
    cli.draw()
    cli.run("results", job["key"], "--out", "pictures")
    return next(file for file in sorted((cli.folder / "pictures").rglob("*.png")) if "sheet" not in file.name)


def test_a_drawn_picture_shows_who_signed_it_and_how_it_was_made(cli: CliWorld) -> None:
    # Given a picture of a job
    file = drawn(cli)

    # When it is inspected
    told = cli.run("inspect", file).stdout

    # Then it says that it is unchanged, AI-made, and by whom; and that the signer is trusted where it is
    for words in ("unchanged since it was signed", "is not trusted here", "Portraits self-made signer"):
        assert words in told
    assert told.count("trainedAlgorithmicMedia") == 2 and "Steps: 2" in told
    (found,) = cli.json("inspect", file, "--trust", cli.home / FOLDER / AUTHORITY)
    assert found["provenance"]["state"] == "trusted" and found["provenance"]["holds"]
    assert found["record"]["prompt_name"] in ("office", "beach")


def test_changed_and_stripped_pictures_end_with_one(cli: CliWorld) -> None:
    # Given a picture with one changed bit in its pixels, and one that was saved anew
    file = drawn(cli)
    data = bytearray(file.read_bytes())
    data[data.rindex(b"IEND") - 12] ^= 1
    (changed := cli.folder / "changed.png").write_bytes(data)
    with Image.open(file) as image:
        image.save(stripped := cli.folder / "stripped.png")

    # Then each is told in words, with the exit code of a problem, also beside one that holds
    assert "unchanged" not in (said := cli.run("inspect", changed, exit_code=1).stdout) and "was changed" in said
    assert "was stripped" in cli.run("inspect", stripped, exit_code=1).stdout
    states = [one["provenance"]["state"] for one in cli.json("inspect", file, changed, stripped, exit_code=1)]
    assert states == ["valid", "invalid", "none"]


def test_what_is_no_picture_is_refused(cli: CliWorld) -> None:
    (cli.folder / "text.png").write_text("no picture")
    for file in ("text.png", "gone.png", "."):
        error = cli.json("inspect", file, exit_code=2)["error"]
        assert error["code"] == "photo_refused" and file in error["message"]
    drawn(cli)
    cli.run("inspect", "text.png", "--trust", "text.png", exit_code=2)


def test_what_is_no_picture_among_others_does_not_end_the_command(cli: CliWorld) -> None:
    # Given a drawn picture behind two files that are none
    file = drawn(cli)
    (cli.folder / "text.png").write_text("no picture")

    # When they are inspected together, then the picture is shown too, and the worse exit code is the command's
    told = cli.run("inspect", "text.png", "gone.png", file, exit_code=2).stdout
    assert "text.png" in told and "gone.png is no file" in told and "unchanged since it was signed" in told
    found = cli.json("inspect", "text.png", file, exit_code=2)
    assert found[0] == {"file": "text.png", "error": found[0]["error"]}
    assert found[0]["error"]["code"] == "photo_refused" and "text.png" in found[0]["error"]["message"]
    assert found[1]["provenance"]["state"] == "valid"


def test_hostile_words_in_a_picture_do_not_reach_the_terminal(cli: CliWorld) -> None:
    # Given a stranger's picture with escape sequences in its text
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "\x1b[2J\x1b]0;owned\x07 [bold]x")
    info.add_itxt("portraits", json.dumps({"job": "\x1b[31m", "notice": ["\x9b"]}))
    Image.new("RGB", (8, 8)).save(cli.folder / "hostile.png", pnginfo=info)

    # Then they are shown as replaced characters
    told = cli.run("inspect", "hostile.png", exit_code=1).stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(told) and "[bold]x" in told


SECRET = "hunter2-0f9a"
COMMANDS: tuple[tuple[Any, ...], ...] = (
    ("doctor",),
    ("doctor", "--json"),
    ("status",),
    ("status", "--json"),
    ("results", "nothing"),
    ("enqueue", "people.yaml"),
    ("enqueue", "people.yaml", "--dry-run", "--json"),
    ("sweep",),
    ("verify",),
    ("tenants", "list"),
    ("db", "upgrade"),
    ("cancel", "nothing"),
    ("inspect", "photo0.png"),
    ("worker", "--help"),
)


@pytest.mark.parametrize("from_files", [False, True], ids=["variables", "files"])
@pytest.mark.parametrize(
    "urls",
    [
        # Servers that are not there, and URLs that cannot be understood at all.
        {
            "database_url": f"postgresql+psycopg://portraits:{SECRET}@127.0.0.1:1/portraits",
            "broker_url": f"redis://user:{SECRET}@127.0.0.1:1/0",
        },
        {"database_url": f"oracle://portraits:{SECRET}@h/x", "broker_url": f"nonsense://{SECRET}@h"},
        {"database_url": f"{SECRET} is no url", "broker_url": f"{SECRET} neither"},
        {"broker_url": f"amqp://user:{SECRET}@127.0.0.1:1//"},
    ],
    ids=["away", "unknown", "garbage", "broker"],
)
def test_no_command_shows_a_secret_whatever_fails(
    urls: dict[str, str], from_files: bool, cli: CliWorld, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any
) -> None:
    # Given a secret in every place where one may be: settings, storage keys, the signing key
    cli.manifest(people=["ada"])
    chain, key, _ = write_pair(cli.folder / "own")
    monkeypatch.setenv("PORTRAITS_SIGN_CERTIFICATE", str(chain))
    monkeypatch.setenv("PORTRAITS_SIGN_KEY", str(key))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PORTRAITS_S3_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:1")
    for name in secret_fields(Settings):
        value = urls.get(name, "" if name == "database_url" else f"{SECRET}-{name}-which-is-long-enough-for-anything")
        if from_files and value:
            (cli.folder / name).write_text(value)
            monkeypatch.setenv(f"PORTRAITS_{name.upper()}_FILE", str(cli.folder / name))
        else:
            monkeypatch.setenv(f"PORTRAITS_{name.upper()}", value)
    own = key.read_text().splitlines()[1]

    # When every kind of command is run, most of which fail
    for command in COMMANDS:
        result = CliRunner().invoke(app, [str(part) for part in command], prog_name="portraits")
        said = result.output + result.stdout + result.stderr + str(capfd.readouterr()) + caplog.text

        # Then neither its answer, nor its error, nor the log holds it
        assert SECRET not in said and own not in said, command


def test_the_doctor_tells_of_a_certificate_that_ran_out(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, key, _ = write_pair(cli.folder / "own", valid_days=(-30, -1))
    monkeypatch.setenv("PORTRAITS_SIGN_CERTIFICATE", str(chain))
    monkeypatch.setenv("PORTRAITS_SIGN_KEY", str(key))
    cli.migrate()
    said = cli.run("doctor", exit_code=1).stdout
    assert "is valid from" in said and "mend the files" in said
    write_pair(cli.folder / "own", valid_days=(-30, 10))
    assert "renew the certificate" in cli.run("doctor").stdout
    assert not (cli.home / FOLDER / KEY).exists()
