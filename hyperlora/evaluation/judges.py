"""Who judges the pictures: a recogniser that has no part in making them.

Shapes: E numbers of an embedding, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from hyperlora.errors import FaceError, InvalidRequest, WeightsMissing
from hyperlora.faces.closer import embed_closely
from hyperlora.faces.find import find_faces
from hyperlora.faces.load import load_analyzer
from hyperlora.faces.types import Face, FaceAnalyzer, FloatArray, RGBArray

SAME_NETWORK_COSINE = 0.999


class Judge(Protocol):
    """Knows people apart."""

    @property
    def name(self) -> str:
        """Stable name; embeddings of different names are never compared."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> list[FloatArray | None]:
        """For each picture an embedding (E,) of unit length, or None where it shows no face that can be measured."""
        ...


@runtime_checkable
class Labeller(Protocol):
    """Says what a portrait shows; the mini world's judge is one."""

    def labels(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """For each picture the word of every attribute that the labeller knows."""
        ...


class FaceJudge:
    """A face analyzer as a judge: the clearest face of the picture, looked at closely."""

    def __init__(self, analyzer: FaceAnalyzer) -> None:
        self.analyzer = analyzer
        self.name = analyzer.name

    def embed(self, images: Sequence[Image.Image]) -> list[FloatArray | None]:
        """One embedding per picture, None without a usable face."""
        return [self._embed(image) for image in images]

    def _embed(self, image: Image.Image) -> FloatArray | None:
        rgb = image.convert("RGB")
        faces = find_faces(self.analyzer, np.asarray(rgb, dtype=np.uint8))
        if not faces:
            return None
        try:
            return embed_closely(self.analyzer, rgb, faces[0]).embedding_E
        except FaceError:
            return None


def load_judge(spec: str, *, conditioning: FaceAnalyzer) -> Judge:
    """Load a judge and see that it is independent.

    Parameters
    ----------
    spec
        "sface" (OpenCV's YuNet and SFace), "opencv:<folder>", "insightface:<pack folder>", or the folder of a mini
        judge.
    conditioning
        The face analyzer that the evaluated model looks through; the judge must be another one.

    Raises
    ------
    WeightsMissing
        Nobody knows the name, or weights are not there.
    InvalidRequest
        The judge is the recogniser that conditions the model.
    """
    kind, colon, _ = spec.partition(":")
    if spec == "sface" or kind == "opencv" or (kind == "insightface" and colon):
        judge = FaceJudge(load_analyzer("opencv" if spec == "sface" else spec))
        require_independent(judge.analyzer, conditioning)
        return judge
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise WeightsMissing(
            f"no judge is called {spec!r}; use 'sface', 'insightface:<pack folder>' or the folder of a mini judge"
        )
    from hyperlora.mini.learn.judge import MiniJudge

    mini: Judge = MiniJudge.load(folder)
    return mini


def require_independent(judge: FaceAnalyzer, conditioning: FaceAnalyzer) -> None:
    """Refuse a judge that is the recogniser of the evaluated model, also under another name.

    Both are asked about one and the same picture: the same network gives the same numbers, whatever its folder is
    called. Raises `InvalidRequest`.
    """
    same = judge.name == conditioning.name
    if not same and judge.embedding_size == conditioning.embedding_size:
        rgb_HW3, face = _test_picture()
        same = float(judge.embed(rgb_HW3, face) @ conditioning.embed(rgb_HW3, face)) > SAME_NETWORK_COSINE
    if same:
        raise InvalidRequest(
            f"the judge {judge.name!r} is the recogniser {conditioning.name!r} that conditions the model, which would "
            "judge its own work; use another one: --judge sface, or --judge insightface:<another pack's folder>"
        )


def _test_picture() -> tuple[RGBArray, Face]:
    """Soft noise, and where a face would have its five points in it."""
    dice = np.random.Generator(np.random.PCG64(7))
    small_HW3 = dice.integers(0, 256, size=(14, 14, 3), dtype=np.uint8)
    rgb_HW3 = np.asarray(Image.fromarray(small_HW3).resize((224, 224), Image.Resampling.BICUBIC), dtype=np.uint8)
    points_52 = np.array([[76, 100], [148, 100], [112, 140], [84, 180], [140, 180]], dtype=np.float32)
    return rgb_HW3, Face(np.array([40, 40, 184, 210], dtype=np.float32), 1.0, points_52)
