"""Faces that every machine with scikit-image has: an astronaut (NASA, public domain) and a cameraman (CC0)."""

from __future__ import annotations

from pathlib import Path

import pytest
from face_pack import build_pack
from PIL import Image
from skimage import data

from hyperlora.faces import PhotoConditions, load_analyzer, prepare_photo
from hyperlora.faces.insightface import InsightFaceAnalyzer
from hyperlora.faces.types import FaceAnalyzer


@pytest.fixture(scope="session")
def analyzer() -> FaceAnalyzer:
    return load_analyzer("opencv")


@pytest.fixture
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture
def cameraman() -> Image.Image:
    return Image.fromarray(data.camera())


@pytest.fixture(scope="session")
def astronaut_conditions(analyzer: FaceAnalyzer) -> PhotoConditions:
    return prepare_photo(analyzer, Image.fromarray(data.astronaut()))


@pytest.fixture(scope="session")
def pack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("insightface")
    return build_pack(tmp_path_factory.mktemp("packs") / "redsquare")


@pytest.fixture(scope="session")
def pack(pack_folder: Path) -> InsightFaceAnalyzer:
    return InsightFaceAnalyzer(pack_folder, providers=["CPUExecutionProvider"])
