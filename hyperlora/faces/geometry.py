"""The lines drawn around a face: polygon, window, landmark box.

With 106 landmarks the polygon walks along jaw and brows in InsightFace's numbering. An analyzer that gives five points
only has no such landmarks; there the outline of a mean face is laid upon the five points:

    unit        the distance d between the pupils
    jaw         half an ellipse about the middle of the eyes, 1.10 d to each side and 1.90 d down to the chin
                (rounded proportions of adult faces, checked on photographs)
    brows       from 0.95 d at the outer ends to 0.20 d at the inner ones, 0.30 d to 0.48 d above the pupils
    placing     the similarity transform that carries the mean eyes, nose and mouth corners (those to which
                recognisers align faces) best onto the five points

The outline has as many vertices as the polygon of 106 points, in the same order, so all that follows is one code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperlora.errors import BadPhoto
from hyperlora.faces.align import ALIGNED_POINTS_5_2, similarity_transform, transform_points
from hyperlora.faces.types import Face, FloatArray

# Left temple down to the chin, up to the right temple, then along the upper edge of both brows back to the left.
POLYGON_ORDER: tuple[int, ...] = (
    1,
    *range(9, 17),
    *range(2, 9),
    0,
    *range(24, 17, -1),
    *range(32, 24, -1),
    17,
    *(101, 105, 104, 103, 102),
    *(50, 51, 49, 48, 43),
)
JAW_VERTICES = 33
WINDOW_FACTOR = 0.8
BOX_FACTOR = 0.75
BOX_RISE = 0.125


class Box(NamedTuple):
    """A rectangle in pixels; it may leave the picture."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, half: float) -> Box:
        """The square with its centre at (x, y)."""
        return cls(x - half, y - half, x + half, y + half)

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def to_pixels(self) -> tuple[int, int, int, int]:
        """The nearest whole pixels (left, top, right, bottom), at least one wide and high; squares stay square."""
        left, top = round(self.left), round(self.top)
        return left, top, left + max(1, round(self.width)), top + max(1, round(self.height))


def face_polygon(face: Face) -> FloatArray:
    """(43, 2) outline of the face: jaw and brows, from the 106 landmarks or else laid upon the five points.

    Raises
    ------
    BadPhoto
        The face's points are not finite or lie in one place.
    """
    if face.points_106_2 is not None:
        return _finite(face.points_106_2)[list(POLYGON_ORDER)]
    points_5_2 = _finite(face.points_5_2)
    if float(np.ptp(points_5_2, axis=0).max()) <= 1e-3:
        raise BadPhoto("the points of the face all lie in one place; the detection cannot be used")
    matrix_23 = similarity_transform(_MEAN_POINTS_5_2, points_5_2)
    return transform_points(matrix_23, MEAN_OUTLINE_43_2)


def scale_polygon(polygon_V2: FloatArray, factor: float) -> FloatArray:
    """The polygon blown up about the mean of its vertices."""
    mean_2 = polygon_V2.mean(axis=0)
    scaled_V2: FloatArray = (mean_2 + (polygon_V2 - mean_2) * np.float32(factor)).astype(np.float32)
    return scaled_V2


def polygon_window(polygon_V2: FloatArray) -> Box:
    """The square about the mean of the vertices with half a side of 0.8 times the polygon's longer extent."""
    x, y = polygon_V2.mean(axis=0)
    extent_2 = polygon_V2.max(axis=0) - polygon_V2.min(axis=0)
    return Box.around(float(x), float(y), WINDOW_FACTOR * float(extent_2.max()))


def landmark_box(face: Face, sides: float = 1.0) -> Box:
    """The square around all landmarks that the networks are shown.

    Parameters
    ----------
    face
        A face; without 106 landmarks the outline laid upon its five points bounds it.
    sides
        Half a side in units of L = 0.75 * max(width, height) of the landmarks' bounds. The centre is that of the
        bounds, moved up by 0.125 L.

    Raises
    ------
    BadPhoto
        The face's points are not finite or lie in one place.
    """
    points_N2 = _finite(face.points_106_2) if face.points_106_2 is not None else face_polygon(face)
    low_2, high_2 = points_N2.min(axis=0), points_N2.max(axis=0)
    half = BOX_FACTOR * float((high_2 - low_2).max())
    if half <= 0:
        raise BadPhoto("the face's landmarks all lie in one place; the detection cannot be used")
    x, y = (low_2 + high_2) / 2
    return Box.around(float(x), float(y) - BOX_RISE * half, half * sides)


def _finite(points_N2: FloatArray) -> FloatArray:
    if not np.isfinite(points_N2).all():
        raise BadPhoto("the face's landmarks are not finite numbers; the detection cannot be used")
    return points_N2


def _mean_outline() -> FloatArray:
    """(43, 2) in units of the pupils' distance, origin in the middle of the eyes."""
    # Angles run from the left temple (pi) by the chin (pi / 2, as y points down) to the right temple (0).
    angle_J = np.linspace(np.pi, 0.0, JAW_VERTICES)
    jaw_J2 = np.column_stack([1.10 * np.cos(angle_J), 1.90 * np.sin(angle_J)])
    right_brow_52 = np.array([[0.95, -0.30], [0.78, -0.42], [0.58, -0.48], [0.38, -0.47], [0.20, -0.42]])
    left_brow_52 = right_brow_52[::-1] * np.array([-1.0, 1.0])
    return np.concatenate([jaw_J2, right_brow_52, left_brow_52]).astype(np.float32)


def _mean_points() -> npt.NDArray[np.float64]:
    """(5, 2) eyes, nose, mouth corners in the same units: the recognisers' fixed places, made symmetric."""
    points_52 = ALIGNED_POINTS_5_2.astype(np.float64)
    mirrored_52 = points_52[[1, 0, 2, 4, 3]] * np.array([-1.0, 1.0])
    points_52[:, 0] -= points_52[:2, 0].mean()
    mirrored_52[:, 0] -= mirrored_52[:2, 0].mean()
    points_52 = (points_52 + mirrored_52) / 2
    points_52[:, 1] -= points_52[:2, 1].mean()
    mean_52: npt.NDArray[np.float64] = points_52 / (points_52[1, 0] - points_52[0, 0])
    return mean_52


MEAN_OUTLINE_43_2 = _mean_outline()
_MEAN_POINTS_5_2 = _mean_points()
