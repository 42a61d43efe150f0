"""How like the person is a finished picture?"""

from __future__ import annotations

import numpy as np
from PIL import Image

from hyperlora.errors import FaceEncoderMismatch, FaceError
from hyperlora.faces.closer import embed_closely
from hyperlora.faces.find import find_faces
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.types import FaceAnalyzer, FloatArray, unit_length


def similarity(
    analyzer: FaceAnalyzer, image: Image.Image, reference_embedding: FloatArray
) -> tuple[float | None, str | None]:
    """Cosine between the picture's clearest face and a reference embedding of the same analyzer.

    Returns
    -------
    (cosine, None), or (None, reason) where the picture shows no face that could be measured.

    Raises
    ------
    FaceEncoderMismatch
        The reference has another number of values than the analyzer's embeddings.
    """
    reference_E = np.asarray(reference_embedding).reshape(-1)
    if reference_E.size != analyzer.embedding_size:
        raise FaceEncoderMismatch(
            f"the reference embedding has {reference_E.size} numbers, those of {analyzer.name!r} have "
            f"{analyzer.embedding_size}; measure with the analyzer that made the reference"
        )
    try:
        picture = upright_rgb(image).image
        faces = find_faces(analyzer, np.asarray(picture, dtype=np.uint8))
        if not faces:
            return None, "no face found in the picture"
        embedding_E = embed_closely(analyzer, picture, faces[0]).embedding_E
    except FaceError as fault:
        return None, str(fault)
    return float(np.clip(embedding_E @ unit_length(reference_E), -1.0, 1.0)), None
