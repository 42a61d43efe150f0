"""A person who does not exist: one seed, and every feature that stays the same in each of their portraits.

Lengths are in head units: the eye line is y = 0, the crown near y = -1.1, the chin near y = 1.1, a face about 1.55
wide. Colours are RGB 0..255. The same seed is the same person for ever: only `random.Random.random` is drawn from,
whose sequence Python promises to keep.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hyperlora.mini.canvas import Colour, mixed

_T = TypeVar("_T")

TRAINING = range(0, 1_000_000)
VALIDATION = range(1_000_000, 2_000_000)
TEST = range(2_000_000, 3_000_000)
NEVER = 9_000_000

SKINS: dict[str, Colour] = {
    "porcelain": (250, 224, 208),
    "fair": (244, 208, 184),
    "rosy": (240, 194, 172),
    "light": (232, 188, 155),
    "olive": (214, 170, 128),
    "tan": (202, 150, 110),
    "golden": (190, 136, 92),
    "brown": (158, 106, 72),
    "deep brown": (124, 80, 56),
    "dark": (94, 60, 44),
}
HAIR_COLOURS: dict[str, Colour] = {
    "black": (38, 32, 36),
    "dark brown": (66, 44, 34),
    "brown": (104, 68, 44),
    "chestnut": (134, 76, 48),
    "auburn": (150, 62, 40),
    "red": (190, 80, 40),
    "blond": (220, 178, 108),
    "ash blond": (196, 168, 126),
    "grey": (158, 158, 164),
    "white": (226, 224, 222),
}
EYE_COLOURS: dict[str, Colour] = {
    "dark brown": (72, 44, 30),
    "brown": (118, 72, 38),
    "amber": (166, 112, 44),
    "hazel": (128, 118, 60),
    "green": (78, 134, 84),
    "grey": (124, 138, 150),
    "blue": (72, 132, 190),
}
CUTS_LONG = ("long straight", "long wavy", "bob", "ponytail", "bun", "fringe bob", "pixie", "afro", "long curly")
CUTS_SHORT = ("crop", "side part", "quiff", "buzz", "curly", "afro", "swept back", "chin length", "bald")
FACIAL_HAIR = ("none", "stubble", "moustache", "goatee", "short beard", "full beard")


@dataclass(frozen=True)
class Person:
    """The features of one person; see the module for the units."""

    seed: int
    presentation: str  # woman, man, person
    age: str  # young, middle-aged, older
    skin: Colour
    skin_name: str
    face_width: float
    face_length: float
    jaw: float
    chin: float
    cheek: float
    hair_cut: str
    hair_colour: str
    hair: Colour
    hair_volume: float
    hair_part: float
    hairline: float
    brow_thickness: float
    brow_arch: float
    brow_slope: float
    brow_height: float
    eye_width: float
    eye_opening: float
    eye_slope: float
    eye_distance: float
    eye_colour: str
    iris: Colour
    lashes: float
    lid_fold: float
    nose_length: float
    nose_width: float
    nose_tip: float
    nose_bridge: float
    mouth_width: float
    mouth_height: float
    lip_upper: float
    lip_lower: float
    lip_bow: float
    lips: Colour
    ear_size: float
    freckles: float
    mole: tuple[float, float] | None
    blush: float
    facial_hair: str
    wrinkles: float

    @property
    def subject(self) -> str:
        """Who this is, as a prompt would say it: "a young woman with long wavy red hair"."""
        ages = {"young": "a young", "middle-aged": "a middle-aged", "older": "an older"}
        if self.hair_cut == "bald":
            looks = "a bald head"
        else:
            cut = {"crop": "short", "curly": "short curly", "long curly": "long curly"}.get(self.hair_cut, "")
            if self.hair_cut in ("long straight", "long wavy", "chin length"):
                cut = self.hair_cut
            shapes = {"bob": "bob", "fringe bob": "bob", "ponytail": "ponytail", "bun": "bun", "pixie": "pixie cut"}
            shapes |= {"afro": "afro", "quiff": "quiff", "buzz": "buzz cut"}
            shape = shapes.get(self.hair_cut)
            article = "an" if self.hair_colour[0] in "aeiou" else "a"
            looks = f"{article} {self.hair_colour} {shape}" if shape else f"{cut} {self.hair_colour} hair".strip()
        beard = {"moustache": " and a moustache", "goatee": " and a goatee"}
        beard |= {"short beard": " and a short beard", "full beard": " and a full beard"}
        return f"{ages[self.age]} {self.presentation} with {looks}{beard.get(self.facial_hair, '')}"


class Dice:
    """Named draws from one seed; built on `random()` alone so that the sequence never changes."""

    def __init__(self, name: str) -> None:
        self._random = random.Random(name).random

    def between(self, low: float, high: float) -> float:
        """Evenly from low to high."""
        return low + (high - low) * self._random()

    def around(self, middle: float, spread: float) -> float:
        """A bell-shaped draw within middle +- spread (mean of two even ones)."""
        return middle + spread * (self._random() + self._random() - 1)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def pick(self, options: Sequence[_T], weights: Sequence[float] | None = None) -> _T:
        """One of the options."""
        shares = list(weights or [1.0] * len(options))
        left = self._random() * sum(shares)
        for option, share in zip(options, shares, strict=True):
            left -= share
            if left < 0:
                return option
        return options[-1]


def split_of(seed: int) -> str:
    """Which part of the data a person belongs to: "train", "validation", "test" or "spare".

    Raises `ValueError` for seeds that are never to be used (9,000,000 and above) and for negative ones.
    """
    if seed < 0 or seed >= NEVER:
        raise ValueError(f"a person's seed must be from 0 to {NEVER - 1:,}, not {seed:,}")
    for name, seeds in (("train", TRAINING), ("validation", VALIDATION), ("test", TEST)):
        if seed in seeds:
            return name
    return "spare"


def person(seed: int) -> Person:
    """The person of this seed. Raises `ValueError` outside 0..8,999,999."""
    split_of(seed)
    d = Dice(f"hyperlora.mini person {seed}")
    presentation = d.pick(("woman", "man", "person"), (48, 47, 5))
    age = d.pick(("young", "middle-aged", "older"), (60, 26, 14))
    soft = {"woman": 1.0, "man": 0.0, "person": 0.5}[presentation]
    skin_name = d.pick(tuple(SKINS))
    depth = list(SKINS).index(skin_name) / (len(SKINS) - 1)
    warmth = d.around(0, 7)
    base = SKINS[skin_name]
    skin = (base[0], base[1] + warmth * 0.3, base[2] - warmth)
    hair_colour = _hair_colour(d, age, depth)
    cuts = CUTS_LONG if d.chance(0.06 + 0.88 * soft) else CUTS_SHORT
    weights = [0.45 if c in ("bald", "buzz") else 2.0 if c == "afro" and depth > 0.6 else 0.3 if c == "afro" else 1.0
               for c in cuts]  # fmt: skip
    hair_cut = d.pick(cuts, weights)
    hair = HAIR_COLOURS[hair_colour]
    shade = d.between(0.9, 1.12)
    dark_eyes = 0.15 + 1.1 * depth
    eye_weights = (
        4 * dark_eyes,
        3 * dark_eyes + 1,
        1,
        1.2 - depth,
        1.5 * (1 - depth),
        1.2 * (1 - depth),
        3 * (1 - depth),
    )
    eye_colour = d.pick(tuple(EYE_COLOURS), [max(0.02, w) for w in eye_weights])
    lip_red = d.between(0.25, 0.5) + 0.28 * soft * d.between(0, 1)
    beards = (3.2, 2, 0.7, 0.8, 1.5, 1.1) if soft < 0.3 else (1.0, 0, 0, 0, 0, 0)
    years = {"young": 0.0, "middle-aged": 0.45, "older": 1.0}[age]
    return Person(
        seed=seed,
        presentation=presentation,
        age=age,
        skin=skin,
        skin_name=skin_name,
        face_width=d.around(0.748 - 0.02 * soft, 0.07),
        face_length=d.around(1.11 - 0.05 * soft, 0.11),
        jaw=d.around(0.775 - 0.065 * soft, 0.09),
        chin=d.around(0.36 - 0.09 * soft, 0.11),
        cheek=d.around(0.5, 0.5),
        hair_cut=hair_cut,
        hair_colour=hair_colour,
        hair=(min(255, hair[0] * shade), min(255, hair[1] * shade), min(255, hair[2] * shade)),
        hair_volume=d.around(0.5, 0.5),
        hair_part=d.pick((-1.0, 1.0)) * d.between(0.12, 0.45),
        hairline=d.around(-0.68 - 0.06 * years * (1 - soft), 0.07),
        brow_thickness=d.around(0.088 - 0.026 * soft, 0.034),
        brow_arch=d.around(0.055 + 0.03 * soft, 0.05),
        brow_slope=d.around(0.0, 0.07),
        brow_height=d.around(0.255 + 0.03 * soft, 0.05),
        eye_width=d.around(0.362 + 0.024 * soft, 0.045),
        eye_opening=d.around(0.44 + 0.05 * soft - 0.06 * years, 0.13),
        eye_slope=d.around(0.03 + 0.03 * soft, 0.09),
        eye_distance=d.around(0.358, 0.04),
        eye_colour=eye_colour,
        iris=EYE_COLOURS[eye_colour],
        lashes=d.between(0.15, 0.45) + 0.5 * soft,
        lid_fold=d.between(0.0, 1.0),
        nose_length=d.around(0.50, 0.075),
        nose_width=d.around(0.185 + 0.035 * depth - 0.015 * soft, 0.055),
        nose_tip=d.around(0.5, 0.5),
        nose_bridge=d.around(0.5, 0.5),
        mouth_width=d.around(0.295, 0.055),
        mouth_height=d.around(0.735, 0.035),
        lip_upper=d.around(0.062 + 0.012 * soft + 0.018 * depth, 0.028),
        lip_lower=d.around(0.092 + 0.012 * soft + 0.018 * depth, 0.032),
        lip_bow=d.around(0.5, 0.5),
        lips=mixed(skin, mixed((186, 62, 74), (120, 52, 56), depth), lip_red),
        ear_size=d.around(1.0, 0.18),
        freckles=d.between(0.4, 1.0) if depth < 0.4 and d.chance(0.32) else 0.0,
        mole=(d.pick((-1.0, 1.0)) * d.between(0.2, 0.48), d.between(0.3, 0.86)) if d.chance(0.28) else None,
        blush=d.between(0.1, 0.45) + 0.35 * soft,
        facial_hair=d.pick(FACIAL_HAIR, beards),
        wrinkles=years * d.between(0.6, 1.0),
    )


def _hair_colour(d: Dice, age: str, depth: float) -> str:
    """Grey comes with age; fair hair is rarer with deep skin, as most people are used to."""
    if age == "older" and d.chance(0.75):
        return d.pick(("grey", "white"))
    fair = max(0.04, 1 - 1.5 * depth)
    names = ("black", "dark brown", "brown", "chestnut", "auburn", "red", "blond", "ash blond", "grey")
    return d.pick(names, (1 + 2 * depth, 1.4, 1.2, 0.9, 0.8 * fair + 0.1, 1.1 * fair, 1.5 * fair, 0.9 * fair, 0.06))
