"""A box of photos as people keep them: a folder for each person, and among the good ones every fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from hyperlora.dataset import Preparation, Prepared, Rules
from hyperlora.mini import person, portrait

SIDE = 160
RULES = Rules(size=96, min_face=40, min_side=100)
GOOD = ["ada/1", "ada/2", "alan/1", "alan/2"]


@dataclass(frozen=True)
class Made:
    """A preparation and its outcome."""

    wanted: Preparation
    prepared: Prepared
    progress: list[tuple[int, int]]

    @property
    def folder(self) -> Path:
        return self.wanted.out


def good(who: int, number: int) -> Image.Image:
    """A photo that is kept."""
    return portrait(person(who), {"clothing": "hoodie"}, seed=10 * who + number, size=SIDE)


def _beside(image: Image.Image) -> Image.Image:
    pair = np.hstack([np.asarray(each.resize((130, 130), Image.Resampling.LANCZOS)) for each in (image, good(5, 1))])
    return Image.fromarray(np.pad(pair, ((65, 65), (0, 0), (0, 0)), mode="edge"))


def _far(image: Image.Image) -> Image.Image:
    small = np.asarray(image.resize((60, 60), Image.Resampling.LANCZOS))
    return Image.fromarray(np.pad(small, ((50, 50), (50, 50), (0, 0)), mode="edge"))


def _nobody(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


# Name in the folder -> the reason it is dropped for, and what was done to a good photo.
FAULTS: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "ada/blurred": ("blurred_face", lambda image: image.filter(ImageFilter.GaussianBlur(4))),
    "ada/dark": ("dark_face", lambda image: ImageEnhance.Brightness(image).enhance(0.15)),
    "alan/two": ("several_people", _beside),
    "alan/far": ("small_face", _far),
    "alan/nobody": ("no_face", _nobody),
    "alan/tiny": ("small_photo", lambda image: image.resize((90, 90))),
}
HOSTILE = "ada/<img src=x onerror=alert(1)>"


def fill(folder: Path) -> Path:
    """Write the box; answers with its folder."""
    for who in ("ada", "alan"):
        (folder / who).mkdir(parents=True)
    for name in GOOD:
        image = good(("ada", "alan").index(name[:-2]), int(name[-1]))
        image.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(image.info["caption"], encoding="utf-8")
    for name, (_, fault) in FAULTS.items():
        fault(good(3, 1)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a faulty photo", encoding="utf-8")
    # A torn file with a name that is made to run in a page, a photo without words, and words that are none.
    (folder / f"{HOSTILE}.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (folder / f"{HOSTILE}.txt").write_text("<b>torn</b>", encoding="utf-8")
    good(4, 1).save(folder / "alan" / "wordless.png")
    good(4, 1).save(folder / "alan" / "garbled.png")
    (folder / "alan" / "garbled.txt").write_bytes(b"\xff\xff")
    return folder
