"""Contact sheets: rows of people, columns of portraits."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from hyperlora.mini.attributes import Attributes, draw_attributes
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import TEST, person


def sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 6) -> Image.Image:
    """Pictures of one size in a grid on white."""
    side = rows[0][0].width
    columns = max(len(row) for row in rows)
    page = Image.new("RGB", (columns * (side + gap) + gap, len(rows) * (side + gap) + gap), (255, 255, 255))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(picture, (gap + x * (side + gap), gap + y * (side + gap)))
    return page


def people_sheet(
    people: int, portraits: int = 6, first: int = TEST.start, size: int = 192, style: str | None = None
) -> Image.Image:
    """`people` rows from the seed `first` on: a plain portrait, then some with random attributes."""
    rows = []
    for seed in range(first, first + people):
        who = person(seed)
        row = [portrait(who, Attributes(expression="smiling"), seed * 10, size=size)]
        for k in range(1, portraits):
            row.append(portrait(who, draw_attributes(seed * 10 + k, style), seed * 10 + k, size=size))
        rows.append(row)
    return sheet(rows)
