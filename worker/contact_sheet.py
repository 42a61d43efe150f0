"""A contact sheet: people down, each with reference photos and name; prompts across. Pillow only.

A cell shows up to four pictures of one prompt, as quarters, and under them their seeds; what could not be drawn says
why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageOps

from worker.typefaces import Font, plain, typeset

MAX_PEOPLE, MAX_PROMPTS, MAX_IN_CELL = 24, 12, 4
CELL, GAP, MARGIN, CAPTION = 208, 18, 48, 22
CORNER = 10
HEAD, BAND, COLUMN_HEADS, NOTE = 122, 44, 58, 26
ROW = CELL + CAPTION + GAP
PAPER, INK, SOFT, LINE = "#fbfaf7", "#1f2328", "#6b7280", "#e7e4dc"
EMPTY, FAILED_PAPER, FAILED_INK = "#f1efe9", "#fdecea", "#9f2b23"
NOTICE_PAPER, NOTICE_INK = "#ffe08a", "#5b4300"


@dataclass(frozen=True)
class Picture:
    """One render on the sheet: its image, or its state and the reason. `remark` stands behind a lone one's seed."""

    image: Image.Image | None
    seed: int | None = None
    remark: str = ""
    state: str = "done"
    reason: str = ""


@dataclass(frozen=True)
class Person:
    """A row of the sheet; `pictures` by prompt name."""

    name: str
    photos: Sequence[Image.Image] = ()
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """What is shown. `notice` stands in a band across the sheet, `note` is small print at its foot."""

    title: str
    subtitle: str
    prompts: Sequence[str]
    people: Sequence[Person]
    notice: str | None = None
    note: str | None = None


def draw_sheet(sheet: Sheet) -> Image.Image:
    """The sheet as one picture; people and prompts beyond the caps are left out with a note."""
    people, prompts = sheet.people[:MAX_PEOPLE], sheet.prompts[:MAX_PROMPTS]
    note = "  ·  ".join(part for part in (sheet.note, _left_out(sheet)) if part)
    columns = max(1 + len(prompts), 4)
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP
    head = HEAD + (BAND + 14 if sheet.notice else 0)
    height = head + COLUMN_HEADS + len(people) * ROW + MARGIN + (NOTE if note else 0)
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    inner = width - 2 * MARGIN
    _text(pen, sheet.title, (MARGIN, 34), 34, inner)
    _text(pen, sheet.subtitle, (MARGIN, 80), 17, inner, SOFT)
    if sheet.notice:
        pen.rounded_rectangle((MARGIN, HEAD, width - MARGIN, HEAD + BAND), CORNER, NOTICE_PAPER)
        _text(pen, sheet.notice, (MARGIN + 18, HEAD + BAND // 2), 18, inner - 36, NOTICE_INK, anchor="lm")
    for column, name in enumerate(prompts, 1):
        _text(pen, name, (MARGIN + column * (CELL + GAP), head + 34), 18, CELL, anchor="lm")
    for row, person in enumerate(people):
        top = head + COLUMN_HEADS + row * ROW
        pen.line((MARGIN, top - GAP // 2, width - MARGIN, top - GAP // 2), LINE)
        _row(page, person, prompts, top)
    if note:
        _text(pen, note, (MARGIN, height - MARGIN - 6), 15, inner, SOFT)
    return page


def fit(text: str, font: Font, width: float) -> str:
    """The text, cut with an ellipsis where it would be wider."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(f"{text[:middle].rstrip()}…") <= width:
            low = middle
        else:
            high = middle - 1
    return f"{text[:low].rstrip()}…"


def wrap(text: str, font: Font, width: float, lines: int) -> list[str]:
    """The text in at most so many lines, broken between words; what does not fit is cut with an ellipsis."""
    words, out = text.split(), [""]
    for index, word in enumerate(words):
        longer = f"{out[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            out[-1] = longer
        elif len(out) == lines:
            out[-1] = fit(" ".join([out[-1], *words[index:]]).strip(), font, width)
            break
        elif out[-1]:
            out.append(fit(word, font, width))
        else:
            out[-1] = fit(word, font, width)
    return out


def caption(pictures: Sequence[Picture], font: Font, width: float) -> str:
    """What stands under a cell: one picture's remark and seed, or the seeds of all that are shown, as many as fit."""
    shown = [picture for picture in pictures[:MAX_IN_CELL] if picture.seed is not None]
    if len(pictures) == 1:
        return fit(
            "  ·  ".join(part for one in shown for part in (one.remark, f"seed {one.seed}") if part), font, width
        )
    rest = f"  +{len(pictures) - MAX_IN_CELL} more" if len(pictures) > MAX_IN_CELL else ""
    seeds = [str(picture.seed) for picture in shown]
    for count in range(len(seeds), 0, -1):
        told = f"seeds {', '.join(seeds[:count])}{', …' if count < len(seeds) else ''}{rest}"
        if font.getlength(told) <= width:
            return told
    return fit(f"{len(pictures)} seeds", font, width)


def _left_out(sheet: Sheet) -> str:
    people, prompts = len(sheet.people) - MAX_PEOPLE, len(sheet.prompts) - MAX_PROMPTS
    parts = [f"{people} more people" if people > 0 else "", f"{prompts} more prompts" if prompts > 0 else ""]
    told = " and ".join(part for part in parts if part)
    return f"not shown: {told}" if told else ""


def _text(
    pen: ImageDraw.ImageDraw,
    text: str,
    place: tuple[float, float],
    size: int,
    width: float,
    colour: str = INK,
    *,
    anchor: str = "la",
) -> None:
    """One line of at most this width."""
    line, font = typeset(text, size)
    pen.text(place, fit(line, font, width), colour, font, anchor=anchor)


def _row(page: Image.Image, person: Person, prompts: Sequence[str], top: int) -> None:
    pen = ImageDraw.Draw(page)
    if person.photos:
        _tiles(page, [Picture(photo) for photo in person.photos], (MARGIN, top))
    else:
        _blank(pen, (MARGIN, top), CELL, EMPTY)
    _text(pen, person.name, (MARGIN, top + CELL + 5), 17, CELL)
    for column, prompt in enumerate(prompts, 1):
        place = (MARGIN + column * (CELL + GAP), top)
        pictures = person.pictures.get(prompt, ())
        if not pictures:
            _nothing(pen, place)
            continue
        _tiles(page, pictures, place)
        font = plain(14)
        pen.text((place[0], top + CELL + 6), caption(pictures, font, CELL), SOFT, font)


def _tiles(page: Image.Image, pictures: Sequence[Picture], place: tuple[int, int]) -> None:
    """One picture fills the cell, two to four share it as quarters."""
    shown = pictures[:MAX_IN_CELL]
    side = CELL if len(shown) == 1 else (CELL - 8) // 2
    for index, picture in enumerate(shown):
        x, y = place[0] + (index % 2) * (side + 8), place[1] + (index // 2) * (side + 8)
        if picture.image is None:
            _reason(ImageDraw.Draw(page), picture, (x, y), side)
        else:
            _paste(page, picture.image, (x, y), side)


def _paste(page: Image.Image, image: Image.Image, place: tuple[int, int], side: int) -> None:
    """The picture as a square with round corners, cut around its upper middle, where faces are."""
    tile = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS, centering=(0.5, 0.35))
    mask = Image.new("L", (side * 4, side * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side * 4 - 1, side * 4 - 1), CORNER * 4, 255)
    page.paste(tile, place, mask.resize((side, side), Image.Resampling.LANCZOS))


def _blank(pen: ImageDraw.ImageDraw, place: tuple[int, int], side: int, colour: str) -> None:
    pen.rounded_rectangle((*place, place[0] + side - 1, place[1] + side - 1), CORNER, colour)


def _nothing(pen: ImageDraw.ImageDraw, place: tuple[int, int]) -> None:
    """A dash: this person was not asked for with this prompt."""
    x, y = place[0] + CELL // 2, place[1] + CELL // 2
    pen.rounded_rectangle((x - 9, y - 1, x + 9, y + 1), 1, "#d5d1c7")


def _reason(pen: ImageDraw.ImageDraw, picture: Picture, place: tuple[int, int], side: int) -> None:
    """A cell without a picture: its state, and why."""
    failed = picture.state == "failed"
    _blank(pen, place, side, FAILED_PAPER if failed else EMPTY)
    big, small, inset = (18, 14, 14) if side == CELL else (14, 11, 8)
    ink, room = FAILED_INK if failed else SOFT, side - 2 * inset
    x, y = place[0] + inset, place[1] + inset
    _text(pen, picture.state, (x, y), big, room, ink)
    reason, font = typeset(picture.reason, small)
    step = small + 4
    for number, line in enumerate(wrap(reason, font, room, (room - big - 8) // step)):
        pen.text((x, y + big + 8 + number * step), line, ink, font)
