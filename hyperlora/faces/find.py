"""Look for faces with patience: several detector sizes, then once more with room around the photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperlora.faces.batch import detect_many
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
    return search_many(analyzer, [rgb_HW3])[0]


def search_many(analyzer: FaceAnalyzer, photos: Sequence[RGBArray]) -> list[Search]:
    """What `search_faces` finds in each of several photos, which go through the detector together; raises the same."""
    for rgb_HW3 in photos:
        check_rgb(rgb_HW3)
    plain = _at_some_size(analyzer, dict(enumerate(photos)))
    padded = {at: _padded(rgb_HW3) for at, rgb_HW3 in enumerate(photos) if at not in plain}
    with_room = _at_some_size(analyzer, padded)
    out = []
    for at, rgb_HW3 in enumerate(photos):
        size, faces = plain.get(at) or with_room.get(at) or (None, [])
        if at in with_room:
            top, left = _margin(rgb_HW3)
            faces = [face.moved(-left, -top) for face in faces]
        out.append(Search(_best_first(faces), size, padded=at in with_room))
    return out


def _at_some_size(analyzer: FaceAnalyzer, photos: dict[int, RGBArray]) -> dict[int, tuple[int, list[Face]]]:
    """For each photo that shows a face the first detector size that does, and the faces."""
    found: dict[int, tuple[int, list[Face]]] = {}
    for size in DETECTOR_SIZES:
        left = [at for at in photos if at not in found]
        if not left:
            break
        for at, faces in zip(left, detect_many(analyzer, [photos[at] for at in left], size), strict=True):
            if faces:
                found[at] = (size, faces)
    return found


def _margin(rgb_HW3: RGBArray) -> tuple[int, int]:
    """Half the photo on every side, so that even a face cut by all four edges gets room around it."""
    return rgb_HW3.shape[0] // 2, rgb_HW3.shape[1] // 2


def _padded(rgb_HW3: RGBArray) -> RGBArray:
    height, width = rgb_HW3.shape[:2]
    top, left = _margin(rgb_HW3)
    padded: RGBArray = np.full((height + 2 * top, width + 2 * left, 3), PADDING_RGB, dtype=np.uint8)
    padded[top : top + height, left : left + width] = rgb_HW3
    return padded


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
    return quarter_turns_many(analyzer, [rgb_HW3], [search])[0]


def quarter_turns_many(analyzer: FaceAnalyzer, photos: Sequence[RGBArray], searches: Sequence[Search]) -> list[int]:
    """What `quarter_turns` says of each of several photos with its search; raises the same."""
    scores = [search.faces[0].score if search.faces else 0.0 for search in searches]
    best = {at: max(score + TURN_GAIN, UPRIGHT_SCORE) for at, score in enumerate(scores) if score < UPRIGHT_SCORE}
    turns = [0] * len(photos)
    for turn in (1, 2, 3):
        turned = {at: np.ascontiguousarray(np.rot90(photos[at], turn)) for at in best}
        for at, seen in _best_scores(analyzer, turned, searches).items():
            if seen > best[at]:
                best[at], turns[at] = seen, turn
    return turns


def _best_scores(analyzer: FaceAnalyzer, turned: dict[int, RGBArray], searches: Sequence[Search]) -> dict[int, float]:
    """The best score in each turned photo, at the largest detector size and at that of the photo's search."""
    sizes = {at: {DETECTOR_SIZES[0], searches[at].size or DETECTOR_SIZES[-1]} for at in turned}
    seen = dict.fromkeys(turned, 0.0)
    for size in DETECTOR_SIZES:
        looked_at = [at for at in turned if size in sizes[at]]
        for at, faces in zip(looked_at, detect_many(analyzer, [turned[at] for at in looked_at], size), strict=True):
            seen[at] = max([seen[at], *(face.score for face in faces)])
    return seen
