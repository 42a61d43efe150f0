"""Many photos through an analyzer together: the same answers as one by one, in fewer calls."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from face_pack import build_pack
from PIL import Image
from skimage import data

from hyperlora.errors import BadPhoto, NoFaceFound
from hyperlora.faces import Face, prepare_photo
from hyperlora.faces.batch import detect_many, embed_many
from hyperlora.faces.insightface import InsightFaceAnalyzer
from hyperlora.faces.onnx_batch import OnnxBatch
from hyperlora.faces.opencv import OpenCVAnalyzer
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import PhotoConditions, prepare_photos
from hyperlora.faces.types import FaceAnalyzer

RED = (255, 0, 0)
# Sums of a batched product may be ordered otherwise; of numbers up to 640 that is the last digit of float32.
PIXELS, COSINE = 1e-3, 1e-5


def scene(number: int, *, size: tuple[int, int] = (640, 640)) -> np.ndarray:
    """A photo of fine texture with `number` red cells at places of its own; none shows no face."""
    dice = np.random.default_rng(number)
    picture = dice.integers(60, 160, (*size, 1), dtype=np.uint8).repeat(3, axis=2)
    for _ in range(number):
        x, y = (int(value) * 32 for value in dice.integers(3, 12, 2))
        picture[y : y + 32, x : x + 32] = RED
    return picture


SCENES = [scene(1), scene(0), scene(3), scene(2, size=(480, 640)), scene(1, size=(640, 400))]


@pytest.fixture(scope="module")
def make_pack(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., InsightFaceAnalyzer]:
    pytest.importorskip("insightface")

    def make(**kind: Any) -> InsightFaceAnalyzer:
        folder = build_pack(tmp_path_factory.mktemp("packs") / "redsquare", **kind)
        return InsightFaceAnalyzer(folder, providers=["cpu"])

    return make


class Counted:
    """A session that counts its calls and remembers how many pictures each was given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Any, given: dict[str, np.ndarray]) -> Any:
        self.batches.append(len(next(iter(given.values()))))
        return self._session.run(names, given)


def counted(network: OnnxBatch) -> Counted:
    session = Counted(network._session)
    network._session = session
    return session


def assert_same(faces: list[Face], others: list[Face]) -> None:
    assert len(faces) == len(others)
    for one, other in zip(faces, others, strict=True):
        np.testing.assert_allclose(one.box_xyxy, other.box_xyxy, atol=PIXELS)
        np.testing.assert_allclose(one.points_5_2, other.points_5_2, atol=PIXELS)
        np.testing.assert_allclose(one.points_106_2, other.points_106_2, atol=PIXELS)
        assert one.score == pytest.approx(other.score, abs=1e-6)


@pytest.mark.parametrize("rows", ["flat", "axis"])
def test_a_graph_with_a_batch_axis_is_called_once_for_all_photos(
    rows: str, make_pack: Callable[..., InsightFaceAnalyzer]
) -> None:
    # Given a pack whose graphs take any number of pictures, and what it says of each photo alone
    pack = make_pack(batch="n", rows=rows)
    alone = [pack.detect(photo) for photo in SCENES]
    assert [len(faces) for faces in alone] == [1, 0, 3, 2, 1]
    faces = [(photo, face) for photo, found in zip(SCENES, alone, strict=True) for face in found]
    one_by_one = [pack.embed(*each) for each in faces]

    # When it is shown all of them
    detector, landmarks = counted(pack._detector._network), counted(pack._landmarks._network)
    recogniser = counted(pack._embedder)
    together = pack.detect_many(SCENES)
    embeddings = pack.embed_many(faces)

    # Then each network was called once, and nobody's numbers depend on who else was there
    assert (detector.batches, landmarks.batches, recogniser.batches) == ([5], [7], [7])
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
    for embedding, expected_E in zip(embeddings, one_by_one, strict=True):
        np.testing.assert_allclose(np.asarray(embedding), expected_E, atol=COSINE)


@pytest.mark.parametrize("kind", [{"batch": 1}, {"batch": "n", "rows": "woven"}])
def test_a_graph_that_would_mix_photos_up_sees_them_one_by_one(
    kind: dict[str, Any], make_pack: Callable[..., InsightFaceAnalyzer]
) -> None:
    # Given a detector of one picture, and one that takes several but answers for all in one woven list
    pack = make_pack(**kind)
    alone = [pack.detect(photo) for photo in SCENES]

    # When it is shown several photos
    detector = counted(pack._detector._network)
    together = pack.detect_many(SCENES)

    # Then it sees each alone, and finds the same
    assert detector.batches == [1] * 5 and not pack._detector.batches
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)


def test_many_photos_go_in_calls_of_a_bounded_size(make_pack: Callable[..., InsightFaceAnalyzer]) -> None:
    pack = make_pack(batch="n")
    detector, recogniser = counted(pack._detector._network), counted(pack._embedder)
    photo = np.full((256, 256, 3), 90, dtype=np.uint8)
    photo[64:96, 96:128] = RED
    found = pack.detect_many([photo] * 37, 256)
    pack.embed_many([(photo, faces[0]) for faces in found])
    assert detector.batches == [16, 16, 5] and recogniser.batches == [32, 5]


def test_the_same_faces_as_insightfaces_own(make_pack: Callable[..., InsightFaceAnalyzer], tmp_path: Path) -> None:
    # Given a photo in which boxes overlap, and InsightFace's own analysis of it
    from insightface.app import FaceAnalysis

    pack = make_pack(batch="n")
    photo = scene(0, size=(500, 640))
    photo[128:160, 128:192] = RED  # two cells side by side: boxes that share half their area
    photo[320:352, 416:448] = (210, 30, 30)
    theirs = FaceAnalysis(name=str(build_pack(tmp_path / "redsquare")), providers=["CPUExecutionProvider"])
    theirs.prepare(ctx_id=0, det_size=(640, 640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its alignment calls an older name of scikit-image's
        expected = theirs.get(np.ascontiguousarray(photo[..., ::-1]))

    # When the pack is asked
    found = pack.detect(photo)

    # Then boxes, points, landmarks and embeddings are theirs
    assert len(found) == len(expected) >= 2
    for face, other in zip(found, sorted(expected, key=lambda each: -each.det_score), strict=True):
        np.testing.assert_allclose(face.box_xyxy, other.bbox, atol=PIXELS)
        np.testing.assert_allclose(face.points_5_2, other.kps, atol=PIXELS)
        np.testing.assert_allclose(face.points_106_2, other.landmark_2d_106, atol=0.05)
        assert face.score == pytest.approx(float(other.det_score), abs=1e-6)
        assert float(pack.embed(photo, face) @ other.normed_embedding) > 0.9999


def test_a_face_that_cannot_be_recognised_harms_no_other(
    pack: InsightFaceAnalyzer, analyzer: FaceAnalyzer, astronaut: Image.Image
) -> None:
    # Given a good face between two whose points lie in one place
    photo = np.asarray(astronaut)
    good = analyzer.detect(photo)[0]
    flat = Face(good.box_xyxy, 0.9, np.full((5, 2), 40, dtype=np.float32))
    for each in (pack, analyzer):
        # When all three are embedded together
        first, second, third = embed_many(each, [(photo, flat), (photo, good), (photo, flat)])
        # Then each bad one is its own fault, and the good one is what it is alone
        assert isinstance(first, BadPhoto) and isinstance(third, BadPhoto)
        assert np.array_equal(second, each.embed(photo, good))


def test_a_gpu_sees_few_sizes_of_batches() -> None:
    # Given a session that does not run on the CPU
    class OnGpu:
        shapes: ClassVar[list[int]] = []

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_inputs(self) -> list[Any]:
            return [type("Input", (), {"name": "data", "shape": ["n", 3, 4, 4]})]

        def get_outputs(self) -> list[Any]:
            return [type("Output", (), {"name": "sum"})]

        def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
            self.shapes.append(len(given["data"]))
            return [given["data"].sum(axis=(1, 2, 3), keepdims=True)]

    network = OnnxBatch(OnGpu(), (3, 4, 4), most=16)
    OnGpu.shapes.clear()
    pictures = np.random.default_rng(0).normal(size=(21, 3, 4, 4)).astype(np.float32)
    # When it is given 5 and 21 pictures
    answers = [network.run(pictures[:5]), network.run(pictures)]
    # Then batches are filled up to powers of two, and what was filled in is not answered for
    assert OnGpu.shapes == [8, 16, 8]
    assert [len(each) for each in answers] == [5, 21]
    np.testing.assert_allclose([each[0].item() for each in answers[1]], pictures.sum(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(("together", "told"), [(1.001, "by 1.0e-03"), (float("nan"), "by nan"), (1.00001, None)])
def test_photos_go_one_by_one_with_a_warning_where_answers_differ_in_company(
    together: float, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a network that answers two pictures a little otherwise than one
    class Session:
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

        def get_inputs(self) -> list[Any]:
            return [type("Input", (), {"name": "data", "shape": ["n", 3, 4, 4]})]

        def get_outputs(self) -> list[Any]:
            return [type("Output", (), {"name": "one"})]

        def run(self, _names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
            count = len(given["data"])
            return [np.full((count, 5), 1.0 if count == 1 else together, dtype=np.float32)]

    # When it is looked at
    with caplog.at_level(logging.WARNING, logger="hyperlora.faces.onnx_batch"):
        network = OnnxBatch(Session(), (3, 4, 4), most=16)
    # Then batches are off, and the log warns with the difference; but not for what is rounding
    assert network.batches == (told is None)
    assert [told in message for message in caplog.messages if told] == ([True] if told else [])
    assert len(caplog.messages) == (told is not None)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """A plain photo, one lying on its side, one cropped so that a margin is needed or not, a stranger, and no face."""
    astronaut = Image.fromarray(data.astronaut())
    return [
        astronaut,
        astronaut.rotate(90, expand=True),
        astronaut.crop((170, 60, 277, 180)),
        Image.fromarray(data.camera()),
        Image.fromarray(data.coins()),
    ]


def test_opencvs_pairs_find_the_same_in_threads(photos: list[Image.Image]) -> None:
    # Given three pairs of networks, and one
    several, one = OpenCVAnalyzer(pairs=3), OpenCVAnalyzer(pairs=1)
    arrays = [np.asarray(photo.convert("RGB")) for photo in photos] * 2
    # When both look at many photos, the three from several threads at once
    with ThreadPoolExecutor(2) as threads:
        found, again = threads.map(lambda _: detect_many(several, arrays, 640), range(2))
    expected = [one.detect(array) for array in arrays]
    # Then everything is equal to the last bit
    for side in (found, again):
        for faces, others in zip(side, expected, strict=True):
            assert [face.score for face in faces] == [face.score for face in others]
            assert all(np.array_equal(a.points_5_2, b.points_5_2) for a, b in zip(faces, others, strict=True))
    faces = [(array, each[0]) for array, each in zip(arrays, expected, strict=True) if each]
    assert len(faces) >= 4
    for embedding, (array, face) in zip(embed_many(several, faces), faces, strict=True):
        assert np.array_equal(embedding, one.embed(array, face))
    # And no more pairs were made than were allowed
    assert several._free.qsize() == 3


def test_photos_prepared_together_are_what_they_are_alone(analyzer: FaceAnalyzer, photos: list[Image.Image]) -> None:
    # Given each photo alone
    alone: list[PhotoConditions | NoFaceFound] = []
    for photo in photos:
        try:
            alone.append(prepare_photo(analyzer, photo))
        except NoFaceFound as fault:
            alone.append(fault)
    assert [isinstance(each, NoFaceFound) for each in alone] == [False, False, False, False, True]

    # When they are prepared together
    together = prepare_photos(analyzer, [upright_rgb(photo) for photo in photos], ["clearest"] * len(photos))

    # Then pictures, embeddings and findings are equal to the last bit, and the fault is the photo's own
    for each, expected in zip(together, alone, strict=True):
        if isinstance(expected, NoFaceFound):
            assert isinstance(each, NoFaceFound) and str(each) == str(expected)
            continue
        assert isinstance(each, PhotoConditions)
        assert np.array_equal(each.face_embedding, expected.face_embedding)
        assert np.array_equal(np.asarray(each.clip_image), np.asarray(expected.clip_image))
        assert np.array_equal(np.asarray(each.base_image), np.asarray(expected.base_image))
        assert each.findings == expected.findings
    # And the photo on its side was turned, alone and together
    assert "turned_photo" in [finding.code for finding in together[1].findings]  # type: ignore[union-attr]


def test_the_surroundings_are_cut_when_they_are_asked_for(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    (with_them,) = prepare_photos(analyzer, [upright_rgb(astronaut)], ["clearest"])
    (without,) = prepare_photos(analyzer, [upright_rgb(astronaut)], ["clearest"], surroundings=False)
    assert isinstance(with_them, PhotoConditions) and isinstance(without, PhotoConditions)
    assert with_them.surroundings is not None and without.surroundings is None
    assert np.array_equal(np.asarray(without.base_image), np.asarray(with_them.base_image))
