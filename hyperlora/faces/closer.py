"""The closer look at a face that was found: detected again in a crop around it, then recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hyperlora.errors import BadPhoto, FaceError, NoFaceFound
from hyperlora.faces.batch import detect_many, embed_many
from hyperlora.faces.crops import FACE_STREAM_SIDES, crop_padded
from hyperlora.faces.find import DETECTOR_SIZES
from hyperlora.faces.findings import Finding
from hyperlora.faces.geometry import landmark_box
from hyperlora.faces.types import Face, FaceAnalyzer, FloatArray, RGBArray

# The same face seen twice shares more than this part of the boxes' common area.
SAME_FACE_OVERLAP = 0.3
# A detector that scores lower than this in both looks may be looking at something else.
SURE_SCORE = 0.75
_FIRST_DETECTION = Finding(
    "first_detection_used",
    "a second, closer look did not show the face again, so the likeness rests on the first look alone",
)
_UNSURE = (
    "the detector is not sure that this is a face (score {:.2f}); it may be covered, drawn, turned away or badly lit"
)


@dataclass(frozen=True, eq=False)
class CloserLook:
    """A face's (E,) embedding of unit length, and what was noticed on the way."""

    embedding_E: FloatArray
    findings: tuple[Finding, ...]


def embed_closely(analyzer: FaceAnalyzer, image: Image.Image, face: Face) -> CloserLook:
    """The embedding from a crop of twice the landmark box, in which the face is detected again at 640 pixels.

    Raises
    ------
    NoFaceFound
        The first look was unsure and the second saw nothing: most likely no face at all.
    BadPhoto
        The face's points cannot be used.
    """
    look = embed_closely_many(analyzer, [(image, face)])[0]
    if isinstance(look, FaceError):
        raise look
    return look


def embed_closely_many(
    analyzer: FaceAnalyzer, faces: Sequence[tuple[Image.Image, Face]]
) -> list[CloserLook | FaceError]:
    """What `embed_closely` makes of each face of a photo, or the error that it would raise."""
    out: dict[int, CloserLook | FaceError] = {}
    crops: dict[int, tuple[RGBArray, Face]] = {}
    # 1. A crop around each, and the face in its coordinates.
    for at, (image, face) in enumerate(faces):
        try:
            crop, corner = crop_padded(image, landmark_box(face, FACE_STREAM_SIDES))
            crops[at] = (np.asarray(crop, dtype=np.uint8), face.moved(-corner[0], -corner[1]))
        except FaceError as fault:
            out[at] = fault
    # 2. The second look. A neighbour may stand in the crop too: it must be the same face, not just any.
    seen = detect_many(analyzer, [rgb_HW3 for rgb_HW3, _ in crops.values()], DETECTOR_SIZES[0])
    taken: dict[int, tuple[Face, tuple[Finding, ...]]] = {}
    for (at, (_, expected)), again in zip(crops.items(), seen, strict=True):
        try:
            taken[at] = _second_look(faces[at][1], expected, again)
        except NoFaceFound as fault:
            out[at] = fault
    # 3. Recognition.
    vectors = embed_many(analyzer, [(crops[at][0], face) for at, (face, _) in taken.items()])
    for (at, (_, found)), vector in zip(taken.items(), vectors, strict=True):
        out[at] = vector if isinstance(vector, BadPhoto) else CloserLook(vector, found)
    return [out[at] for at in range(len(faces))]


def _second_look(first: Face, expected: Face, found: Sequence[Face]) -> tuple[Face, tuple[Finding, ...]]:
    """The face to be recognised, in the crop's coordinates, and what was noticed."""
    again = max(found, key=expected.overlap, default=None)
    if again is None or expected.overlap(again) < SAME_FACE_OVERLAP:
        if first.score < SURE_SCORE:
            raise NoFaceFound(
                f"no face found: something at {tuple(round(float(v)) for v in first.box_xyxy)} looked like one "
                f"(score {first.score:.2f}), but a closer look did not confirm it; use a photo that shows the face "
                "from the front, uncovered and in focus"
            )
        return expected, (_FIRST_DETECTION,)
    score = max(first.score, again.score)
    return again, (Finding("unsure_face", _UNSURE.format(score)),) if score < SURE_SCORE else ()
