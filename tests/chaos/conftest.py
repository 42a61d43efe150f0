"""Fixtures of the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks workers, started once."""
    opened = Nursery()
    yield opened
    opened.close()
