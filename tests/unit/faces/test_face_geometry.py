"""The lines around a face, against arithmetic done by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from hyperlora.errors import BadPhoto
from hyperlora.faces import PhotoConditions
from hyperlora.faces.align import ALIGNED_POINTS_5_2, aligned_crop, similarity_transform, transform_points
from hyperlora.faces.crops import crop_padded
from hyperlora.faces.geometry import Box, face_polygon, landmark_box, polygon_window, scale_polygon
from hyperlora.faces.types import Face


def face_with(points_106_2: np.ndarray | None = None, points_5_2: np.ndarray | None = None) -> Face:
    return Face(
        box_xyxy=np.array([0, 0, 10, 10], dtype=np.float32),
        score=0.9,
        points_5_2=ALIGNED_POINTS_5_2 if points_5_2 is None else points_5_2.astype(np.float32),
        points_106_2=None if points_106_2 is None else points_106_2.astype(np.float32),
    )


def test_the_polygon_walks_the_106_points_in_the_published_order() -> None:
    # Given a face whose landmark i lies at (i, -i)
    numbers = np.arange(106)
    face = face_with(np.column_stack([numbers, -numbers]))
    # When its polygon is taken
    walked = face_polygon(face)[:, 0].astype(int).tolist()
    # Then the order is the one written out here number by number
    jaw = "1 9 10 11 12 13 14 15 16 2 3 4 5 6 7 8 0 24 23 22 21 20 19 18 32 31 30 29 28 27 26 25 17"
    brows = "101 105 104 103 102 50 51 49 48 43"
    assert walked == [int(number) for number in f"{jaw} {brows}".split()]
    assert len(set(walked)) == 43


def test_scaling_keeps_the_mean_of_the_vertices_not_the_middle_of_the_box() -> None:
    # Given a triangle with mean (2, 1); the middle of its box is (3, 1.5)
    triangle = np.array([[0, 0], [6, 0], [0, 3]], dtype=np.float32)
    # When it is scaled by 1.4
    scaled = scale_polygon(triangle, 1.4)
    # Then (0, 0) moves to 2 - 1.4 * 2 = -0.8 and 1 - 1.4 * 1 = -0.4, and so on
    np.testing.assert_allclose(scaled, [[-0.8, -0.4], [7.6, -0.4], [-0.8, 3.8]], atol=1e-6)


def test_the_window_is_centred_on_the_vertex_mean() -> None:
    # Given the same triangle, 6 wide and 3 high
    window = polygon_window(np.array([[0, 0], [6, 0], [0, 3]], dtype=np.float32))
    # Then half a side is 0.8 * 6 = 4.8 about (2, 1)
    assert window == pytest.approx((-2.8, -3.8, 6.8, 5.8))


def test_the_landmark_box_is_lifted_by_an_eighth_of_its_half_side() -> None:
    # Given landmarks bounded by x 100..180 and y 50..150
    points = np.full((106, 2), [140.0, 100.0])
    points[[7, 50]] = [[100.0, 150.0], [180.0, 50.0]]
    face = face_with(points)
    # Then L = 0.75 * 100 = 75 and the centre is (140, 100 - 9.375)
    assert landmark_box(face) == pytest.approx((65.0, 15.625, 215.0, 165.625))
    # And the face stream's box has half-side 150 about the same centre
    assert landmark_box(face, 2.0) == pytest.approx((-10.0, -59.375, 290.0, 240.625))


def test_five_points_give_the_mean_outline_where_the_recognisers_place_them() -> None:
    # Given a face exactly on the recognisers' places: eyes at x 38.29 and 73.53, y 51.6, so d = 35.24
    polygon = face_polygon(face_with())
    # Then the temples lie 1.10 d beside the middle of the eyes at eye level, the chin 1.90 d below, to within the
    # template's own lopsidedness of a third of a pixel
    middle_x, eyes_y, d = 55.91, 51.60, 35.24
    assert polygon.shape == (43, 2)
    np.testing.assert_allclose(polygon[0], [middle_x - 1.10 * d, eyes_y], atol=0.5)
    np.testing.assert_allclose(polygon[16], [middle_x, eyes_y + 1.90 * d], atol=0.5)
    np.testing.assert_allclose(polygon[32], [middle_x + 1.10 * d, eyes_y], atol=0.5)
    # And the brows run from right to left above the eyes
    assert (polygon[33:, 1] < eyes_y - 0.25 * d).all()
    assert (np.diff(polygon[33:, 0]) < 0).all()


def test_the_outline_follows_a_turned_enlarged_and_moved_face() -> None:
    # Given five points turned by 30 degrees, three times as large and moved by (200, 40)
    c, s = 3 * np.cos(np.pi / 6), 3 * np.sin(np.pi / 6)
    turn = np.array([[c, -s], [s, c]])
    moved = ALIGNED_POINTS_5_2 @ turn.T + [200, 40]
    # When both outlines are taken
    plain, turned = face_polygon(face_with()), face_polygon(face_with(points_5_2=moved))
    # Then the same motion carries one onto the other
    np.testing.assert_allclose(turned, plain @ turn.T + [200, 40], atol=1e-2)


def test_the_outline_covers_a_real_face(astronaut_conditions: PhotoConditions) -> None:
    # Given marks set by hand on the astronaut's photo: cheeks, chin, brows and forehead inside, hair, ear, neck out
    polygon = face_polygon(astronaut_conditions.face).reshape(-1, 1, 2)
    inside = [(224, 165), (190, 130), (255, 130), (224, 95), (205, 92), (245, 92), (224, 145), (212, 160), (238, 160)]
    outside = [(224, 55), (160, 100), (285, 100), (224, 205), (175, 175), (275, 175)]
    # Then the polygon tells them apart
    for point in inside:
        assert cv2.pointPolygonTest(polygon, point, False) > 0, point
    for point in outside:
        assert cv2.pointPolygonTest(polygon, point, False) < 0, point
    # And the detector's own box agrees with the landmark box about the place
    box = landmark_box(astronaut_conditions.face)
    assert box.left < 178 and box.right > 269 and box.top < 70 and box.bottom > 174


def test_the_similarity_has_no_mirror_and_one_scale() -> None:
    # Given a square and its mirror image
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    mirrored = square * [-1, 1]
    # When one is laid on the other
    matrix = similarity_transform(square, mirrored)
    # Then the transform is still a turn with scale: rows orthogonal, of one length, determinant not negative
    a, b = matrix[:, :2]
    assert abs(a @ b) < 1e-9
    assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b))
    assert np.linalg.det(matrix[:, :2]) >= 0


def test_alignment_is_opencvs_own(astronaut: Image.Image, astronaut_conditions: PhotoConditions) -> None:
    # Given OpenCV's alignment for SFace as an independent implementation
    from hyperlora.faces.opencv import OpenCVAnalyzer

    with OpenCVAnalyzer()._pair() as (_, free):
        recogniser = free
    face = astronaut_conditions.face
    row = np.concatenate([face.box_xyxy[:2], [face.width, face.height], face.points_5_2.ravel(), [face.score]])
    theirs = recogniser.alignCrop(np.asarray(astronaut), row.astype(np.float32))
    # When we align the same face
    ours = aligned_crop(np.asarray(astronaut), face.points_5_2)
    # Then the squares agree to rounding
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 0.5


@pytest.mark.parametrize(
    "side, left_eye", [(112, (38.2946, 51.6963)), (128, (46.2946, 51.6963)), (224, (76.5892, 103.3926))]
)
def test_larger_aligned_squares_scale_or_margin(side: int, left_eye: tuple[float, float]) -> None:
    # Given a white dot on the left eye of a black picture (128 px squares have 8 px of margin left and right)
    picture = np.zeros((400, 400, 3), dtype=np.uint8)
    points = ALIGNED_POINTS_5_2 * 2 + 40
    x, y = (round(float(value)) for value in points[0])
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    # When it is aligned
    crop = aligned_crop(picture, points, side)[..., 0].astype(float)
    # Then the dot's centre of mass lies on the eye's place
    rows, columns = np.mgrid[:side, :side]
    found = (columns * crop).sum() / crop.sum(), (rows * crop).sum() / crop.sum()
    assert found == pytest.approx(left_eye, abs=0.5)


def test_smooth_alignment_averages_noise_away_and_moves_nothing() -> None:
    # Given a large face: a smooth ramp with strong noise
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(40, 200, 1600)[None, :, None], (1600, 1600, 3))
    noisy = np.clip(ramp + rng.normal(0, 40, (1600, 1600, 3)), 0, 255).astype(np.uint8)
    points = ALIGNED_POINTS_5_2 * 10 + 150
    # When it is aligned plainly and smoothly
    clean = aligned_crop(ramp.astype(np.uint8), points).astype(float)
    plain = aligned_crop(noisy, points).astype(float)
    smooth = aligned_crop(noisy, points, smooth=True).astype(float)
    # Then block averages over 10 x 10 pixels leave a tenth of the noise, and the ramp stays in place
    assert (plain - clean).std() > 20
    assert (smooth - clean).std() < 6
    assert abs((smooth - clean).mean()) < 1.0
    assert abs((smooth - clean)[:, :56].mean() - (smooth - clean)[:, 56:].mean()) < 1.0


def test_a_box_that_leaves_the_picture_is_padded_grey() -> None:
    # Given a 10 x 10 white picture and a box from (-3, 4) to (5, 12)
    crop, corner = crop_padded(Image.new("RGB", (10, 10), "white"), Box(-3, 4, 5, 12))
    # Then 8 x 8 pixels come, white where the picture is (x from 3, y up to 6 rows), #7f7f7f elsewhere
    pixels = np.asarray(crop)
    assert corner == (-3, 4)
    assert pixels.shape == (8, 8, 3)
    assert (pixels[:6, 3:] == 255).all()
    assert (pixels[:, :3] == 0x7F).all() and (pixels[6:] == 0x7F).all()


def test_squares_stay_square_in_whole_pixels() -> None:
    for x in np.linspace(0, 1, 23):
        left, top, right, bottom = Box.around(100 + float(x), 50.25, 33.37).to_pixels()
        assert right - left == bottom - top == 67


def test_points_in_one_place_are_refused() -> None:
    with pytest.raises(BadPhoto, match="one place"):
        face_polygon(face_with(points_5_2=np.full((5, 2), 7.0)))
    with pytest.raises(BadPhoto, match="one place"):
        landmark_box(face_with(np.zeros((106, 2))))
    with pytest.raises(BadPhoto, match="finite"):
        landmark_box(face_with(np.full((106, 2), np.nan)))


def test_moving_and_overlap() -> None:
    # Given a face with a box from 0 to 10
    face = face_with(np.ones((106, 2)))
    moved = face.moved(5, 0)
    # Then 50 of 150 square pixels are shared after a shift by half
    assert face.overlap(moved) == pytest.approx(50 / 150)
    assert face.overlap(face) == pytest.approx(1.0)
    assert face.overlap(face.moved(20, 0)) == 0.0
    np.testing.assert_allclose(moved.points_5_2 - face.points_5_2, [[5, 0]] * 5)
    assert moved.points_106_2 is not None and moved.points_106_2[0].tolist() == [6, 1]


def test_transform_points_by_hand() -> None:
    matrix = np.array([[0.0, -2.0, 1.0], [2.0, 0.0, 3.0]])
    np.testing.assert_allclose(transform_points(matrix, np.array([[4.0, 5.0]])), [[1 - 10, 8 + 3]])
