"""The shapes that a UNet is run with, and which of the compiled ones a batch may use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of rows that are worth compiling for; beyond the last every number is."""
RANKS = (8, 16, 32)
"""LoRAs of the rows' own are filled up to one of these ranks, beyond to a multiple of the last."""


@dataclass(frozen=True, order=True)
class Shape:
    """What compiled code is made for.

    Parameters
    ----------
    width, height
        Of the picture, in pixels.
    rows
        Of the batch; with guidance two for each picture.
    tokens
        Of the texts.
    rank
        Of the rows' own LoRAs, 0 for none.
    """

    width: int
    height: int
    rows: int
    tokens: int
    rank: int = 0

    def __str__(self) -> str:
        own = f", a LoRA of rank {self.rank} for each" if self.rank else ""
        return f"{self.width}x{self.height}, {self.rows} rows, {self.tokens} tokens{own}"


def to_rank(rank: int) -> int:
    """The rank that LoRAs of this rank are filled up to."""
    return next((each for each in RANKS if rank <= each), -(-rank // RANKS[-1]) * RANKS[-1])


def fitting(asked: Shape, compiled: Iterable[Shape], room: float) -> Shape | None:
    """The smallest compiled shape with room for these rows, at most `room` times as many; None where there is none."""
    able = [
        shape for shape in compiled if replace(shape, rows=asked.rows) == asked and 1 <= shape.rows / asked.rows <= room
    ]
    return min(able, default=None)


def worthwhile(asked: Shape, most: int) -> Shape:
    """What to compile for a shape that was missed: a usual number of rows, but no more than `most`."""
    rows = next((each for each in ROWS if asked.rows <= each), asked.rows)
    return replace(asked, rows=max(asked.rows, min(rows, most)))
