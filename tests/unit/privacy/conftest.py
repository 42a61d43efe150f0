"""A world of people for every test of forgetting."""

from __future__ import annotations

from pathlib import Path

import pytest
from privacy_world import PrivacyWorld
from queue_world import TENANT, World, settings

from jobs.database import Database
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    """A queue with a fake renderer, in which every second picture of a render is the better one."""
    return World(database, settings(tmp_path, database_url, tenant=TENANT), FakeRenderer(alike=lambda image: 0.5))


@pytest.fixture
def people(world: World, tmp_path: Path) -> PrivacyWorld:
    """The whole of it, for two tenants."""
    folder = tmp_path / "manifest"
    folder.mkdir()
    return PrivacyWorld(world, folder)
