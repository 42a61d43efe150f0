"""The aligned square crop that face recognisers read.

The five points of a face are laid upon five fixed places by a similarity transform (shift, turn, one scale; no
mirror), least squares after Umeyama, "Least-squares estimation of transformation parameters between two point
patterns", 1991. The places are those of the ArcFace family for a 112 px square; SFace uses the same ones.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hyperlora.errors import BadPhoto
from hyperlora.faces.types import FloatArray, RGBArray

ALIGNED_POINTS_5_2: FloatArray = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
ALIGNED_SIDE = 112


def similarity_transform(from_N2: npt.NDArray[np.floating], to_N2: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(2, 3) matrix of the similarity that carries one set of points best onto the other.

    Raises
    ------
    BadPhoto
        The first points all lie in one place, so no scale can be found.
    """
    source_N2 = np.asarray(from_N2, dtype=np.float64)
    target_N2 = np.asarray(to_N2, dtype=np.float64)
    source_mean_2, target_mean_2 = source_N2.mean(axis=0), target_N2.mean(axis=0)
    source_N2, target_N2 = source_N2 - source_mean_2, target_N2 - target_mean_2
    spread = float((source_N2**2).sum())
    if not np.isfinite(spread) or spread <= 1e-9:
        raise BadPhoto("the points of the face all lie in one place; the detection cannot be used")
    # In the plane a similarity is a complex number: z -> c z + d, and least squares gives c in closed form.
    along = float((source_N2 * target_N2).sum()) / spread
    across = float((source_N2[:, 0] * target_N2[:, 1] - source_N2[:, 1] * target_N2[:, 0]).sum()) / spread
    turn_22 = np.array([[along, -across], [across, along]])
    return np.column_stack([turn_22, target_mean_2 - turn_22 @ source_mean_2])


def transform_points(matrix_23: npt.NDArray[np.float64], points_N2: npt.NDArray[np.floating]) -> FloatArray:
    """(N, 2) points carried through a (2, 3) matrix."""
    points = np.asarray(points_N2, dtype=np.float64) @ matrix_23[:, :2].T + matrix_23[:, 2]
    return points.astype(np.float32)


def aligned_crop(rgb_HW3: RGBArray, points_5_2: FloatArray, side: int = ALIGNED_SIDE) -> RGBArray:
    """(side, side, 3) crop with the five points on their fixed places; black where the photo ends.

    A side that is a multiple of 128 but not of 112 keeps a margin of 8/128 left and right, as the recognisers of that
    size were trained.
    """
    if side % 112 != 0 and side % 128 == 0:
        places_5_2 = ALIGNED_POINTS_5_2 * (side / 128.0)
        places_5_2[:, 0] += 8.0 * side / 128.0
    else:
        places_5_2 = ALIGNED_POINTS_5_2 * (side / 112.0)
    matrix_23 = similarity_transform(points_5_2, places_5_2)
    crop = cv2.warpAffine(rgb_HW3, matrix_23, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(crop, dtype=np.uint8)
