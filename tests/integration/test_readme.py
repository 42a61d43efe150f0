"""The README's commands, queries and programs, taken from the page and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import text
from stacks import PHOTOS, ROOT, people_manifest

from jobs import enqueue
from jobs.database import Database
from jobs.settings import Settings

PAGE = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the README's reader has it: the manifest of the page, and photos."""
    shutil.copytree(PHOTOS, tmp_path / "photos")
    (manifest,) = [block for block in blocks("yaml") if block.startswith("# people.yaml")]
    (tmp_path / "people.yaml").write_text(manifest)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PORTRAITS_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_that_ask_for_pictures(folder: Path) -> None:
    # Given the README's commands for asking, in their order
    (page,) = [block for block in blocks("sh") if "portraits enqueue people.yaml\n" in block]
    commands = [line.split("#")[0].split() for line in page.splitlines() if line.startswith("portraits ")]
    asked = [command[1:] for command in commands if command[1] in {"db", "enqueue"}]
    assert len(asked) == 3

    # When they are run, then each ends well
    for arguments in asked:
        run(folder, str(Path(sys.executable).parent / "portraits"), *arguments)


def test_the_producers_program(folder: Path) -> None:
    run(folder, str(Path(sys.executable).parent / "portraits"), "db", "upgrade")
    (program,) = [block for block in blocks("python") if "from jobs import enqueue" in block]
    assert run(folder, sys.executable, "-c", program).splitlines()[0] == "waiting"


def test_the_queries(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a job
    settings = Settings(home=tmp_path / "home", database_url=database_url)  # type: ignore[arg-type]
    enqueue(people_manifest(key="team-page-2026"), settings=settings, base=PHOTOS)

    # When the page's three queries are run
    (page,) = blocks("sql")
    found = []
    with database.reading() as tx:
        for query in page.split(";"):
            if "SELECT" in query:
                found.append(tx.execute(text(query)).mappings().all())

    # Then they answer
    assert [len(rows) for rows in found] == [1, 0, 12]
    assert found[0][0]["state"] == "waiting"


def test_the_models_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a checkout's packs and two photos, as the page says
    (tmp_path / "packs").symlink_to(ROOT / "packs", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {f"photo_{n}": Image.open(PHOTOS / f"ada-{n}.jpg") for n in (1, 2)}

    # When the page's program is run
    (program,) = [block for block in blocks("python") if "from hyperlora import" in block]
    exec(compile(program, "README.md", "exec"), names)

    # Then there is a picture and a LoRA file
    assert names["images"][0].size == (64, 64)
    assert (tmp_path / "ada.safetensors").stat().st_size > 100_000
