"""`portraits webhooks` and `portraits clerk --once`: what they say, and with which exit code."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cli_world import CliWorld
from standardwebhooks import Webhook as Verifier
from webhook_receiver import Receiver, receiving, status

from worker.cli.webhooks import _state as state_of


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, cli: CliWorld) -> Receiver:
    """An endpoint that the settings allow."""
    cli.migrate()
    with receiving() as one:
        monkeypatch.setenv("PORTRAITS_WEBHOOK_ALLOW_HTTP", "true")
        monkeypatch.setenv("PORTRAITS_WEBHOOK_NETWORKS", "127.0.0.0/8")
        monkeypatch.setenv("PORTRAITS_WEBHOOK_PORTS", str(one.port))
        yield one  # type: ignore[misc]


def test_from_adding_to_what_was_told(cli: CliWorld, receiver: Receiver) -> None:
    # Given a webhook for everything, whose secret is shown once
    added = cli.json("webhooks", "add", receiver.url, "--event", "unit.ended", "--event", "job.ended")
    assert added["secret"].startswith("whsec_") and added["events"] == ["unit.ended", "job.ended"]
    assert "secret" not in str(cli.json("webhooks", "list"))
    assert added["secret"] not in cli.run("webhooks", "list").stdout
    # When it is pinged, then what came of it is the answer and the exit code
    receiver.answers = [status(200), status(503)]
    assert cli.json("webhooks", "test", added["id"])["taken"] is True
    assert "503" in cli.run("webhooks", "test", added["id"], exit_code=1).stdout
    # When a job is drawn and the clerk has its turn
    cli.run("enqueue", cli.manifest())
    cli.draw()
    done = cli.json("clerk", "--once")
    # Then the ends are told, signed, and the gallery is made
    assert done == {
        "done": {"ends": 2, "galleries": 1, "webhooks": 3, "retention": 0, "deliveries": 0},
        "faults": {},
    }
    end = receiver.messages[-1]
    assert Verifier(added["secret"]).verify(end.body, end.headers)["data"]["job"]["done"] == 6
    rows = cli.json("webhooks", "deliveries", added["id"])["deliveries"]
    assert rows[0]["kind"] == "job.ended" and len(rows) == 5
    assert "payload" not in rows[0]
    # And a second turn has nothing to do
    assert "0 units' ends told" in cli.run("clerk", "--once").stdout
    # And when it is removed, then nothing is left of it
    cli.run("webhooks", "remove", added["id"])
    assert "has no webhook" in cli.run("webhooks", "list").stdout


def test_a_disabled_webhook_is_shown_and_tried_again(cli: CliWorld, receiver: Receiver) -> None:
    # Given an endpoint that says that it is gone
    added = cli.json("webhooks", "add", receiver.url)
    receiver.answers = [status(410)]
    cli.run("enqueue", cli.manifest(("ada",)))
    cli.draw()
    cli.run("clerk", "--once")
    # Then the list says why it is told nothing more
    assert "410" in cli.run("webhooks", "list").stdout
    # When it is tried again, then it hears
    assert cli.json("webhooks", "retry", added["id"]) == {"waiting": 1}
    assert cli.json("clerk", "--once")["done"]["webhooks"] == 1


def test_an_endpoint_that_the_settings_refuse_is_not_called_silent(
    cli: CliWorld, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a webhook inside, which was allowed when it was added and is not any more
    cli.json("webhooks", "add", receiver.url)
    cli.run("enqueue", cli.manifest(("ada",)))
    cli.draw()
    monkeypatch.setenv("PORTRAITS_WEBHOOK_NETWORKS", "")
    cli.run("clerk", "--once")
    # Then nobody was asked, and the list says whose doing that is
    assert receiver.messages == []
    (row,) = cli.json("webhooks", "list")["webhooks"]
    assert row["last_error"].startswith("webhook_refused: ") and "not public" in row["last_error"]
    assert (words := state_of(row)) == "refused by this installation's settings, 1 tries", words
    assert "refused" in (shown := cli.run("webhooks", "list").stdout) and "does not answer" not in shown

    # And one that is allowed, and answers with faults, does not answer
    monkeypatch.setenv("PORTRAITS_WEBHOOK_NETWORKS", "127.0.0.0/8")
    cli.run("webhooks", "retry", row["id"])
    receiver.answers = [status(503)]
    cli.run("clerk", "--once")
    (row,) = cli.json("webhooks", "list")["webhooks"]
    assert state_of(row) == "does not answer, 1 tries"


def test_a_secret_of_ones_own_is_read_from_a_file_and_not_shown(cli: CliWorld, receiver: Receiver) -> None:
    # Given a file with a secret
    secret = "whsec_" + base64.b64encode(b"s" * 32).decode()
    file = Path(cli.folder) / "secret"
    file.write_text(secret + "\n")
    # When a webhook is added with it, then messages are signed with it, and no answer shows it
    answer = cli.run("webhooks", "add", receiver.url, "--secret-file", file)
    assert secret not in answer.output
    (row,) = cli.json("webhooks", "list")["webhooks"]
    cli.run("webhooks", "test", row["id"])
    assert Verifier(secret).verify(receiver.messages[0].body, receiver.messages[0].headers)["type"] == "ping"


NO_ID = "00000000-0000-0000-0000-000000000000"
WRONG = {
    ("webhooks", "add", "http://10.0.0.1/"): (2, "webhook_refused"),
    ("webhooks", "add", "https://127.0.0.1:443/"): (2, "webhook_refused"),
    ("webhooks", "add", "https://x.example/", "--event", "picture.drawn"): (2, "usage"),
    ("webhooks", "add", "https://x.example/", "--secret-file", "/nowhere"): (2, "file_refused"),
    ("webhooks", "test", NO_ID): (5, "unknown_webhook"),
    ("webhooks", "remove", NO_ID): (5, "unknown_webhook"),
    ("webhooks", "deliveries", NO_ID): (5, "unknown_webhook"),
    ("webhooks", "retry", "my-webhook"): (2, "usage"),
    ("clerk",): (2, "usage"),
}


@pytest.mark.parametrize(("words", "wanted"), WRONG.items(), ids=str)
def test_what_is_wrong_is_told_with_its_code(cli: CliWorld, words: tuple[str, ...], wanted: tuple[int, str]) -> None:
    cli.migrate()
    code, name = wanted
    assert cli.json(*words, exit_code=code)["error"]["code"] == name


def test_a_fault_of_one_errand_is_told_and_the_others_are_done(
    cli: CliWorld, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a setting that webhooks cannot be delivered under, and a job that is over
    cli.json("webhooks", "add", receiver.url)
    cli.run("enqueue", cli.manifest(("ada",)))
    cli.draw()
    monkeypatch.setenv("PORTRAITS_WEBHOOK_NETWORKS", "127.0.0.1/8")
    # When a clerk has its turn, then the others' are done, and the fault is told with exit code 1
    told = cli.json("clerk", "--once", exit_code=1)
    assert "PORTRAITS_WEBHOOK_NETWORKS" in told["faults"]["webhooks"]
    assert (told["done"]["ends"], told["done"]["galleries"]) == (1, 1)
