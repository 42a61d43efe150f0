"""A command line to test with: its own folder, an SQLite database, a fake renderer, and helpers to draw."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from sqlalchemy import select
from typer.testing import CliRunner, Result

from jobs.database import Database
from jobs.models import Unit
from jobs.settings import Settings
from worker import process
from worker.cli.app import app
from worker.testing import FakeRenderer

PROFILES = """
[profiles.fake]
renderer = "fake"
batch_size = 4
"""


class CliWorld:
    """One user's machine: `run` a command, `draw` what waits."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, migrated_file: Path) -> None:
        self.folder, self._monkeypatch, self._migrated_file = folder, monkeypatch, migrated_file
        self.home = folder / "home"
        self._runner = CliRunner()

    @property
    def settings(self) -> Settings:
        """The settings that the commands see."""
        return Settings()

    def run(self, *arguments: object, exit_code: int = 0) -> Result:
        """Run one command in this process and expect its exit code."""
        result = self._runner.invoke(app, [str(argument) for argument in arguments], prog_name="portraits")
        assert result.exit_code == exit_code, f"exit code {result.exit_code}\n{result.output}\n{result.exception!r}"
        return result

    def json(self, *arguments: object, exit_code: int = 0) -> Any:
        """The same, with the answer read from stdout, which must be one JSON document."""
        return json.loads(self.run(*arguments, "--json", exit_code=exit_code).stdout)

    def manifest(self, people: Sequence[str] = ("ada", "alan"), file_name: str = "people.yaml", **changes: Any) -> Path:
        """A manifest of people with one small photo each and two prompts: `office` with two seeds, `beach` with one."""
        data: dict[str, Any] = {
            "profile": "fake",
            "defaults": {"size": 64, "steps": 2},
            "prompts": [
                {"name": "office", "text": "a portrait in an office", "seeds": [1, 2]},
                {"name": "beach", "text": "a portrait on a beach", "seeds": [3]},
            ],
            "identities": [{"id": who, "photos": [self.photo(f"photo{n}.png", n)]} for n, who in enumerate(people)],
            **changes,
        }
        file = self.folder / file_name
        file.write_text(yaml.safe_dump(data), encoding="utf-8")
        return file

    def photo(self, name: str, number: int) -> str:
        """A picture file in the manifest's folder; every number gives another content."""
        Image.new("RGB", (40, 40), (number % 256, number // 256, 90)).save(self.folder / name)
        return name

    def migrate(self) -> None:
        """What `db upgrade` does in a new home, faster: a copy of a migrated file."""
        file = self.home / "portraits.db"
        if not file.exists():
            self.home.mkdir(exist_ok=True)
            shutil.copy(self._migrated_file, file)

    def enqueue(self, **manifest: Any) -> dict[str, Any]:
        """Migrate, and enqueue the manifest of these changes."""
        self.migrate()
        answer = self.json("enqueue", self.manifest(**manifest))
        assert isinstance(answer, dict)
        return answer

    def draw(self, *, refuse: Callable[[Sequence[bytes]], Exception | None] | None = None) -> None:
        """Run shifts in this process until nothing is ready."""
        settings = self.settings
        database = Database.from_settings(settings)
        options: dict[str, Any] = {"refuse": refuse} if refuse else {}
        self._monkeypatch.setattr(
            process, "make_renderer", lambda profile, settings: FakeRenderer(profile.name, **options)
        )
        worker = process.WorkerProcess(settings)
        while True:
            with database.reading() as tx:
                ready = select(Unit.id, Unit.profile).where(Unit.state == "ready").limit(1)
                found = tx.execute(ready).one_or_none()
            if found is None:
                break
            worker.run_shift(uuid.UUID(str(found.id)), found.profile)
        database.dispose()
        worker.close()
