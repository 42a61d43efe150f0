"""Sheets of thumbnails: a style sheet that holds many small pictures, each under a class of its own.

One file for hundreds of thumbnails, so that a page needs few addresses; and yet each thumbnail is decoded alone, when
it comes into view. A large picture of many, cut by offsets, would be decoded whole for the least of its parts: of 5,000
pictures in the order of likeness every part of the window needs another one (see docs/decisions/0024). A style sheet
can be read from a folder, and from another origin, where a page may not fetch data; it runs nothing.
"""

from __future__ import annotations

import base64
import math

from jobs.gallery.pictures import MEDIA_TYPE

SHEETS_A_PAGE = 18
"""With the addresses of the page before and the page after these are the 20 that a page may sign."""
FEWEST = 48
CONTENT_TYPE = "text/css; charset=utf-8"


def sheet_size(pictures: int) -> int:
    """How many of a page's pictures go onto each sheet."""
    return max(FEWEST, math.ceil(pictures / SHEETS_A_PAGE))


class Sheet:
    """A sheet in the making; thumbnails are numbered over the page."""

    def __init__(self) -> None:
        self._rules: list[str] = []

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, number: int, data: bytes) -> None:
        """The thumbnail of this number."""
        encoded = base64.b64encode(data).decode("ascii")
        self._rules.append(f'.t{number}{{background-image:url("data:{MEDIA_TYPE};base64,{encoded}")}}\n')

    def as_bytes(self) -> bytes:
        """The file."""
        return "".join(self._rules).encode("ascii")
