"""Look for faces with patience: several detector sizes, then once more with room around the photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperlora.faces.types import Face, FaceAnalyzer, RGBArray, check_rgb

# From the size that finds small faces to the one at which a face that fills the photo fits the detector's reach.
DETECTOR_SIZES = (640, 512, 384, 256)
# The padding takes the grey that CLIP sees as "nothing"; detectors need to see where a face ends.
PADDING_RGB = (127, 127, 127)


# A detector that scores this high has an upright face before it; below, the photo may be lying on its side.
UPRIGHT_SCORE = 0.88
# By how much a turned photo must score better; it must be convincing by itself, too, for cats lie about in all
# directions. Upside-down faces reach 0.83 (with eyes and mouth confused!), the same faces upright 0.94.
TURN_GAIN = 0.06


@dataclass(frozen=True)
class Search:
    """What a search found: faces (best first, in the photo's own coordinates), at which size, with padding or not."""

    faces: tuple[Face, ...]
    size: int | None
    padded: bool


def search_faces(analyzer: FaceAnalyzer, rgb_HW3: RGBArray) -> Search:
    """Every face at the first detector size that shows one; then the same sizes on the photo padded by half its size.

    Raises
    ------
    BadPhoto
        Not an 8 bit RGB picture.
    """
    check_rgb(rgb_HW3)
    for size in DETECTOR_SIZES:
        faces = analyzer.detect(rgb_HW3, size)
        if faces:
            return Search(_best_first(faces), size, padded=False)
    height, width = rgb_HW3.shape[:2]
    # Half the photo on every side, so that even a face cut by all four edges gets room around it.
    top, left = height // 2, width // 2
    padded: RGBArray = np.full((height + 2 * top, width + 2 * left, 3), PADDING_RGB, dtype=np.uint8)
    padded[top : top + height, left : left + width] = rgb_HW3
    for size in DETECTOR_SIZES:
        faces = [face.moved(-left, -top) for face in analyzer.detect(padded, size)]
        if faces:
            return Search(_best_first(faces), size, padded=True)
    return Search((), None, padded=False)


def find_faces(analyzer: FaceAnalyzer, rgb_HW3: RGBArray) -> list[Face]:
    """Every face of a photo, best score first; an empty list where there is none.

    Raises
    ------
    BadPhoto
        Not an 8 bit RGB picture.
    """
    return list(search_faces(analyzer, rgb_HW3).faces)


def _best_first(faces: list[Face]) -> tuple[Face, ...]:
    return tuple(sorted(faces, key=lambda face: -face.score))


def quarter_turns(analyzer: FaceAnalyzer, rgb_HW3: RGBArray, search: Search) -> int:
    """By how many quarter turns counter-clockwise (0 to 3) the photo shows a clearly better face.

    Photos whose EXIF orientation was lost on the way lie on their side, and detectors then see half a face or a wrong
    one. Only an unconvincing search is doubted, so upright photos cost nothing.

    Raises
    ------
    BadPhoto
        Not an 8 bit RGB picture.
    """
    score = search.faces[0].score if search.faces else 0.0
    if score >= UPRIGHT_SCORE:
        return 0
    sizes = dict.fromkeys((DETECTOR_SIZES[0], search.size or DETECTOR_SIZES[-1]))
    best, turns = max(score + TURN_GAIN, UPRIGHT_SCORE), 0
    for turn in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(rgb_HW3, turn))
        seen = max((face.score for size in sizes for face in analyzer.detect(turned, size)), default=0.0)
        if seen > best:
            best, turns = seen, turn
    return turns
