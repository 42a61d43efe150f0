"""What a face is, and what a face analyzer must be able to do.

Shapes: H height, W width of a photo in pixels; E numbers of an embedding. Coordinates are (x, y) in pixels of the
photo they were found in, x to the right, y down, the centre of the first pixel at (0, 0). Every picture at this
interface is RGB, 8 bits, whatever the library behind it prefers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hyperlora.errors import BadPhoto, FaceEncoderMismatch

FloatArray = npt.NDArray[np.float32]
RGBArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a photo.

    Parameters
    ----------
    box_xyxy
        (4,) left, top, right, bottom.
    score
        The detector's confidence, 0 to 1.
    points_5_2
        (5, 2) eye, eye, nose tip, mouth corner, mouth corner; the one on the picture's left first.
    points_106_2
        (106, 2) landmarks in InsightFace's numbering, or None where the analyzer has no landmark model.
    """

    box_xyxy: FloatArray
    score: float
    points_5_2: FloatArray
    points_106_2: FloatArray | None = None

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return float(self.box_xyxy[2] - self.box_xyxy[0])

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return float(self.box_xyxy[3] - self.box_xyxy[1])

    def moved(self, dx: float, dy: float) -> Face:
        """The same face in a picture whose origin lies elsewhere: every coordinate plus (dx, dy) pixels."""
        shift_2 = np.array([dx, dy], dtype=np.float32)
        return replace(
            self,
            box_xyxy=(self.box_xyxy + np.tile(shift_2, 2)).astype(np.float32),
            points_5_2=(self.points_5_2 + shift_2).astype(np.float32),
            points_106_2=None if self.points_106_2 is None else (self.points_106_2 + shift_2).astype(np.float32),
        )

    def overlap(self, other: Face) -> float:
        """Area shared by both boxes over the area covered by either (0 apart, 1 equal)."""
        a, b = self.box_xyxy, other.box_xyxy
        shared = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0]))) * max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
        covered = self.width * self.height + other.width * other.height - shared
        return shared / covered if covered > 0 else 0.0


@runtime_checkable
class FaceAnalyzer(Protocol):
    """Finds faces and turns a face into numbers that stay alike for one person. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """Stable name of detector and recogniser; embeddings of different names must never be compared."""
        ...

    @property
    def embedding_size(self) -> int:
        """E, the numbers of an embedding."""
        ...

    def detect(self, rgb_HW3: RGBArray, size: int = 640) -> list[Face]:
        """Every face seen when the photo is fitted into a square of `size` pixels, best score first."""
        ...

    def embed(self, rgb_HW3: RGBArray, face: Face) -> FloatArray:
        """(E,) embedding of unit length of a face of this very photo."""
        ...


# Cosine above which two embeddings are taken for one person, by the beginning of the analyzer's name.
# SFace: the threshold its authors publish with the weights in the OpenCV model zoo (99.4 % right on LFW).
# InsightFace packs name no threshold. 0.30 is our choice, on the cautious side of what users of its ArcFace models set;
# it decides on a warning only.
_SAME_PERSON = {"opencv-yunet-sface": 0.363, "insightface-": 0.30}
_SAME_PERSON_OTHERWISE = 0.30


def same_person_cosine(analyzer_name: str) -> float:
    """The cosine similarity from which this analyzer's embeddings speak for one and the same person."""
    for beginning, cosine in _SAME_PERSON.items():
        if analyzer_name.startswith(beginning):
            return cosine
    return _SAME_PERSON_OTHERWISE


def require_encoder(checkpoint_encoder: str, analyzer: FaceAnalyzer | str, width: int | None = None) -> None:
    """Refuse embeddings that a HyperLoRA checkpoint was not trained with.

    Parameters
    ----------
    checkpoint_encoder
        Name of the face encoder in the checkpoint's configuration.
    analyzer
        The analyzer about to make embeddings, or the name that came with stored ones.
    width
        Numbers per embedding that the checkpoint reads; compared too when given with an analyzer.

    Raises
    ------
    FaceEncoderMismatch
        Names or widths differ.
    """
    name = analyzer if isinstance(analyzer, str) else analyzer.name
    if name != checkpoint_encoder:
        raise FaceEncoderMismatch(
            f"the checkpoint was trained with embeddings of the face encoder {checkpoint_encoder!r}, "
            f"these come from {name!r}; choose the analyzer {checkpoint_encoder!r} or another checkpoint"
        )
    if width is not None and not isinstance(analyzer, str) and analyzer.embedding_size != width:
        raise FaceEncoderMismatch(
            f"the checkpoint reads {width} numbers per face embedding, {name!r} makes {analyzer.embedding_size}; "
            "the pack of that name holds another recogniser than the checkpoint was trained with"
        )


def check_rgb(rgb_HW3: RGBArray) -> None:
    """Refuse anything that is not an 8 bit RGB picture with at least one pixel.

    Raises
    ------
    BadPhoto
        Wrong shape or number type.
    """
    if rgb_HW3.ndim != 3 or rgb_HW3.shape[2] != 3 or rgb_HW3.dtype != np.uint8 or min(rgb_HW3.shape) < 1:
        raise BadPhoto(
            f"a photo must be an RGB array of shape (height, width, 3) and type uint8, "
            f"found shape {rgb_HW3.shape} and type {rgb_HW3.dtype}"
        )


def unit_length(embedding_E: npt.NDArray[np.floating]) -> FloatArray:
    """The embedding divided by its length.

    Raises
    ------
    BadPhoto
        The length is zero or not finite, so the recogniser saw nothing.
    """
    vector_E = np.asarray(embedding_E, dtype=np.float64).reshape(-1)
    length = float(np.linalg.norm(vector_E))
    if not np.isfinite(length) or length <= 0:
        raise BadPhoto(f"the face recogniser gave an embedding of length {length}; the photo cannot be used")
    return (vector_E / length).astype(np.float32)
