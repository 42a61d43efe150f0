"""A person's photos as training pictures: square crops around the face."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from PIL import Image

from hyperlora.errors import FaceError, InvalidRequest, NoUsablePhoto
from hyperlora.faces.choice import FaceChoice
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import prepare_photo
from hyperlora.faces.types import Face, FaceAnalyzer

logger = logging.getLogger(__name__)

FACE_SIDES = 2.0
"""Side of a crop in units of the face's longer side, as in the detail pass."""


def crops_of(
    photos: Sequence[Image.Image],
    side: int,
    analyzer: FaceAnalyzer | None,
    faces: Sequence[FaceChoice] | None = None,
) -> list[Image.Image]:
    """A square RGB crop of `side` pixels from every usable photo, around its face or, without analyzer, its middle.

    `faces` says for each photo which face is meant, None the clearest of each. A photo that cannot be used is left out
    and logged. Raises `InvalidRequest` without photos or for choices that do not match them, and `NoUsablePhoto` where
    no photo can be used, with each one's reason.
    """
    if not photos:
        raise InvalidRequest("refining needs at least one photo of the person, found none")
    choices: Sequence[FaceChoice] = faces if faces is not None else ["clearest"] * len(photos)
    if len(choices) != len(photos):
        raise InvalidRequest(f"one choice of a face for each photo: found {len(choices)} for {len(photos)} photos")
    crops: list[Image.Image] = []
    refused: list[str] = []
    for number, (photo, choice) in enumerate(zip(photos, choices, strict=True), start=1):
        try:
            if analyzer is None:
                upright = upright_rgb(photo).image
                crops.append(_square(upright, upright.width / 2, upright.height / 2, min(upright.size), side))
            else:
                prepared = prepare_photo(analyzer, photo, face=choice)
                crops.append(face_crop(prepared.photo, prepared.face, side))
        except FaceError as fault:
            refused.append(f"photo {number}: {fault}")
            logger.warning("not refined on photo %d: %s", number, fault)
    if not crops:
        raise NoUsablePhoto(f"none of the {len(photos)} photos can be used: {'; '.join(refused)}")
    return crops


def face_crop(photo: Image.Image, face: Face, side: int) -> Image.Image:
    """A square of twice the face's longer side around its middle, moved and shrunk to lie inside the photo."""
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    return _square(photo, (left + right) / 2, (top + bottom) / 2, FACE_SIDES * max(face.width, face.height), side)


def _square(photo: Image.Image, x: float, y: float, wanted: float, side: int) -> Image.Image:
    extent = min(wanted, *photo.size)
    left = min(max(x - extent / 2, 0.0), photo.width - extent)
    top = min(max(y - extent / 2, 0.0), photo.height - extent)
    box = (left, top, left + extent, top + extent)
    return photo.resize((side, side), Image.Resampling.LANCZOS, box=box)
