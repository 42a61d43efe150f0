"""The threat model names for each threat the tests that hold its defence, and they are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "why" / "security.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def named_in(file: str) -> frozenset[str]:
    """The names of the tests in a file."""
    path = ROOT / file
    assert path.is_file(), f"{file} is named in {PAGE.name} and is not there"
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def rows() -> list[list[str]]:
    """The rows of every table of threats, as cells."""
    tables = re.findall(r"^\| threat \|.*?\n\|[-| ]+\|\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|\n").split(" | ")] for table in tables for line in table.splitlines()
    ]


def test_every_threat_has_a_defence_and_a_test_that_is_there() -> None:
    found = rows()
    assert len(found) >= 40
    for threat, defence, held_by in found:
        named = _TEST.findall(held_by)
        assert defence and named, f"{threat!r} has no defence or no test"
        for file, name in named:
            assert name in named_in(file), f"{threat!r} is held by {file}::{name}, which is not there"
