"""The example photographs of the repository, made again from this list.

Eight people of the test range, whom no network of the mini world is ever trained on; file names are `<who>-<n>.jpg`.
"""

from __future__ import annotations

from pathlib import Path

from hyperlora.mini.attributes import Attributes
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import person

SIZE = 512
QUALITY = 88

# who -> seed of the person, and one (clothing, colour, background, accessory, expression) per photograph
PHOTOS: dict[str, tuple[int, tuple[tuple[str, str, str, str, str], ...]]] = {
    "ada": (
        2_000_028,
        (
            ("hoodie", "teal", "garden", "none", "smiling"),
            ("dress", "red", "warm studio", "earrings", "neutral"),
            ("denim jacket", "yellow", "beach", "none", "laughing"),
            ("turtleneck", "white", "grey studio", "none", "smiling"),
        ),
    ),
    "alan": (
        2_000_002,
        (
            ("shirt", "blue", "library", "none", "neutral"),
            ("sweater", "green", "forest", "none", "smiling"),
        ),
    ),
    "grace": (
        2_000_009,
        (
            ("turtleneck", "navy", "office", "none", "smiling"),
            ("suit", "grey", "library", "glasses", "smiling"),
            ("sweater", "pink", "warm studio", "none", "laughing"),
        ),
    ),
    "hedy": (
        2_000_027,
        (
            ("dress", "green", "sunset", "none", "smiling"),
            ("leather jacket", "white", "city at night", "none", "neutral"),
            ("t-shirt", "yellow", "mountains", "none", "laughing"),
        ),
    ),
    "katherine": (
        2_000_011,
        (
            ("suit", "navy", "blue studio", "none", "smiling"),
            ("overalls", "blue", "garden", "none", "laughing"),
        ),
    ),
    "linus": (
        2_000_003,
        (
            ("t-shirt", "orange", "beach", "none", "smiling"),
            ("hoodie", "grey", "office", "none", "neutral"),
            ("shirt", "white", "blue studio", "round glasses", "smiling"),
            ("denim jacket", "red", "mountains", "none", "laughing"),
        ),
    ),
    "omar": (2_000_010, (("sweater", "teal", "warm studio", "none", "smiling"),)),
    "tim": (
        2_000_033,
        (
            ("lab coat", "blue", "office", "none", "smiling"),
            ("suit", "black", "grey studio", "none", "neutral"),
        ),
    ),
}


def write_photos(folder: Path) -> list[Path]:
    """Draw every photograph into the folder (made if missing) as JPEG; answers with the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for who, (seed, shots) in PHOTOS.items():
        for number, (clothing, colour, background, accessory, expression) in enumerate(shots, 1):
            said = Attributes(clothing, colour, background, accessory, expression)
            image = portrait(person(seed), said, seed * 100 + number, size=SIZE)
            path = folder / f"{who}-{number}.jpg"
            image.info.clear()  # labels are no part of a photograph
            image.save(path, "JPEG", quality=QUALITY, optimize=True, subsampling=0)
            written.append(path)
    return written
