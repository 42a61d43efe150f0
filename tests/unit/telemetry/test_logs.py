"""Logs: ids stand in them, secrets do not, whoever writes them and in whichever form."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from jobs import logs
from jobs.settings import Settings

PASSWORD, AWS_SECRET = "pa55-of-the-database", "wJalrXUtnFEMI/K7MDENG"
TOKEN = "portraits_acme.3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
SIGNED = (
    "https://store/bucket/key.png?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261128&X-Amz-Signature=5d41402abc4b2a76"
    "&versionId=7"
)
HOOK = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logs.name_process(worker=None, shift=None)


def _settings(tmp_path: Path, form: str) -> Settings:
    url = SecretStr(f"postgresql+psycopg://portraits:{PASSWORD}@db/portraits")
    return Settings(home=tmp_path, database_url=url, log_format=form)  # type: ignore[arg-type]


def _written(tmp_path: Path, form: str, level: int = logging.INFO) -> io.StringIO:
    out = io.StringIO()
    logs.set_up(_settings(tmp_path, form), level=level, stream=out)
    return out


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("secret", "line"),
    [
        (PASSWORD, f"could not connect to postgresql://portraits:{PASSWORD}@db/portraits"),
        (PASSWORD, f"the password {PASSWORD} alone"),
        (AWS_SECRET, f"keys: {AWS_SECRET}"),
        ("other-pass", "amqp://user:other-pass@rabbit:5672//vhost refused"),
        ("5d41402abc4b2a76", SIGNED),
        ("AKIAIOSFODNN7EXAMPLE", SIGNED),
        ("3q2-7wAAAAAAAAAAAA", f"login with {TOKEN}"),
        ("C2FVsBQIhrscChlQIMV", f"signed by {HOOK}"),
        ("dXNlcjpwYXNz", "{'Authorization': 'Basic dXNlcjpwYXNz'}"),
        ("eyJzaGEyNTYiOiI2ZDg5In0", f"/uploads/eyJzaGEyNTYiOiI2ZDg5In0.{'a' * 43}: the store does not answer"),
        ("eyJhbGciOiJIUzI1NiJ9", "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc"),
        ("a portrait of Ada", "duplicate key\nDETAIL:  Failing row contains (acme, a portrait of Ada, 7)."),
        ("a portrait of Bob", "[SQL: INSERT ...]\n[parameters: {'prompt': 'a portrait of Bob'}]\n(Background ...)"),
    ],
)
def test_no_secret_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, secret: str, line: str
) -> None:
    # Given a process that logs as its settings say, and knows the store's key
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    out = _written(tmp_path, form)

    # When a secret is in a message, an argument, a field, and a traceback
    log = logging.getLogger("anybody")
    log.info(line)
    log.info("%s", line, extra={"url": line, "more": {"within": [line]}})
    try:
        raise OSError(line)
    except OSError:
        log.exception("it failed")

    # Then something was written each time, and the secret nowhere
    assert out.getvalue().count("anybody" if form == "json" else "INFO/") >= 2
    assert "it failed" in out.getvalue() and "OSError" in out.getvalue()
    assert secret not in out.getvalue()
    assert logs.HIDDEN in out.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_bytes_are_told_by_their_number(tmp_path: Path, form: str) -> None:
    # Given the bytes of a photo
    photo = bytes(range(256)) * 4
    out = _written(tmp_path, form)

    # When somebody logs them as a field and in a message
    logging.getLogger("anybody").warning("read %s", photo, extra={"photo": photo})

    # Then their number is there, and none of them
    assert "<1024 bytes>" in out.getvalue() and "<bytes>" in out.getvalue()
    assert "\\x01" not in out.getvalue() and "AAEC" not in out.getvalue()


def test_what_is_harmless_stays(tmp_path: Path) -> None:
    out = _written(tmp_path, "text")
    for line in (
        "http://127.0.0.1:9100/metrics",
        "12:30 at host:5432",
        "key?versionId=7&state=done",
        "s3://bucket/a@b",
    ):
        logging.getLogger("anybody").info(line)
        assert line in out.getvalue()


def test_a_json_line_says_what_it_is_about(tmp_path: Path) -> None:
    # Given a worker's process in a shift
    out = _written(tmp_path, "json")
    logs.name_process(worker="host:1", shift="abc")

    # When something is logged about a unit, and then about nothing
    with logs.about(tenant="acme", job="j", unit="u", identity=None), logs.about(render="r"):
        logging.getLogger("worker.recorder").info("a picture of %d bytes", 7)
    logging.getLogger("worker.recorder").info("done", extra={"renders": 3})

    # Then the ids stand in the one line, and the process's names in both
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    ids = {"worker": "host:1", "shift": "abc", "tenant": "acme", "job": "j", "unit": "u", "render": "r"}
    assert first | ids == first and "identity" not in first
    assert (first["message"], first["level"], first["logger"]) == ("a picture of 7 bytes", "INFO", "worker.recorder")
    assert second["shift"] == "abc" and second["renders"] == 3
    assert not {"tenant", "job", "unit", "render"} & set(second)


def test_a_text_line_tells_ids_behind_the_message(tmp_path: Path) -> None:
    out = _written(tmp_path, "text")
    logs.name_process(worker="host:1")
    with logs.about(job="j", unit="u"):
        logging.getLogger("anybody").info("unit done")
    assert out.getvalue().rstrip().endswith("unit done (job j, unit u)")
    assert "host:1" not in out.getvalue()


def test_threads_do_not_take_each_others_ids(tmp_path: Path) -> None:
    # Given two threads that log at the same moment, each about a unit of its own
    out, both = _written(tmp_path, "json"), threading.Barrier(2)

    def work(unit: str) -> None:
        with logs.about(unit=unit):
            both.wait(30)
            logging.getLogger("anybody").info("unit %s", unit)
            both.wait(30)

    threads = [threading.Thread(target=work, args=(unit,)) for unit in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then each line has its own
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {(line["message"], line["unit"]) for line in lines} == {("unit one", "one"), ("unit two", "two")}


def test_a_store_client_that_debugs_is_silenced(tmp_path: Path) -> None:
    # Given a process at the level of debugging
    out = _written(tmp_path, "text", logging.DEBUG)

    # When the store's client and our own code debug
    logging.getLogger("botocore.auth").debug("CanonicalRequest: body")
    logging.getLogger("jobs.intake").debug("ours")

    # Then only ours is there
    assert "ours" in out.getvalue() and "CanonicalRequest" not in out.getvalue()


def test_passwords_are_known_in_every_form_they_may_be_written_in(tmp_path: Path) -> None:
    # Given a password with characters that a URL must escape
    url = SecretStr("postgresql+psycopg://portraits:p%40ss%2Fw%3Ard@db/portraits")
    redaction = logs.Redaction.of(Settings(home=tmp_path, database_url=url), {})

    # When it stands somewhere as it is, and escaped, then both are hidden
    assert redaction.clean("told p@ss/w:rd and p%40ss%2Fw%3Ard") == "told *** and ***"
