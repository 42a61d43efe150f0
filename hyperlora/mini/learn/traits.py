"""A person's lasting features as numbers: what an embedding is asked to tell.

Shapes: F features.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from hyperlora.mini.people import CUTS_LONG, CUTS_SHORT, EYE_COLOURS, FACIAL_HAIR, HAIR_COLOURS, SKINS, Person, person

_NUMBERS = (
    "face_width", "face_length", "jaw", "chin", "cheek", "hair_volume", "hair_part", "hairline", "brow_thickness",
    "brow_arch", "brow_slope", "brow_height", "eye_width", "eye_opening", "eye_slope", "eye_distance", "lashes",
    "lid_fold", "nose_length", "nose_width", "nose_tip", "nose_bridge", "mouth_width", "mouth_height", "lip_upper",
    "lip_lower", "lip_bow", "ear_size", "freckles", "blush", "wrinkles",
)  # fmt: skip
_COLOURS = ("skin", "hair", "iris", "lips")
_WORDS: dict[str, tuple[str, ...]] = {
    "presentation": ("woman", "man", "person"),
    "age": ("young", "middle-aged", "older"),
    "skin_name": tuple(SKINS),
    "hair_cut": tuple(dict.fromkeys(CUTS_LONG + CUTS_SHORT)),
    "hair_colour": tuple(HAIR_COLOURS),
    "eye_colour": tuple(EYE_COLOURS),
    "facial_hair": FACIAL_HAIR,
}
# A word is 0 or this: about as far apart as numbers that are two standard deviations apart.
_WORD = 2.0
_MEASURED = 2_000  # people whose mean and spread scale the numbers


def traits(seeds: Iterable[int]) -> npt.NDArray[np.float32]:
    """(P, F) features of the people, numbers and colours scaled to a mean of 0 and a spread of 1."""
    mean_F, spread_F = _scale()
    raw_PF = np.stack([_raw(person(int(seed))) for seed in seeds])
    scaled: npt.NDArray[np.float32] = ((raw_PF - mean_F) / spread_F).astype(np.float32)
    return scaled


def count() -> int:
    """F."""
    return len(_scale()[0])


@cache
def _scale() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    raw_PF = np.stack([_raw(person(seed)) for seed in range(_MEASURED)])
    numbers = len(_NUMBERS) + 3 * len(_COLOURS) + 2
    mean_F, spread_F = raw_PF.mean(axis=0), raw_PF.std(axis=0)
    spread_F[numbers:] = 1.0
    return mean_F, spread_F


def _raw(someone: Person) -> npt.NDArray[np.float64]:
    numbers = [float(getattr(someone, name)) for name in _NUMBERS]
    colours = [float(value) for name in _COLOURS for value in getattr(someone, name)]
    mole = list(someone.mole or (0.0, 0.0))
    words = [_WORD * (getattr(someone, name) == word) for name, known in _WORDS.items() for word in known]
    return np.array([*numbers, *colours, *mole, *words])
