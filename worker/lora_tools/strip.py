"""A strip of pictures: rows of equal tiles with a caption under each, to compare what one number changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from worker.contact_sheet import INK, LINE, NOTICE_INK, NOTICE_PAPER, PAPER, SOFT, fit, wrap
from worker.typefaces import Font, typeset

TILE, GAP, MARGIN = 168, 12, 28
CAPTION, ROW_HEAD, TITLE, BAND = 26, 30, 46, 34
CORNER = 8


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture and what stands under it."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures beside each other, with a line above them."""

    title: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, eq=False)
class Strip:
    """Rows under a title; `notice` stands in a band above them."""

    title: str
    rows: Sequence[Row]
    notice: str | None = None


def draw_strip(strip: Strip) -> Image.Image:
    """The strip as one RGB picture."""
    columns = max((len(row.tiles) for row in strip.rows), default=0)
    inner = max(columns * (TILE + GAP) - GAP, 4 * TILE)
    notice, font = _notice(strip.notice, inner)
    band = len(notice) * 20 + BAND - 20 + 10 if notice else 0
    height = 2 * MARGIN + TITLE + band + len(strip.rows) * (ROW_HEAD + TILE + CAPTION + GAP) - GAP
    page = Image.new("RGB", (inner + 2 * MARGIN, height), PAPER)
    pen = ImageDraw.Draw(page)
    _line(pen, strip.title, (MARGIN, MARGIN), 24, inner, INK)
    top = MARGIN + TITLE
    if notice:
        pen.rounded_rectangle((MARGIN, top, MARGIN + inner, top + band - 10), CORNER, NOTICE_PAPER)
        for number, text in enumerate(notice):
            pen.text((MARGIN + 12, top + (BAND - 20) // 2 + number * 20), text, NOTICE_INK, font)
        top += band
    for row in strip.rows:
        pen.line((MARGIN, top, MARGIN + inner, top), LINE)
        _line(pen, row.title, (MARGIN, top + 6), 15, inner, INK)
        for number, tile in enumerate(row.tiles):
            place = (MARGIN + number * (TILE + GAP), top + ROW_HEAD)
            _paste(page, tile.image, place)
            _line(pen, tile.caption, (place[0], place[1] + TILE + 4), 14, TILE, SOFT)
        top += ROW_HEAD + TILE + CAPTION + GAP
    return page


def _notice(text: str | None, width: int) -> tuple[list[str], Font]:
    line, font = typeset(text or "", 15)
    return (wrap(line, font, width - 24, 3) if text else []), font


def _line(pen: ImageDraw.ImageDraw, text: str, place: tuple[int, int], size: int, width: float, colour: str) -> None:
    line, font = typeset(text, size)
    pen.text(place, fit(line, font, width), colour, font)


def _paste(page: Image.Image, image: Image.Image, place: tuple[int, int]) -> None:
    """The whole picture inside a tile, enlarged or reduced, with round corners."""
    scale = min(TILE / image.width, TILE / image.height)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    tile = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    mask = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] * 4 - 1, size[1] * 4 - 1), CORNER * 4, 255)
    at = (place[0] + (TILE - size[0]) // 2, place[1] + (TILE - size[1]) // 2)
    page.paste(tile, at, mask.resize(size, Image.Resampling.LANCZOS))
