"""How pages say numbers, moments and states."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

# Characters that turn the direction of text, or are not seen: names come from other people.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_CODE = re.compile(r"`([^`]+)`")
STATES = ("done", "running", "waiting", "failed", "cancelled")
_BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_SPANS = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0))


def clean(text: object) -> str:
    """The text without characters that hide or turn what is read."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def number(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\N{THIN SPACE}")


def size(value: int | None) -> str:
    """Bytes in the unit that people would use."""
    if value is None:
        return "–"
    return next((f"{value / unit:.1f} {name}" for name, unit in _BYTES if value >= unit), f"{value} bytes")


def percent(share: float | None) -> str:
    """A share in percent."""
    return "–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def similarity(value: float | None) -> str:
    """An ID similarity with two digits."""
    return "–" if value is None else f"{value:z.2f}"


def seconds(value: float | None) -> str:
    """A stretch of time in the unit that people would use."""
    if value is None:
        return "–"
    for name, length in _SPANS:
        if value >= 2 * length:
            return f"{value / length:.0f} {name}"
    if value >= 10:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def ago(moment: dt.datetime | None) -> str:
    """How long ago it was."""
    if moment is None:
        return "–"
    passed = (dt.datetime.now(dt.UTC) - moment).total_seconds()
    return "just now" if passed < 2 else f"{span(passed)} ago"


def span(value: float) -> str:
    """A stretch of time in whole units."""
    return f"{value:.0f} s" if value < 10 else seconds(value)


def moment(value: dt.datetime | None) -> str:
    """A moment in UTC, to the second."""
    return "–" if value is None else value.strftime("%Y-%m-%d %H:%M:%S UTC")


def short(text: object, most: int) -> str:
    """The text, cut to at most so many characters."""
    told = clean(text)
    return told if len(told) <= most else f"{told[: most - 1]}…"


def capital(text: str) -> str:
    """The text with a capital at its head."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """A message of an error as a sentence: a capital at its head, a stop at its end."""
    return capital(text) + ("" if not text or text[-1] in ".!?…" else ".")


def prose(text: str) -> list[Markup]:
    """The paragraphs of a docstring, with what stands between backticks as code."""
    paragraphs = (str(escape(" ".join(part.split()))) for part in text.split("\n\n"))
    return [Markup(_CODE.sub(r"<code>\1</code>", told)) for told in paragraphs]


def parts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a job's or a person's bar, as shares of a hundred from the left; what rests includes what is paused.

    A part that is there is at least half a hundredth wide, so that one failure of many thousands is seen.
    """
    total, running = row["renders"], row.get("running", 0)
    counts = {**{name: row.get(name, 0) for name in STATES}, "waiting": row["waiting"] - running, "running": running}
    if not total:
        return []
    widths = {name: max(0.5, 100.0 * count / total) for name, count in counts.items() if count}
    whole, left, found = sum(widths.values()), 0.0, []
    for name in STATES:
        if name in widths:
            width = 100.0 * widths[name] / whole
            found.append({"name": name, "count": counts[name], "left": round(left, 3), "width": round(width, 3)})
            left += width
    return found


def times(picture: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each step of a picture took, with its share of the longest."""
    names = ("weights", "merge", "denoise", "decode", "detail", "finish", "encode", "upload")
    taken = [(name, picture[f"seconds_{name}"]) for name in names if picture[f"seconds_{name}"] is not None]
    longest = max((value for _, value in taken), default=0.0) or 1.0
    return [{"name": name, "seconds": value, "width": round(100.0 * value / longest, 2)} for name, value in taken]


def total_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """All of these together."""
    return float(sum(row["seconds"] for row in rows))
