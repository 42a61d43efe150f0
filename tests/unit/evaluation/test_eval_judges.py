"""A judge must have no part in what it judges."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hyperlora.errors import InvalidRequest, WeightsMissing
from hyperlora.evaluation.judges import FaceJudge, load_judge, require_independent
from hyperlora.faces import load_analyzer

PHOTOS = Path(__file__).resolve().parents[3] / "examples" / "photos"


class Analyzer:
    """Embeds a picture by a fixed random projection, which a seed decides."""

    def __init__(self, name: str, seed: int, size: int = 64) -> None:
        self.name, self.embedding_size = name, size
        self._matrix = np.random.Generator(np.random.PCG64(seed)).standard_normal((size, 224 * 3))

    def detect(self, rgb_HW3: Any, size: int = 640) -> list[Any]:
        return []

    def embed(self, rgb_HW3: Any, face: Any) -> Any:
        seen = self._matrix @ (rgb_HW3[112].astype(np.float64).ravel() - 127)
        return seen / np.linalg.norm(seen)


def test_the_same_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="judge its own work"):
        require_independent(Analyzer("insightface-a", 1), Analyzer("insightface-a", 2))


def test_the_same_network_under_another_name_is_refused() -> None:
    # Given a pack's folder that was copied and renamed
    with pytest.raises(InvalidRequest, match="use another one: --judge sface"):
        require_independent(Analyzer("insightface-b", 1), Analyzer("insightface-a", 1))


@pytest.mark.parametrize(("seed", "size", "refused"), [(1, 64, True), (2, 64, False), (1, 32, False)])
def test_what_tells_networks_apart_is_what_they_answer(seed: int, size: int, refused: bool) -> None:
    # Given two analyzers of different names
    judge, conditioning = Analyzer("insightface-b", seed, size=size), Analyzer("insightface-a", 1, size=64)

    # Then the same network is refused, and another is not
    with pytest.raises(InvalidRequest) if refused else nullcontext():
        require_independent(judge, conditioning)


def test_sface_may_judge_all_but_itself() -> None:
    judge = load_judge("sface", conditioning=Analyzer("insightface-antelopev2", 1, 512))
    assert judge.name == "opencv-yunet-sface"
    with pytest.raises(InvalidRequest, match="opencv-yunet-sface"):
        load_judge("sface", conditioning=load_analyzer("opencv"))


@pytest.mark.parametrize("spec", ["nobody", "insightface", "insightface:/nowhere"])
def test_a_judge_nobody_knows_is_refused(spec: str) -> None:
    with pytest.raises(WeightsMissing):
        load_judge(spec, conditioning=Analyzer("a", 1))


def test_a_folder_without_a_mini_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="judge"):
        load_judge(str(tmp_path), conditioning=Analyzer("a", 1))


def test_faces_are_embedded_and_their_absence_is_told() -> None:
    # Given two photos of one person and a picture of nobody
    judge = FaceJudge(load_analyzer("opencv"))
    pictures = [Image.open(PHOTOS / f"ada-{number}.jpg").resize((256, 256)) for number in (1, 2)]
    pictures.append(Image.new("RGB", (256, 256), "grey"))

    # When they are judged
    one, other, nobody = judge.embed(pictures)

    # Then the person is like herself, and nobody has no embedding
    assert one is not None and other is not None and nobody is None
    assert float(one @ other) > 0.5 and float(np.linalg.norm(one)) == pytest.approx(1.0, abs=1e-5)
