"""How like the people of a finished picture are: from the faces that were already found in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL.Image import Image

from hyperlora.errors import FaceEncoderMismatch, FaceError
from hyperlora.faces.closer import embed_closely
from hyperlora.faces.types import Face, FaceAnalyzer, FloatArray, unit_length


def embedding_in(analyzer: FaceAnalyzer, image: Image, face: Face) -> FloatArray | None:
    """(E,) embedding of one face of a picture, None where it cannot be measured."""
    try:
        return embed_closely(analyzer, image, face).embedding_E
    except FaceError:
        return None


def likeness(
    analyzer: FaceAnalyzer, image: Image, faces: Sequence[Face], references: Sequence[FloatArray]
) -> tuple[float | None, str | None]:
    """ID similarity: cosine between a picture's faces and reference embeddings (E,) of the same analyzer.

    Of one person: the picture's clearest face. Of several: each person is compared with the face that is most like
    them, no face serving two, and the least of these cosines counts, as a picture is as good as its worst likeness.

    Returns (cosine, None), or (None, reason) where there are fewer measurable faces than people.
    Raises FaceEncoderMismatch for references of another length than the analyzer's embeddings.
    """
    for reference in references:
        if reference.size != analyzer.embedding_size:
            raise FaceEncoderMismatch(
                f"the reference embedding has {reference.size} numbers, those of {analyzer.name!r} have "
                f"{analyzer.embedding_size}; measure with the analyzer that made the reference"
            )
    if not faces:
        return None, "no face found in the picture"
    looked_at = faces[:1] if len(references) == 1 else faces
    found = [e for e in (embedding_in(analyzer, image, face) for face in looked_at) if e is not None]
    if not found:
        return None, "the face in the picture could not be measured"
    if len(found) < len(references):
        return None, f"{len(found)} face{'s' if len(found) > 1 else ''} found for {len(references)} people"
    cosines_RF = np.clip(np.stack([unit_length(r) for r in references]) @ np.stack(found).T, -1.0, 1.0)
    return min(_matched(cosines_RF)), None


def _matched(cosines_RF: FloatArray) -> list[float]:
    """The best cosine of each row, greedily, the surest pair first; no column serves twice."""
    left, out = cosines_RF.astype(np.float64).copy(), []
    for _ in range(left.shape[0]):
        row, column = np.unravel_index(int(np.argmax(left)), left.shape)
        out.append(float(left[row, column]))
        left[row, :], left[:, column] = -np.inf, -np.inf
    return out
