"""Preprocessing, number by number: what the released checkpoints were trained on.

Every expected picture is made here a second time, by NumPy and SciPy alone, from the published numbers written out as
literals. The face is a square of 106 landmarks, so that polygon, window and boxes are known by hand:

    polygon         the square from (200, 200) to (300, 300); of its 43 vertices 22 lie left and 21 right
    window          half a side 0.8 * 100 = 80 about the mean of the vertices; 0.8 * 140 = 112 at the scale 1.4
    landmark box    L = 0.75 * 100 = 75 about (250, 250 - 0.125 * 75)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from hyperlora.faces import Face, prepare_photo
from hyperlora.faces.crops import faceless, masked_face, polygon_mask
from hyperlora.faces.find import search_faces

Array = npt.NDArray[np.float64]
LEFT, RIGHT = 200.0, 300.0


def square_face(score: float = 0.99) -> Face:
    """A face whose polygon is the square, ten vertices at each corner and three on the edges between."""
    order = [1, *range(9, 17), *range(2, 9), 0, *range(24, 17, -1), *range(32, 24, -1), 17]
    order += [101, 105, 104, 103, 102, 50, 51, 49, 48, 43]
    corners = [(LEFT, LEFT)] * 10 + [(LEFT, 250.0)] * 2 + [(LEFT, RIGHT)] * 10 + [(RIGHT, RIGHT)] * 10
    corners += [(RIGHT, 250.0)] + [(RIGHT, LEFT)] * 10
    points = np.full((106, 2), 250.0, dtype=np.float32)
    points[order] = corners
    five = np.array([[230, 235], [270, 235], [250, 255], [235, 275], [265, 275]], dtype=np.float32)
    return Face(np.array([200, 200, 300, 300], dtype=np.float32), score, five, points)


MEAN_X = (LEFT * 22 + RIGHT * 21) / 43


def square_mask(scale: float, shape: tuple[int, int]) -> Array:
    """(H, W) 0 to 1: the square scaled about its vertex mean, its edge a Gaussian of 15 pixels of a 512 px window."""
    x_W, y_H = np.arange(shape[1]), np.arange(shape[0])
    half = 80 * scale
    side = round(2 * half)
    sigma = 15 * side / 512
    low_x, high_x = MEAN_X + (LEFT - MEAN_X) * scale, MEAN_X + (RIGHT - MEAN_X) * scale
    low_y, high_y = 250 - 50 * scale, 250 + 50 * scale
    fine = 8
    grid_y, grid_x = (np.arange(n * fine) / fine - 0.5 + 0.5 / fine for n in shape)
    bar_x = gaussian_filter(((grid_x >= low_x - 0.5) & (grid_x <= high_x + 0.5)).astype(float), sigma * fine)
    bar_y = gaussian_filter(((grid_y >= low_y - 0.5) & (grid_y <= high_y + 0.5)).astype(float), sigma * fine)
    bar_x, bar_y = bar_x.reshape(len(x_W), fine).mean(axis=1), bar_y.reshape(len(y_H), fine).mean(axis=1)
    # Beyond the window nothing is pasted.
    bar_x[(x_W < round(MEAN_X - half)) | (x_W >= round(MEAN_X - half) + side)] = 0
    bar_y[(y_H < round(250 - half)) | (y_H >= round(250 - half) + side)] = 0
    return bar_y[:, None] * bar_x[None, :]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Soft colours with strong contrast, in which every pixel has its own value."""
    noise = np.random.default_rng(7).normal(size=(600, 600, 3))
    soft = np.stack([gaussian_filter(noise[..., channel], 6) for channel in range(3)], axis=-1)
    return Image.fromarray(np.clip(128 + soft * (60 / soft.std()), 0, 255).astype(np.uint8))


def test_the_id_picture_is_the_photo_through_the_mask_on_grey(picture: Image.Image) -> None:
    # Given the picture made a second time: scale 1.0, radius 15 of 512, grey #7f7f7f, the landmark box
    photo = np.asarray(picture).astype(float)
    mask = square_mask(1.0, (600, 600))[..., None]
    expected = photo * mask + 127 * (1 - mask)
    left, top = 250 - 75, round(250 - 9.375 - 75)
    expected = expected[top : top + 150, left : left + 150]
    # When the code makes it
    found = np.asarray(masked_face(picture, square_face())).astype(float)
    # Then they are the same picture, but for rounding and Pillow's way to blur
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    assert error.mean() < 0.25 and error.max() < 3.5


def test_the_mask_of_each_branch_has_its_scale_and_radius() -> None:
    # Given a polygon's mask in its window, for the ID branch (1.0) and the Base branch (1.4)
    for scale in (1.0, 1.4):
        polygon = np.array([[LEFT, LEFT], [LEFT, RIGHT], [RIGHT, RIGHT], [RIGHT, LEFT]], dtype=np.float32)
        polygon = 250 + (polygon - 250) * np.float32(scale)
        found = np.asarray(polygon_mask(polygon, (170, 170), (160, 160))).astype(float) / 255
        # Then its middle row is the bar blurred by 15 * 160 / 512 pixels
        bar = np.zeros(160)
        low, high = round(80 - 50 * scale), round(80 + 50 * scale)
        bar[low : high + 1] = 1
        expected = gaussian_filter(bar, 15 * 160 / 512, mode="nearest")
        assert np.abs(found[80] - expected).max() < 0.035, scale


def spread_of(edge: Array) -> float:
    """The standard deviation, in pixels, of the Gaussian that softened a hard edge: of its derivative."""
    slope = np.abs(np.diff(edge))
    places = np.arange(len(slope))
    middle = (slope * places).sum() / slope.sum()
    return float(np.sqrt((slope * (places - middle) ** 2).sum() / slope.sum()))


def test_an_edge_shows_the_radii() -> None:
    # Given the ID mask in its window of 160 pixels, and a photo that is black left of 250 and white from there on
    square = np.array([[LEFT, LEFT], [LEFT, RIGHT], [RIGHT, RIGHT], [RIGHT, LEFT]], dtype=np.float32)
    mask = np.asarray(polygon_mask(square, (170, 170), (160, 160))).astype(float)
    photo = np.zeros((600, 600, 3), dtype=np.uint8)
    photo[:, 250:] = 255
    base = np.asarray(faceless(Image.fromarray(photo), square_face())).astype(float)
    # Then the mask's edge is 15 pixels of 512 soft
    assert spread_of(mask[80, :70]) == pytest.approx(15 * 160 / 512, rel=0.04)
    # And what lies under the face is the edge blurred by 45 in a window of 224 pixels brought to 512 and back
    left = round(MEAN_X - 112)
    window = Image.fromarray(photo[138 : 138 + 224, left : left + 224]).resize((512, 512), Image.Resampling.BILINEAR)
    soft = window.filter(ImageFilter.GaussianBlur(45)).resize((224, 224), Image.Resampling.BILINEAR)
    # Both rows run from x = 210 to 290: the Base picture begins at x = 100.
    expected = np.asarray(soft).astype(float)[112, 210 - left : 290 - left, 0]
    assert np.abs(base[122, 110:190, 0] - expected).max() <= 1.5


def test_the_base_picture_is_the_photo_with_the_face_blurred(picture: Image.Image) -> None:
    # Given the picture made a second time: radius 45 of 512 through the mask of scale 1.4 with its edge of 15
    photo = np.asarray(picture).astype(float)
    left, top = round(MEAN_X - 112), 250 - 112
    window = photo[top : top + 224, left : left + 224]
    sigma = 45 * 224 / 512
    blurred = photo.copy()
    blurred[top : top + 224, left : left + 224] = np.stack(
        [gaussian_filter(window[..., channel], sigma, mode="nearest") for channel in range(3)], axis=-1
    )
    mask = square_mask(1.4, (600, 600))[..., None]
    expected = photo * (1 - mask) + blurred * mask
    # And cut 2 L to the left and right, 1.5 L up and 2.5 L down
    y = 250 - 9.375
    rows, columns = slice(round(y - 112.5), round(y - 112.5) + 300), slice(100, 400)
    # When the code makes it
    found = np.asarray(faceless(picture, square_face())).astype(float)
    # Then they are the same picture, but for rounding and Pillow's way to blur
    assert found.shape == expected[rows, columns].shape == (300, 300, 3)
    error = np.abs(found - expected[rows, columns])
    assert error.mean() < 0.4 and np.quantile(error, 0.999) < 5


class Seer:
    """Sees the square face where and when it is told to; writes down at which sizes it was asked."""

    name, embedding_size = "seer", 4

    def __init__(self, sees_at: int, smallest: int = 0) -> None:
        self.sees_at, self.smallest = sees_at, smallest
        self.asked: list[tuple[int, int, int]] = []
        self.embedded: list[tuple[int, ...]] = []

    def detect(self, rgb_HW3: npt.NDArray[np.uint8], size: int = 640) -> list[Face]:
        self.asked.append((*rgb_HW3.shape[:2], size))
        padded = rgb_HW3.shape[0] > self.smallest
        return [square_face(0.7), square_face(0.99)] if size == self.sees_at and padded else []

    def embed(self, rgb_HW3: npt.NDArray[np.uint8], face: Face) -> npt.NDArray[np.float32]:
        self.embedded.append(rgb_HW3.shape)
        return np.array([0.6, 0.8, 0, 0], dtype=np.float32)


def test_detector_sizes_in_their_order_then_once_more_with_half_the_photo_around() -> None:
    # Given a photo of 600 x 400 and an analyzer that sees at 256 only, and only in a larger picture
    photo = np.zeros((400, 600, 3), dtype=np.uint8)
    seer = Seer(256, smallest=400)
    # When a face is searched for
    found = search_faces(seer, photo)
    # Then four sizes were asked, then the same with 200 rows and 300 columns more on every side
    sizes = (640, 512, 384, 256)
    assert seer.asked == [*((400, 600, size) for size in sizes), *((800, 1200, size) for size in sizes)]
    # And the face is where it is in the photo itself
    assert found.padded and found.faces[0].box_xyxy.tolist() == [-100, 0, 0, 100]
    # And of two faces the one of the higher score comes first
    assert [face.score for face in found.faces] == [0.99, 0.7]


def test_the_face_stream_is_a_box_of_half_side_two_l_at_640(picture: Image.Image) -> None:
    # Given an analyzer that sees at 640
    seer = Seer(640)
    # When a photo is prepared
    conditions = prepare_photo(seer, picture)
    # Then the second look was at 4 L = 300 pixels of the photo, with 640, and the embedding is of that crop
    assert seer.asked == [(600, 600, 640), (300, 300, 640)]
    assert seer.embedded == [(300, 300, 3)]
    assert float(np.linalg.norm(conditions.face_embedding)) == pytest.approx(1.0)
