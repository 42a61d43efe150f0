"""Lengths of time on the command line: 90d, 12h, 30m, 45s, or plain seconds."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]?)")


MOST_SECONDS = 100 * 365.25 * 86_400
"""A hundred years: longer than anything here lies."""


def seconds(text: str) -> float:
    """How many seconds it is. Raises BadParameter, which exits with 2."""
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time; wanted such as 90d, 12h, 30m, 45s")
    length = float(found[1]) * _UNITS[found[2]]
    if length > MOST_SECONDS:
        raise typer.BadParameter(f"{text!r} is too long; wanted a hundred years at most")
    return length
