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


def aligned_crop(
    rgb_HW3: RGBArray, points_5_2: FloatArray, side: int = ALIGNED_SIDE, *, smooth: bool = False
) -> RGBArray:
    """(side, side, 3) crop with the five points on their fixed places; black where the photo ends.

    Parameters
    ----------
    rgb_HW3, points_5_2
        A photo and the five points of a face in it.
    side
        Pixels. A multiple of 128 but not of 112 keeps a margin of 8/128 left and right, as the recognisers of that
        size were trained.
    smooth
        Shrink large faces by whole areas first. A plain warp reads only four pixels for each of its own, so the noise
        of a 12 megapixel photo comes through in full. InsightFace warps plainly, so its recognisers get it plainly.

    Raises
    ------
    BadPhoto
        The points all lie in one place.
    """
    if side % 112 != 0 and side % 128 == 0:
        places_5_2 = ALIGNED_POINTS_5_2 * (side / 128.0)
        places_5_2[:, 0] += 8.0 * side / 128.0
    else:
        places_5_2 = ALIGNED_POINTS_5_2 * (side / 112.0)
    matrix_23 = similarity_transform(points_5_2, places_5_2)
    if smooth:
        rgb_HW3, matrix_23 = _shrunk(rgb_HW3, matrix_23, side)
    crop = cv2.warpAffine(rgb_HW3, matrix_23, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(crop, dtype=np.uint8)


def _shrunk(
    rgb_HW3: RGBArray, matrix_23: npt.NDArray[np.float64], side: int
) -> tuple[RGBArray, npt.NDArray[np.float64]]:
    """The part of the photo that the square will show, shrunk by a whole factor, and the matrix from there."""
    factor = int(1.0 / float(np.hypot(matrix_23[0, 0], matrix_23[1, 0])))
    if factor < 2:
        return rgb_HW3, matrix_23
    corners_42 = np.array([[0, 0], [side, 0], [0, side], [side, side]], dtype=np.float64)
    seen_42 = (corners_42 - matrix_23[:, 2]) @ np.linalg.inv(matrix_23[:, :2]).T
    # Two shrunk pixels more on every side, lest the warp blend its black border into the square's edge.
    low_2 = np.maximum(np.floor(seen_42.min(axis=0)).astype(int) - 2 * factor, 0)
    high_2 = np.ceil(seen_42.max(axis=0)).astype(int) + 1 + 2 * factor
    high_2 = np.minimum(high_2, [rgb_HW3.shape[1], rgb_HW3.shape[0]])
    # Whole blocks only, so that every shrunk pixel stands for factor x factor pixels of the photo.
    blocks_2 = (high_2 - low_2) // factor
    if int(blocks_2.min()) < 1:
        return rgb_HW3, matrix_23
    left, top = (int(value) for value in low_2)
    columns, rows = (int(value) for value in blocks_2)
    part = rgb_HW3[top : top + rows * factor, left : left + columns * factor]
    small = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    # The centre of shrunk pixel i lies at left + i * factor + (factor - 1) / 2 of the photo.
    middle_2 = low_2 + (factor - 1) / 2.0
    turn_22 = matrix_23[:, :2]
    matrix_23 = np.column_stack([turn_22 * factor, turn_22 @ middle_2 + matrix_23[:, 2]])
    return np.asarray(small, dtype=np.uint8), matrix_23
