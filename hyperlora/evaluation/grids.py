"""Pictures side by side, with a word over each column and beside each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN, HEAD, SIDE = 160, 8, 24, 56, 110
PAPER, INK, SOFT = "#faf8f4", "#26231e", "#77716a"


@dataclass(frozen=True, eq=False)
class Grid:
    """What is shown: a title, a word per column, and rows of a word and their pictures; None leaves a cell empty."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]]

    def draw(self) -> Image.Image:
        """The grid as one picture; small pictures are enlarged with their pixels kept visible."""
        width = 2 * MARGIN + SIDE + len(self.columns) * (CELL + GAP)
        height = 2 * MARGIN + HEAD + len(self.rows) * (CELL + GAP)
        page = Image.new("RGB", (width, height), PAPER)
        pen = ImageDraw.Draw(page)
        pen.text((MARGIN, MARGIN), self.title, INK, ImageFont.load_default(18))
        for column, name in enumerate(self.columns):
            place = (MARGIN + SIDE + column * (CELL + GAP), MARGIN + HEAD - 20)
            pen.text(place, name, SOFT, ImageFont.load_default(13))
        for row, (name, pictures) in enumerate(self.rows):
            top = MARGIN + HEAD + row * (CELL + GAP)
            pen.text((MARGIN, top + 4), name, SOFT, ImageFont.load_default(13))
            for column, picture in enumerate(pictures):
                if picture is not None:
                    page.paste(_tile(picture), (MARGIN + SIDE + column * (CELL + GAP), top))
        return page


def _tile(picture: Image.Image) -> Image.Image:
    how = Image.Resampling.BICUBIC if picture.width < CELL else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize((CELL, CELL), how)
