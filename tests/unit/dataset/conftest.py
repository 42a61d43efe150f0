"""Photos with every fault, and the set that is prepared from them, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from photo_box import RULES, Made, fill

from hyperlora.dataset import EncoderNames, Preparation, prepare
from hyperlora.faces import FaceAnalyzer, load_analyzer
from hyperlora.mini import build_untrained_pack


@pytest.fixture(scope="session")
def analyzer() -> FaceAnalyzer:
    return load_analyzer("opencv")


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained_pack(tmp_path_factory.mktemp("packs") / "mini-untrained")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("box") / "photos")


@pytest.fixture(scope="session")
def made(photos: Path, pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    encoders = EncoderNames("opencv", str(pack / "clip_vision"), str(pack / "sdxl"), "cpu")
    wanted = Preparation((photos,), tmp_path_factory.mktemp("made") / "set", RULES, encoders, shard_size=6)
    progress: list[tuple[int, int]] = []
    prepared = prepare(wanted, on_photo=lambda done, total: progress.append((done, total)))
    return Made(wanted, prepared, progress)
