"""The commands and the program of docs/serve.md, run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import serving
from stacks import PHOTOS, ROOT

from jobs import tokens
from jobs.database import Database
from jobs.reports import list_jobs
from jobs.settings import Settings
from jobs.web.api import create_api
from jobs.web.problems import _STATUS
from jobs.web.services import Services

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def settings(migrated_file: Path, tmp_path: Path) -> Settings:
    """An installation of its own."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(migrated_file, home / "portraits.db")
    shutil.copytree(PHOTOS, tmp_path / "photos")
    return Settings(home=home, _env_file=None)


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of the page, with a server behind them."""
    database = Database.from_settings(settings)
    token = tokens.create(database, settings.tenant, "docs", may_write=True).text
    database.dispose()
    own = {"PORTRAITS_HOME": str(settings.home)}
    with serving(own, tmp_path / "serve.log") as server:
        yield {**os.environ, **own, "PORTRAITS": server.address, "TOKEN": token, "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_page(environment: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    # Given the page's commands but for those that start the server
    script = "\n".join(re.sub(r"^export .*$", "", block, flags=re.MULTILINE) for block in blocks("sh")[1:])
    script = f"set -e\n{script.replace('curl -s ', 'curl -sS --fail-with-body ')}"

    # When they are run, then each ends well, and there is the job
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(job["key"], job["renders"]) for job in list_jobs(settings=settings)] == [("over-http", 1)]


def test_the_program_of_the_page(environment: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    (program,) = blocks("python")
    for _ in range(2):  # the second time every photo is known, and the job is the same
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (job,) = list_jobs(settings=settings)
    assert (job["key"], done.stdout.split()) == ("from-python", [str(job["job_id"]), "1"])


def test_the_tokens_of_the_page(settings: Settings, tmp_path: Path) -> None:
    # Given the commands that make tokens
    commands = [line.split("#")[0].split() for line in blocks("sh")[0].splitlines() if "tokens create" in line]
    assert len(commands) == 2
    for command in commands:
        own = {**os.environ, "PORTRAITS_HOME": str(settings.home), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", *command[1:]],
            cwd=tmp_path,
            env=own,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and done.stdout.startswith("portraits_default."), done.stderr


def test_the_tables_of_the_page_are_the_code(settings: Settings) -> None:
    # Given the requests, statuses and settings that the page names
    services = Services.open(settings)
    document = create_api(services).openapi()
    services.close()
    told = set(re.findall(r"^\| `(GET|POST) (/[^`]*)` \|", PAGE, flags=re.MULTILINE))

    # Then they are those of the API, but for the address that the API itself gives out
    found = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert told == found - {("PUT", "/uploads/{signed}")}
    named = {
        int(status)
        for line in re.findall(r"^\| (4\d\d(?:, 4\d\d)*) \|", PAGE, re.MULTILINE)
        for status in line.split(", ")
    }
    assert named == set(_STATUS.values())
    fields = {f"PORTRAITS_{name.upper()}" for name in Settings.model_fields}
    shown = set(re.findall(r"PORTRAITS_[A-Z_]+", PAGE))
    assert shown <= fields and {name for name in fields if "SERVE" in name} <= shown
