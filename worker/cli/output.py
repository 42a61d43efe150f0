"""How things are said: people read tables and sentences, programs read JSON from stdout."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 200  # columns of a table that no terminal limits
# Control characters, and those that turn the direction of text: names come from other people.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
STATE_STYLES = {
    "done": "green",
    "failed": "red",
    "partial": "yellow",
    "cancelled": "dim",
    "running": "cyan",
    "waiting": "",
    "paused": "yellow",
}


def out() -> Console:
    """The console of answers."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """The console of errors, hints and progress; stdout stays clean for programs."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def clean(text: object) -> str:
    """The text without characters that would act on a terminal."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def say(message: object, style: str = "") -> None:
    """One answer."""
    _print(out(), message, style)


def hint(message: object, style: str = "dim") -> None:
    """A remark beside the answer, on stderr."""
    _print(err(), message, style)


def warn(message: object) -> None:
    """Something to look at, on stderr."""
    _print(err(), f"warning: {message}", "yellow")


def _print(console: Console, message: object, style: str) -> None:
    from rich.text import Text

    console.print(Text(clean(message), style=style), soft_wrap=True)


def facts(pairs: Mapping[str, object]) -> None:
    """Names and values in two columns."""
    widest = max(len(name) for name in pairs)
    for name, value in pairs.items():
        say(f"  {name:<{widest}}  {value}")


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = "") -> Table:
    """A table of texts; columns whose name stands in `right` are aligned there. Nothing is read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    to_the_right = right.split()
    for name in columns:
        made.add_column(name, justify="right" if name in to_the_right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(clean(value), style=STATE_STYLES.get(str(value), "")) for value in row))
    return made


def print_json(data: object) -> None:
    """One JSON document on stdout."""
    json.dump(data, sys.stdout, default=jsonable, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def jsonable(value: object) -> Any:
    """What JSON has no type for: moments in ISO 8601, ids and paths as texts."""
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, uuid.UUID | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def short(text: object, most: int) -> str:
    """The text, cut to at most so many characters; the last one is an ellipsis then."""
    told = str(text)
    return told if len(told) <= most else f"{told[: most - 1]}…"


def ago(seconds: float) -> str:
    """A span in the unit that people would use."""
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
