"""Fixtures of the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fleet import Fleet, Nursery
from matrix import TIMES
from stacks import STACKS, Stack


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks workers, started once."""
    opened = Nursery()
    yield opened
    opened.close()


@pytest.fixture
def broker() -> str:
    """For tests that are not given one: the one that needs no server."""
    return "serverless"


@pytest.fixture
def stack(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """A fresh installation with leases of a second."""
    with STACKS[broker](tmp_path / "home", lambda: request.getfixturevalue("s3_server"), **TIMES) as opened:
        yield opened


@pytest.fixture
def fleet(stack: Stack, nursery: Nursery) -> Iterator[Fleet]:
    """Its workers, killed afterwards."""
    with closing(Fleet(nursery, stack.home, stack.environment)) as opened:
        yield opened
