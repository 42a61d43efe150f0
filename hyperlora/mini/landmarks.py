"""The 106 points of a drawn face, in the order of InsightFace's `2d106det`.

Contour 0-32 (0 the chin; 1, 9-16, 2-8 down the left side; 17, 25-32, 18-24 down the right), left eye 33-42, left brow
43-51, mouth 52-71, nose 72-86, right eye 87-96, right brow 97-105. Left is the viewer's left.
"""

from __future__ import annotations

import numpy as np

from hyperlora.mini.anatomy import Anatomy, Eye
from hyperlora.mini.curves import Points, points, resample
from hyperlora.mini.pose import Pose, outline_depth, surface

LEFT_SIDE = (1, 9, 10, 11, 12, 13, 14, 15, 16, 2, 3, 4, 5, 6, 7, 8)  # temple to chin
RIGHT_SIDE = (17, 25, 26, 27, 28, 29, 30, 31, 32, 18, 19, 20, 21, 22, 23, 24)
POLYGON = (*LEFT_SIDE, 0, *RIGHT_SIDE[::-1], 101, 105, 104, 103, 102, 50, 51, 49, 48, 43)


def landmarks(face: Anatomy, pose: Pose) -> Points:
    """(106, 2) in picture pixels."""
    flat = np.zeros((106, 2))
    depth = np.full(106, np.nan)
    flat[list(LEFT_SIDE)] = face.contour[:16]
    flat[0] = face.contour[16]
    flat[list(RIGHT_SIDE)] = face.contour[:16:-1]
    depth[:33] = outline_depth(flat[:33])
    # eyes: corners, upper lid, lower lid, pupil twice
    _eye(flat, face.left_eye, first=35, last=39, upper=(41, 40, 42), lower=(36, 33, 37), pupil=(34, 38))
    _eye(flat, face.right_eye, first=89, last=93, upper=(95, 94, 96), lower=(90, 87, 91), pupil=(88, 92))
    # brows: the outer end, upper edge and lower edge towards the nose
    for outer, upper, lower, brow in (
        (43, (48, 49, 51, 50), (44, 45, 47, 46), face.left_brow),
        (101, (105, 104, 103, 102), (100, 99, 98, 97), face.right_brow),
    ):
        flat[outer] = (brow[0][0] + brow[1][0]) / 2
        flat[list(upper)] = resample(brow[0], 5)[1:]
        flat[list(lower)] = resample(brow[1], 5)[1:]
    mouth = face.mouth
    flat[[52, 64, 63, 71, 67, 68, 61]] = resample(mouth.upper_outer, 7)
    flat[[55, 56, 53, 59, 58]] = resample(mouth.lower_outer, 7)[1:-1]
    flat[[65, 66, 62, 70, 69]] = resample(mouth.upper_inner, 7)[1:-1]
    flat[[54, 60, 57]] = resample(mouth.lower_inner, 5)[1:-1]
    _nose(flat, depth, face)
    depth = np.where(np.isnan(depth), surface(flat), depth)
    return pose.head(flat, depth)


def _eye(
    flat: Points,
    eye: Eye,
    *,
    first: int,
    last: int,
    upper: tuple[int, ...],
    lower: tuple[int, ...],
    pupil: tuple[int, int],
) -> None:
    flat[[first, *upper, last]] = resample(eye.upper, 5)
    flat[list(lower)] = resample(eye.lower, 5)[1:-1]
    flat[list(pupil)] = eye.centre


def _nose(flat: Points, depth: Points, face: Anatomy) -> None:
    x, y = face.nose_tip
    half = face.nose_half
    flat[[72, 73, 74, 86]] = np.linspace([0, -0.02], [x, y], 4)
    depth[[72, 73, 74, 86]] = [0.63, 0.70, 0.78, 0.86]
    side = points(
        (0.10, 0.03), (0.55 * half, y - 0.06), (half, y + 0.03), (0.62 * half, y + 0.085), (0.3 * half, y + 0.10)
    )
    flat[[81, 82, 83, 84, 85]] = side
    flat[[75, 76, 77, 78, 79]] = side * np.array([-1.0, 1.0])
    flat[80] = (0.0, y + 0.105)
    depth[[75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85]] = [
        0.56,
        0.66,
        0.6,
        0.66,
        0.68,
        0.70,
        0.56,
        0.66,
        0.6,
        0.66,
        0.68,
    ]
