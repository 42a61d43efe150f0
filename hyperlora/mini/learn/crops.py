"""Cuts of drawn portraits, worn as photos and generated pictures are: what the face networks are trained on.

Shapes: H x W pixels, S a square's side, N = 106 landmarks, pictures RGB uint8, points (x, y) in pixels.

Every random draw comes from the numpy generator that is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hyperlora.faces.align import ALIGNED_POINTS_5_2, ALIGNED_SIDE, similarity_transform
from hyperlora.faces.types import FloatArray, RGBArray

# Left eye, right eye, tip of the nose, left and right corner of the mouth among the 106 points.
FIVE = (38, 88, 86, 52, 61)
# The same five in a mirrored picture.
MIRRORED_FIVE = (1, 0, 2, 4, 3)
# The landmarks end at the brows; a detector's box takes in half the forehead, this part of the landmarks' height more.
FOREHEAD = 0.25
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Wear:
    """How often (0 to 1) and how much a picture is worn; light in parts, the blur in pixels of a picture of 112."""

    light: float = 0.25
    tint: float = 0.06
    blurred: float = 0.4
    radius: float = 1.6
    noisy: float = 0.3
    noise: float = 7.0
    packed: float = 0.2


def five_points(points_N2: FloatArray) -> FloatArray:
    """(5, 2) of the (106, 2) landmarks."""
    return points_N2[list(FIVE)]


def face_box(points_N2: FloatArray) -> FloatArray:
    """(4,) left, top, right, bottom of the face: the box of its landmarks with half the forehead."""
    low_2, high_2 = points_N2.min(axis=0), points_N2.max(axis=0)
    top = low_2[1] - FOREHEAD * (high_2[1] - low_2[1])
    return np.array([low_2[0], top, high_2[0], high_2[1]], dtype=np.float32)


def warped(rgb_HW3: RGBArray, matrix_23: Matrix, side: int, outside: RGBArray | None = None) -> RGBArray:
    """(S, S, 3): the picture carried through the matrix; `outside` is seen where it ends, else black.

    A picture that is shrunk is blurred first, so that its fine lines do not turn into dots.
    """
    scale = float(np.hypot(matrix_23[0, 0], matrix_23[1, 0]))
    if scale < 0.7:
        rgb_HW3 = np.asarray(cv2.GaussianBlur(rgb_HW3, (0, 0), 0.42 / scale), dtype=np.uint8)
    if outside is None:
        return np.asarray(cv2.warpAffine(rgb_HW3, matrix_23, (side, side), flags=cv2.INTER_LINEAR), dtype=np.uint8)
    canvas = outside.copy()
    cv2.warpAffine(
        rgb_HW3, matrix_23, (side, side), dst=canvas, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
    )
    return canvas


def placed(
    centre_2: npt.NDArray[np.floating], scale: float, angle: float, to_2: FloatArray, mirrored: bool = False
) -> Matrix:
    """(2, 3) matrix that scales, turns by `angle` (radians) and carries one point to another."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    turn_22 = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return np.column_stack([turn_22, np.asarray(to_2, np.float64) - turn_22 @ np.asarray(centre_2, np.float64)])


def carried(matrix_23: Matrix, points_P2: FloatArray) -> FloatArray:
    """(P, 2) points through the matrix."""
    return (points_P2 @ matrix_23[:, :2].T + matrix_23[:, 2]).astype(np.float32)


def aligned(rgb_HW3: RGBArray, five_52: FloatArray, dice: np.random.Generator | None = None) -> RGBArray:
    """(112, 112, 3) as recognisers get it; with dice the points are a little off, as a detector's are."""
    if dice is not None:
        eyes = float(np.hypot(*(five_52[1] - five_52[0])))
        shared_12 = dice.normal(0, 0.02 * eyes, (1, 2))
        five_52 = (five_52 + shared_12 + dice.normal(0, 0.05 * eyes, (5, 2))).astype(np.float32)
    matrix_23 = similarity_transform(five_52, ALIGNED_POINTS_5_2)
    crop = cv2.warpAffine(rgb_HW3, matrix_23, (ALIGNED_SIDE, ALIGNED_SIDE), flags=cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(crop, dtype=np.uint8)


def shrunk(rgb_HW3: RGBArray, side: int) -> RGBArray:
    """(side, side, 3) by the mean over areas."""
    if rgb_HW3.shape[0] == side:
        return rgb_HW3
    return np.asarray(cv2.resize(rgb_HW3, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def worn(rgb_SS3: RGBArray, dice: np.random.Generator, wear: Wear | None = None) -> RGBArray:
    """The picture in another light, tinted, blurred, noisy, packed as JPEG: each with its own chance."""
    wear = wear or Wear()
    light, contrast = 1 + dice.uniform(-wear.light, wear.light, 2)
    gains_3 = light * (1 + dice.uniform(-wear.tint, wear.tint, 3))
    # One linear map for brightness, contrast about the middle grey, and tint.
    values_HW3 = rgb_SS3.astype(np.float32) * (gains_3 * contrast).astype(np.float32)
    values_HW3 += np.float32(127.5 * (1 - contrast))
    if dice.random() < wear.blurred:
        sigma = dice.uniform(0.2, wear.radius) * len(rgb_SS3) / ALIGNED_SIDE
        values_HW3 = np.asarray(cv2.GaussianBlur(values_HW3, (0, 0), sigma), dtype=np.float32)
    if dice.random() < wear.noisy:
        values_HW3 = values_HW3 + dice.standard_normal(values_HW3.shape, np.float32) * np.float32(
            dice.uniform(1, wear.noise)
        )
    made: RGBArray = np.clip(np.rint(values_HW3), 0, 255).astype(np.uint8)
    if dice.random() < wear.packed:
        quality = int(dice.integers(45, 95))
        _, packed = cv2.imencode(".jpg", made, [cv2.IMWRITE_JPEG_QUALITY, quality])
        made = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)
    return made
