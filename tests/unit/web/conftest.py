"""Fixtures of the web tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_world import settings as queue_settings
from web_world import Site

from jobs.database import Database


@pytest.fixture
def site(database: Database, database_url: str, tmp_path: Path) -> Iterator[Site]:
    """The application over an empty, migrated database."""
    folder = tmp_path / "people"
    folder.mkdir()
    made = Site(queue_settings(tmp_path / "home", database_url), database, folder)
    with made.client:
        yield made
