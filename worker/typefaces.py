"""A font for each text: Pillow's own where it has the letters, else one of the system's.

Pillow's font knows ASCII and little more. Where the system has no wider one, accents are left away, so that a name
stays readable.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
)
_NO_CHARACTER = "\uffff"


@lru_cache(maxsize=64)
def plain(size: int) -> Font:
    """Pillow's own font."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _system(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    """Whether the font draws the letter as something else than the sign for a missing one."""
    font = _system(name, 24) if name else plain(24)
    return font is not None and bytes(font.getmask(letter)) != bytes(font.getmask(_NO_CHARACTER))


def typeset(text: str, size: int) -> tuple[str, Font]:
    """The text on one line, as it can be drawn, and the font to draw it in."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    letters = set(line) - {" "}
    if all(_has("", letter) for letter in letters):
        return line, plain(size)
    for name in _SYSTEM_FONTS:
        font = _system(name, size)
        if font is not None and all(_has(name, letter) for letter in letters):
            return line, font
    bare = "".join(c for c in unicodedata.normalize("NFKD", line) if not unicodedata.combining(c))
    return bare, plain(size)
