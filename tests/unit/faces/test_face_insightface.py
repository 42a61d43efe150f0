"""The real `FaceAnalysis` on a tiny pack whose answers can be worked out by hand (see face_pack)."""

from __future__ import annotations

import importlib.util
import shutil
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from face_pack import LANDMARKS, MIX, POINTS, REACH, SCORE_GAIN, WIDTH
from PIL import Image

from hyperlora.errors import FaceEncoderMismatch, NoFaceFound, WeightsMissing
from hyperlora.faces import find_faces, load_analyzer, prepare_photo, require_encoder, same_person_cosine
from hyperlora.faces.align import aligned_crop
from hyperlora.faces.insightface import InsightFaceAnalyzer
from hyperlora.faces.types import FaceAnalyzer

RED, BLUE = (255, 0, 0), (0, 0, 255)


def photo_with(colour: tuple[int, int, int], corner: tuple[int, int] = (256, 192)) -> np.ndarray:
    """640 px square of fine texture with one 32 px cell in a plain colour."""
    x, y = corner
    picture = np.random.default_rng(1).integers(60, 160, (640, 640, 1), dtype=np.uint8).repeat(3, axis=2)
    picture[y : y + 32, x : x + 32] = colour
    return picture


def test_the_whole_way_from_photo_to_landmarks(pack: InsightFaceAnalyzer) -> None:
    # Given a red cell at (256, 192)
    (face,) = pack.detect(photo_with(RED), 640)
    # Then the box reaches from that corner as far as the detector's constants say
    np.testing.assert_allclose(face.box_xyxy, [256 - 48, 192 - 64, 256 + 80, 192 + 96], atol=1e-3)
    np.testing.assert_allclose(face.points_5_2, POINTS + np.array([256, 192]), atol=1e-3)
    # And the score is the gained redness, (127.5 + 127.5 + 127.5) / 128 * 0.5, clipped at one
    assert SCORE_GAIN * 3 * 127.5 / 128 > 1 and face.score == pytest.approx(1.0)
    # And the landmarks lie about the box's centre, one unit being 0.75 times its longer side
    centre = np.array([256 + 16, 192 + 16])
    assert face.points_106_2 is not None
    np.testing.assert_allclose(face.points_106_2, centre + LANDMARKS * 0.75 * (REACH[1] + REACH[3]), atol=1e-2)


@pytest.mark.parametrize("size", [640, 512, 384, 256])
def test_every_detector_size_gives_the_photos_coordinates(pack: InsightFaceAnalyzer, size: int) -> None:
    # Given a photo of twice this size with a red cell at (128, 64) of the detector's square
    scale = 2
    picture = np.full((size * scale, size * scale, 3), 90, dtype=np.uint8)
    picture[128:192, 256:320] = RED
    # When it is detected at this size
    (face,) = pack.detect(picture, size)
    # Then all distances are those of the square times two
    np.testing.assert_allclose(face.points_5_2, (POINTS + np.array([128, 64])) * scale, atol=1e-2)


def test_red_is_red(pack: InsightFaceAnalyzer) -> None:
    # Given the same cell in blue, which is what red becomes when channels are swapped
    assert pack.detect(photo_with(BLUE)) == []
    assert len(pack.detect(photo_with(RED))) == 1


def test_the_embedding_is_the_recognisers_on_the_aligned_square(pack: InsightFaceAnalyzer) -> None:
    # Given a picture that is not symmetric in its colours, and InsightFace's own alignment of it
    from insightface.utils.face_align import norm_crop

    picture = photo_with(RED)
    picture[100:250, 200:320, 2] = 30
    face = pack.detect(picture)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # norm_crop calls an older name of scikit-image's
        square = norm_crop(picture, face.points_5_2).astype(np.float64)
    # When the recogniser is worked out by hand: (RGB - 127.5) / 127.5, the mean of 4 x 4 fields, MIX, unit length
    fields = ((square - 127.5) / 127.5).reshape(4, 28, 4, 28, 3).mean(axis=(1, 3))
    numbers = fields.transpose(2, 0, 1).reshape(48) @ MIX
    # Then the analyzer says the same
    embedding = pack.embed(picture, face)
    assert embedding.shape == (WIDTH,) == (pack.embedding_size,)
    np.testing.assert_allclose(embedding, numbers / np.linalg.norm(numbers), atol=2e-3)
    # And a picture with swapped channels is another one
    swapped = pack.embed(np.ascontiguousarray(picture[..., ::-1]), face)
    assert embedding @ swapped < 0.99


def test_our_alignment_is_insightfaces(pack: InsightFaceAnalyzer) -> None:
    from insightface.utils.face_align import norm_crop

    picture = np.random.default_rng(5).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    points = POINTS * 2.3 + [150, 120]
    for side in (112, 128, 224):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            theirs = norm_crop(picture, points, side)
        ours = aligned_crop(picture, points, side)
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


def test_prepare_photo_uses_the_106_landmarks(pack: InsightFaceAnalyzer) -> None:
    # Given a photo with one red cell, prepared
    conditions = prepare_photo(pack, Image.fromarray(photo_with(RED)))
    # Then the CLIP picture is the landmark box of the constant landmarks: half a side 0.75 times their longer extent
    spread = np.ptp(LANDMARKS, axis=0).max() * 0.75 * (REACH[1] + REACH[3])
    assert conditions.clip_image.size == (round(2 * 0.75 * spread),) * 2
    assert conditions.encoder == pack.name == "insightface-redsquare"
    assert conditions.face_embedding.shape == (WIDTH,)


def test_a_photo_without_red_has_no_face(pack: InsightFaceAnalyzer) -> None:
    with pytest.raises(NoFaceFound):
        prepare_photo(pack, Image.fromarray(photo_with((90, 90, 90))))


def test_two_cells_are_two_faces(pack: InsightFaceAnalyzer) -> None:
    # Given a plain red cell and a weaker one far away
    picture = photo_with(RED)
    picture[480:512, 480:512] = (200, 60, 60)
    first, second = find_faces(pack, picture)
    # Then the plain one comes first; the weaker scores (200 - 60 - 60 + 127.5) / 128 * 0.5
    assert first.score == pytest.approx(1.0)
    assert second.score == pytest.approx((200 - 60 - 60 + 127.5) / 128 * 0.5, abs=1e-3)


def test_the_name_and_the_threshold(pack: InsightFaceAnalyzer) -> None:
    assert isinstance(pack, FaceAnalyzer)
    assert same_person_cosine(pack.name) == 0.30
    require_encoder("insightface-redsquare", pack, WIDTH)
    with pytest.raises(FaceEncoderMismatch, match=r"insightface-antelopev2.*insightface-redsquare"):
        require_encoder("insightface-antelopev2", pack)


def test_load_by_setting(pack_folder: Path) -> None:
    assert load_analyzer(f"insightface:{pack_folder}", providers=["CPUExecutionProvider"]).embedding_size == WIDTH


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to fetch something from the network fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing may be downloaded")

    storage = pytest.importorskip("insightface.utils.storage")
    monkeypatch.setattr(storage, "download_file", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("no_download")
def test_a_missing_folder_is_never_downloaded(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="is not there; download the pack"):
        load_analyzer(f"insightface:{tmp_path / 'antelopev2'}")
    with pytest.raises(WeightsMissing, match="is not there"):
        load_analyzer("insightface:buffalo_l")


def test_a_folder_unpacked_one_level_too_deep_is_named(tmp_path: Path, pack_folder: Path) -> None:
    # Given the antelopev2 archive's well-known layout: antelopev2/antelopev2/*.onnx
    shutil.copytree(pack_folder, tmp_path / "antelopev2" / "antelopev2")
    with pytest.raises(WeightsMissing, match=r"one level deeper.*antelopev2/antelopev2"):
        load_analyzer(f"insightface:{tmp_path / 'antelopev2'}")


@pytest.mark.parametrize(
    "file, said",
    [("det", "no usable detection"), ("landmarks", "212 outputs"), ("recogniser", "square input of 112")],
)
def test_a_missing_model_is_named(tmp_path: Path, pack_folder: Path, file: str, said: str) -> None:
    shutil.copytree(pack_folder, tmp_path / "pack")
    (tmp_path / "pack" / f"{file}.onnx").unlink()
    with pytest.raises(WeightsMissing, match=said):
        load_analyzer(f"insightface:{tmp_path / 'pack'}", providers=["CPUExecutionProvider"])


def test_a_torn_model_is_named(tmp_path: Path, pack_folder: Path) -> None:
    shutil.copytree(pack_folder, tmp_path / "pack")
    file = tmp_path / "pack" / "recogniser.onnx"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(WeightsMissing, match="cannot be loaded"):
        load_analyzer(f"insightface:{tmp_path / 'pack'}", providers=["CPUExecutionProvider"])


def test_a_missing_package_is_named(tmp_path: Path, pack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsMissing, match=r"pip install.*\[insightface\]"):
        load_analyzer(f"insightface:{pack_folder}")
