"""Secrets come from files where these are named, or lie in the folder of secrets; faults never tell what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.errors import SettingsInvalid
from jobs.secret_files import MAX_BYTES, secret_fields
from jobs.settings import Settings
from worker.demo import worker_environment

NAMES = sorted(secret_fields(Settings))
SECRET = "amqp://portraits:hunter2@rabbit//"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder without a `.env`."""
    monkeypatch.chdir(tmp_path)


def value_of(settings: Settings, name: str) -> str:
    return str(getattr(settings, name).get_secret_value())


def test_what_is_secret_is_known() -> None:
    assert {"database_url", "broker_url"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_read_from_the_file_that_a_variable_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file as an editor leaves it
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")

    # When the variable with _FILE names it
    monkeypatch.setenv(f"PORTRAITS_{name.upper()}_FILE", str(file))
    settings = Settings(home=tmp_path)

    # Then the setting holds it, counts as given, and shows it to nobody
    assert value_of(settings, name) == SECRET
    assert name in settings.model_fields_set
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_read_from_the_folder_of_secrets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / f"portraits_{name}").write_text(SECRET)
    monkeypatch.setenv("PORTRAITS_SECRETS_DIR", str(folder))
    assert value_of(Settings(home=tmp_path), name) == SECRET


def test_the_environment_comes_before_dotenv_and_both_before_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a secret in each place
    for place in ("environment", "dotenv", "portraits_broker_url"):
        (tmp_path / place).write_text(f"redis://{place}/0")
    dotenv = tmp_path / ".env"
    monkeypatch.setenv("PORTRAITS_BROKER_URL_FILE", str(tmp_path / "environment"))
    dotenv.write_text(f"PORTRAITS_BROKER_URL_FILE={tmp_path / 'dotenv'}\nPORTRAITS_SECRETS_DIR={tmp_path}\n")

    # Then the first that is there is used: environment, .env, folder; a file and a variable are worth the same
    assert value_of(Settings(home=tmp_path), "broker_url") == "redis://environment/0"
    assert value_of(Settings(home=tmp_path, broker_url="redis://told/0"), "broker_url") == "redis://told/0"
    monkeypatch.delenv("PORTRAITS_BROKER_URL_FILE")
    assert value_of(Settings(home=tmp_path), "broker_url") == "redis://dotenv/0"
    monkeypatch.setenv("PORTRAITS_BROKER_URL", "redis://variable/0")
    assert value_of(Settings(home=tmp_path), "broker_url") == "redis://variable/0"
    monkeypatch.delenv("PORTRAITS_BROKER_URL")
    dotenv.write_text(f"PORTRAITS_SECRETS_DIR={tmp_path}\n")
    assert value_of(Settings(home=tmp_path), "broker_url") == "redis://portraits_broker_url/0"


def test_a_variable_and_its_file_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("PORTRAITS_BROKER_URL", SECRET)
    monkeypatch.setenv("PORTRAITS_BROKER_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsInvalid, match="both set") as refused:
        Settings(home=tmp_path)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "nothing"),
        (b"\n \n", "nothing"),
        (b"hunter2\nhunter2", "more than that"),
        (b"hunter2\0", "more than that"),
        (b"hunter2\xff", "no text in UTF-8"),
        (b"hunter2" * MAX_BYTES, "more than 65536 bytes"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_secret_is_refused_without_telling_what_it_holds(
    content: bytes | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file that is not one line of text, or that is not there
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("PORTRAITS_DATABASE_URL_FILE", str(file))

    # Then the fault names variable and file, and nothing of the content
    with pytest.raises(SettingsInvalid, match=told) as refused:
        Settings(home=tmp_path)
    assert "PORTRAITS_DATABASE_URL_FILE" in str(refused.value) and str(file) in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_faults_of_settings_do_not_repeat_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTRAITS_DATABASE_URL", SECRET)
    monkeypatch.setenv("PORTRAITS_BATCH_SIZE", "hunter2")
    with pytest.raises(ValidationError) as refused:
        Settings(home=tmp_path)
    assert "batch_size" in str(refused.value) and "hunter2" not in str(refused.value)


@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=12, max_size=200))
def test_no_form_of_the_settings_shows_a_secret(secret: str, tmp_path: Path) -> None:
    # Given settings of which every secret is this one
    settings = Settings(home=tmp_path, **{name: secret for name in NAMES})  # type: ignore[arg-type]

    # Then no way to write them as text holds it
    shown = repr(settings) + str(settings) + f"{settings}" + settings.model_dump_json() + str(settings.model_dump())
    assert secret not in shown and all(value_of(settings, name) == secret for name in NAMES)


def test_the_demos_worker_is_told_of_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a shell in which the database's secret comes from a file
    (tmp_path / "secret").write_text("sqlite:///elsewhere.db")
    monkeypatch.setenv("PORTRAITS_DATABASE_URL_FILE", str(tmp_path / "secret"))

    # When the demo, which has its own database, starts its worker
    environment = worker_environment(Settings(home=tmp_path, database_url="sqlite:///demo.db"))

    # Then the worker has the demo's
    assert environment["PORTRAITS_DATABASE_URL"] == "sqlite:///demo.db"
    assert "PORTRAITS_DATABASE_URL_FILE" not in environment
