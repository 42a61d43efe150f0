"""The five-point picture that InstantID's ControlNet reads."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage import data

from hyperlora.errors import BadPhoto, InvalidRequest, NoFaceFound
from hyperlora.faces import PhotoConditions
from hyperlora.faces.keypoints import keypoint_picture, keypoints_for
from hyperlora.faces.types import Face, FaceAnalyzer

# Left eye, right eye, nose, left mouth corner, right mouth corner; and each one's colour.
POINTS = np.array([[400, 380], [610, 400], [500, 520], [420, 640], [590, 650]], dtype=np.float32)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]


def numbers(picture: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(picture).astype(np.int64)


def discs(picture: Image.Image) -> npt.NDArray[np.float64]:
    """(5, 2) middles of the five discs, found again by their pure colours."""
    pixels = numbers(picture)
    found = []
    for colour in COLOURS:
        rows, columns = np.nonzero((pixels == colour).all(axis=2))
        assert rows.size, f"no disc of {colour}"
        found.append((columns.mean(), rows.mean()))
    return np.array(found)


def drawn_by_opencv(points: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The published drawing in OpenCV's words: ellipses of half axes (length / 2, 4) times 0.6, discs of 10 on top."""
    canvas = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for number in (0, 1, 3, 4):
        (x, y), (nose_x, nose_y) = points[number], points[2]
        length = math.hypot(x - nose_x, y - nose_y)
        angle = round(math.degrees(math.atan2(y - nose_y, x - nose_x)))
        middle = (round((x + nose_x) / 2), round((y + nose_y) / 2))
        outline = cv2.ellipse2Poly(middle, (round(length / 2), 4), angle, 0, 360, 1)
        cv2.fillConvexPoly(canvas, outline, COLOURS[number])
    canvas = (canvas * 0.6).astype(np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(canvas, (round(x), round(y)), 10, colour, -1)
    return canvas.astype(np.int64)


@pytest.mark.parametrize("size", [(1024, 1024), (832, 1216), (1344, 768)])
def test_the_picture_is_the_published_one(size: tuple[int, int]) -> None:
    # Given five points on whole pixels, and OpenCV's drawing of them
    points = np.rint(POINTS * np.array([size[0] / 1024, size[1] / 1024], dtype=np.float32))
    theirs = drawn_by_opencv(points, size)
    # When they are drawn
    ours = numbers(keypoint_picture(points, size))
    # Then the discs are equal, and the limbs differ in single pixels of their outlines only
    for colour in COLOURS:
        assert np.array_equal((ours == colour).all(axis=2), (theirs == colour).all(axis=2))
    differs = (ours != theirs).any(axis=2).astype(np.uint8)
    assert differs.sum() < 0.15 * (theirs.any(axis=2).sum() - 5 * 317)
    assert ours.any(axis=2).sum() == pytest.approx(theirs.any(axis=2).sum(), rel=0.02)
    assert not cv2.erode(differs, np.ones((3, 3), np.uint8)).any()


def test_colours_and_sizes_number_by_number() -> None:
    # Given five points
    pixels = numbers(keypoint_picture(POINTS, (1024, 1024)))
    # Then each point is a disc of its colour, 10 pixels in radius
    for (x, y), colour in zip(POINTS.astype(int), COLOURS, strict=True):
        assert tuple(pixels[y, x]) == colour and tuple(pixels[y - 9, x]) == colour
        assert tuple(pixels[y - 12, x]) != colour
        assert (pixels == colour).all(axis=2).sum() == pytest.approx(math.pi * 10**2, rel=0.02)
    # And each limb's middle is 0.6 of its point's colour, 4 pixels to both sides, and the nose has none
    for number in (0, 1, 3, 4):
        middle = (POINTS[number] + POINTS[2]) / 2
        along = (POINTS[number] - POINTS[2]) / np.linalg.norm(POINTS[number] - POINTS[2])
        across = np.array([-along[1], along[0]])
        dimmed = tuple(153 if channel else 0 for channel in COLOURS[number])
        for distance, expected in ((0, dimmed), (3, dimmed), (-3, dimmed), (6, (0, 0, 0)), (-6, (0, 0, 0))):
            x, y = np.rint(middle + distance * across).astype(int)
            assert tuple(pixels[y, x]) == expected, (number, distance)
    # And there is nothing else
    allowed = {(0, 0, 0), *COLOURS, *(tuple(153 if c else 0 for c in colour) for colour in COLOURS)}
    assert {tuple(pixel) for pixel in np.unique(pixels.reshape(-1, 3), axis=0).tolist()} <= allowed


def test_small_pictures_are_drawn_in_proportion() -> None:
    # Given a picture of half the trained size: discs of 5 pixels
    pixels = numbers(keypoint_picture(POINTS / 2, (512, 512)))
    assert (pixels == COLOURS[0]).all(axis=2).sum() == pytest.approx(math.pi * 5**2, rel=0.04)
    # And at 64 pixels all five are still there
    assert discs(keypoint_picture(POINTS / 16, (64, 64))).shape == (5, 2)


def test_points_outside_the_picture_are_left_out() -> None:
    assert not numbers(keypoint_picture(POINTS + 2000, (1024, 1024))).any()


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.full((5, 2), np.nan), np.zeros((5, 3))])
def test_no_points_no_picture(points: npt.NDArray[np.float64]) -> None:
    with pytest.raises(InvalidRequest, match="five finite points"):
        keypoint_picture(points.astype(np.float32), (64, 64))


class OneFace:
    """An analyzer that sees the faces it is given, wherever it looks."""

    name = "one-face"
    embedding_size = 2

    def __init__(self, *boxes: tuple[float, float, float, float], score: float = 0.95) -> None:
        self.faces = [self._face(np.array(box, dtype=np.float32), score) for box in boxes]

    @staticmethod
    def _face(box: npt.NDArray[np.float32], score: float) -> Face:
        shares = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], dtype=np.float32)
        return Face(box, score, (box[:2] + shares * (box[2:] - box[:2])).astype(np.float32))

    def detect(self, rgb_HW3: npt.NDArray[np.uint8], size: int = 640) -> list[Face]:
        return self.faces

    def embed(self, rgb_HW3: npt.NDArray[np.uint8], face: Face) -> npt.NDArray[np.float32]:
        return np.array([1, 0], dtype=np.float32)


@pytest.mark.parametrize(
    "photo, box, size, scale, corner",
    [
        # The photo's own shape: enlarged, nothing cut.
        ((600, 800), (200, 200, 300, 340), (1200, 1600), 2.0, (0, 0)),
        # Wider than the photo: its width counts; of 800 rows 600 are kept, the middle ones.
        ((600, 800), (200, 300, 300, 440), (1200, 1200), 2.0, (0, 100)),
        # The face is higher than the middle: the cut moves up as far as it must, and no further.
        ((600, 800), (200, 40, 300, 180), (1200, 1200), 2.0, (0, 40)),
        # The face is lower.
        ((600, 800), (200, 600, 300, 760), (1200, 1200), 2.0, (0, 160)),
        # A wide photo, its face at the right.
        ((1600, 800), (1400, 200, 1550, 400), (1000, 1000), 1.25, (750, 0)),
        # A face that fills a tall photo, in a wide picture: the face stays whole, so that 240 / 600 = 0.4 counts.
        ((600, 800), (100, 100, 500, 700), (600, 240), 0.4, (-450, 100)),
    ],
)
def test_the_photo_is_cut_so_that_the_face_stays_whole(
    photo: tuple[int, int], box: tuple[int, int, int, int], size: tuple[int, int], scale: float,
    corner: tuple[float, float],
) -> None:  # fmt: skip
    # Given a photo with a face
    analyzer = OneFace(box)
    # When its key points are drawn for a picture of another shape
    picture = keypoints_for(analyzer, Image.new("RGB", photo), size)
    # Then they are where the cut photo has them
    expected = (analyzer.faces[0].points_5_2 - np.array(corner)) * scale
    assert picture.size == size
    np.testing.assert_allclose(discs(picture), expected, atol=1.5)
    # And the whole box is inside
    low, high = ((np.array(part) - corner) * scale for part in (box[:2], box[2:]))
    assert (low >= -0.01).all() and (high <= np.array(size) + 0.01).all()


def test_the_face_that_is_meant() -> None:
    # Given two faces, the right one larger
    analyzer = OneFace((100, 100, 160, 180), (400, 100, 520, 260))
    photo = Image.new("RGB", (1024, 1024))
    # Then the clearest, here the first, is taken unless another is meant
    for choice, number in (("clearest", 0), ("largest", 1), (0, 0), (1, 1)):
        picture = keypoints_for(analyzer, photo, (1024, 1024), face=choice)  # type: ignore[arg-type]
        np.testing.assert_allclose(discs(picture), analyzer.faces[number].points_5_2, atol=1)
    with pytest.raises(BadPhoto, match="face 2 was asked for"):
        keypoints_for(analyzer, photo, (1024, 1024), face=2)


def test_the_points_of_a_photograph(
    analyzer: FaceAnalyzer, astronaut: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    # Given a photograph, and the same one lying on its side without a tag
    for degrees in (0, 90, 180, 270):
        picture = keypoints_for(analyzer, astronaut.rotate(degrees, expand=True), (1024, 1024))
        # Then the points are those of the upright face, twice as large
        np.testing.assert_allclose(discs(picture), 2 * astronaut_conditions.face.points_5_2, atol=2)


def test_a_photo_without_a_face_has_no_key_points(analyzer: FaceAnalyzer) -> None:
    with pytest.raises(NoFaceFound, match="no face found"):
        keypoints_for(analyzer, Image.fromarray(data.coins()), (1024, 1024))
    # And what a closer look does not confirm is no face: the detector takes the coffee cup for one at first
    with pytest.raises(NoFaceFound):
        keypoints_for(analyzer, Image.fromarray(data.coffee()), (1024, 1024))
