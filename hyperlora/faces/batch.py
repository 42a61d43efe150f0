"""Many photos through an analyzer: together where it can, else one after the other, with the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from hyperlora.errors import BadPhoto
from hyperlora.faces.types import Face, FaceAnalyzer, FloatArray, RGBArray


@runtime_checkable
class BatchAnalyzer(Protocol):
    """An analyzer that looks at many photos in one call; a photo's numbers do not depend on its neighbours."""

    def detect_many(self, photos: Sequence[RGBArray], size: int = 640) -> list[list[Face]]:
        """The faces of each photo, best score first."""
        ...

    def embed_many(self, faces: Sequence[tuple[RGBArray, Face]]) -> list[FloatArray | BadPhoto]:
        """(E,) of each face, or why it has none."""
        ...


def detect_many(analyzer: FaceAnalyzer, photos: Sequence[RGBArray], size: int) -> list[list[Face]]:
    """The faces of each photo.

    Raises
    ------
    BadPhoto
        One of them is no 8 bit RGB picture.
    """
    if isinstance(analyzer, BatchAnalyzer) and photos:
        return analyzer.detect_many(photos, size)
    return [analyzer.detect(rgb_HW3, size) for rgb_HW3 in photos]


def embed_many(analyzer: FaceAnalyzer, faces: Sequence[tuple[RGBArray, Face]]) -> list[FloatArray | BadPhoto]:
    """(E,) embedding of each face, of unit length, or the `BadPhoto` that `embed` raised for it."""
    if isinstance(analyzer, BatchAnalyzer) and faces:
        return analyzer.embed_many(faces)
    return [_embedded(analyzer, *seen) for seen in faces]


def _embedded(analyzer: FaceAnalyzer, rgb_HW3: RGBArray, face: Face) -> FloatArray | BadPhoto:
    try:
        return analyzer.embed(rgb_HW3, face)
    except BadPhoto as fault:
        return fault
