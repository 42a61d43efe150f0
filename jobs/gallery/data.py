"""What a page of a gallery shows, as plain values: rows become pictures, and pages are cut between people.

A page's data name no address: thumbnails are counted, and a picture's `file` is relative to a folder that the page's
links name (see `jobs.gallery.page`). So one page can be made with other links, again and again.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Row = Mapping[str, Any]

FORMAT = 1
PICTURES_A_PAGE = 5_000
SECONDS = ("weights", "merge", "denoise", "decode", "detail", "finish", "encode", "upload")
NARROWEST, WIDEST = 0.6, 1.6
_COUNTED = ("renders", "done", "failed", "waiting", "cancelled")


@dataclass(frozen=True)
class Head:
    """What stands above every page: the job, how it was at this moment, and who made it."""

    job_id: str
    key: str
    name: str | None
    profile: str
    state: str
    people: int
    counts: Mapping[str, int]
    made_at: dt.datetime

    @classmethod
    def of(cls, job: Row, made_at: dt.datetime) -> Head:
        """From a row of the view `job_status`."""
        counts = {name: int(job[name] or 0) for name in _COUNTED}
        return cls(
            str(job["job_id"]),
            job["key"],
            job["name"],
            job["profile"],
            job["state"],
            job["identities"],
            counts,
            made_at,
        )

    def as_data(self) -> dict[str, Any]:
        """As the page reads it."""
        return {**vars(self), "counts": dict(self.counts), "made_at": moment(self.made_at)}


@dataclass
class PageData:
    """One page: `pictures` refer to `people`, `prompts` and `texts` by number; `first` is the number of its first
    picture in the job. Thumbnails of `sheet_size` each lie on the sheets that `sheets` names.
    """

    head: Head
    number: int
    first: int
    aspect: float
    has_next: bool
    people: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[str] = field(default_factory=list)
    sheet_size: int = 0
    notice: str | None = None

    def as_data(self) -> dict[str, Any]:
        """The whole page as JSON can hold it."""
        return {"format": FORMAT, **vars(self), "head": self.head.as_data()}


def cut(held: Sequence[Row]) -> int:
    """Where a page of these rows ends that are one more than it may hold: before the last person, unless that person
    alone fills it.
    """
    last = len(held) - 1
    start = last
    while start > 0 and held[start - 1]["identity_id"] == held[last]["identity_id"]:
        start -= 1
    return start or last


def aspect_of(rows: Iterable[Row]) -> float:
    """Width to height of most pictures, as thumbnails are shown: within what can stand in a grid."""
    shapes = Counter(_size(row) for row in rows)
    (width, height), _ = shapes.most_common(1)[0] if shapes else ((1, 1), 0)
    return round(min(max(width / max(height, 1), NARROWEST), WIDEST), 4)


class Builder:
    """Fills a page, row by row."""

    def __init__(self, page: PageData) -> None:
        self.page = page
        self._numbers: dict[str, dict[str, int]] = {"people": {}, "prompts": {}, "texts": {}}

    def add(self, row: Row, *, file: str | None, further: Sequence[tuple[str, str]], thumbnail: int | None) -> None:
        """A row of `render_metrics`. `file` is None where there is none, with the reason in `row["problem"]` if the row
        says that it is done; `further` are names and files of its further forms.
        """
        told = {
            "id": str(row["render_id"]),
            "ordinal": row["ordinal"],
            "person": self._number("people", row["external_id"]),
            "prompt": self._number("prompts", row["prompt_name"]),
            "state": row["state"],
            "seed": row["seed"] if row["drawn_seed"] is None else row["drawn_seed"],
            "text": self._number("texts", row["final_prompt"] or row["prompt"]),
            "negative": self._number("texts", row["negative_prompt"] or None),
            "size": list(_size(row)),
            "steps": row["steps"],
            "guidance": row["guidance"],
            "scheduler": self._number("texts", row["scheduler"]),
            "weight": row["lora_weight"],
            "code": row["error_code"],
            "error": row["error"],
            "similarity": _rounded(row["id_similarity"]),
            "similarity_reason": row["id_similarity_reason"],
            "recogniser": self._number("texts", row["recogniser"]),
            "seconds": {
                name: _rounded(row[f"seconds_{name}"]) for name in SECONDS if row[f"seconds_{name}"] is not None
            },
            "draws": row["draws"],
            "finished_at": moment(row["finished_at"]),
            "device": self._number("texts", row["device"]),
            "model": self._number("texts", row["model_fingerprint"]),
            "weight_set": self._number("texts", row["weight_set_fingerprint"]),
            "bytes": row["size_bytes"],
            "sha256": row["sha256"],
            "thumbnail": thumbnail,
            "problem": row.get("problem"),
            "file": address(file),
            "further": [[name, address(path)] for name, path in further],
        }
        self.page.pictures.append({name: value for name, value in told.items() if value not in (None, [], {})})

    def _number(self, kind: str, text: str | None) -> int | None:
        """The place of a text in its list, where each stands once."""
        if text is None:
            return None
        numbers, texts = self._numbers[kind], getattr(self.page, kind)
        if text not in numbers:
            numbers[text] = len(texts)
            texts.append(text)
        return numbers[text]


def address(path: str | None) -> str | None:
    """A relative path as an address has it: a name of a file can hold `#`, `?` and `%`."""
    return None if path is None else quote(path)


def moment(at: dt.datetime | None) -> str | None:
    """To the second, in UTC, as programs and people can read it."""
    return None if at is None else at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _size(row: Row) -> tuple[int, int]:
    return row["output_width"] or row["width"], row["output_height"] or row["height"]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
