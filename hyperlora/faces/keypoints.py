"""Key-point pictures: what InstantID's ControlNet is conditioned on, drawn from a reference face.

Five points on black: each eye and mouth corner is joined to the nose by a limb in its own colour, dimmed, and marked
by a disc. Limbs are thin ellipses with a short half axis of 4 pixels, discs have a radius of 10. InstantID's published
conditioning has these colours and sizes, the same for every size from about 1024 pixels on; in smaller pictures they
shrink in proportion.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.errors import InvalidRequest
from hyperlora.faces.choice import FaceChoice, choose_face
from hyperlora.faces.closer import SURE_SCORE, embed_closely
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import upright_search
from hyperlora.faces.types import FaceAnalyzer, FloatArray, RGBArray

# Left eye, right eye, nose, left and right mouth corner (left and right of the picture).
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
# Four pixels to either side of the middle one: outlines that are filled the usual way contain their edge.
LIMB_RADIUS, DISC_RADIUS, TRAINED_SIDE = 4.5, 10.0, 1024.0
DIMMED = 0.6
# What is thinner falls between the pixels.
THINNEST = 1.0


def keypoint_picture(points_5_2: FloatArray, size: tuple[int, int]) -> Image.Image:
    """The picture of `size` (width, height) pixels for five points (x, y) in its own coordinates.

    Raises
    ------
    InvalidRequest
        Not five points, or points that are not finite numbers.
    """
    if np.shape(points_5_2) != (5, 2) or not np.isfinite(points_5_2).all():
        raise InvalidRequest(
            f"a key-point picture needs five finite points (x, y), found shape {np.shape(points_5_2)}: {points_5_2}"
        )
    unit = min(1.0, max(size) / TRAINED_SIDE)
    width, height = size
    x_1W, y_H1 = np.arange(width)[None, :].astype(np.float64), np.arange(height)[:, None].astype(np.float64)
    points_52 = np.asarray(points_5_2, dtype=np.float64)
    pixels_HW3: RGBArray = np.zeros((height, width, 3), dtype=np.uint8)
    for point_2, colour in zip(points_52, COLOURS, strict=True):
        limb_HW = _in_limb(x_1W, y_H1, point_2, points_52[NOSE], max(THINNEST, LIMB_RADIUS * unit))
        pixels_HW3[limb_HW] = [round(DIMMED * channel) for channel in colour]
    radius = max(THINNEST, DISC_RADIUS * unit)
    for (x, y), colour in zip(points_52, COLOURS, strict=True):
        pixels_HW3[(x_1W - x) ** 2 + (y_H1 - y) ** 2 <= radius**2] = colour
    return Image.fromarray(pixels_HW3)


def _in_limb(
    x_1W: npt.NDArray[np.float64],
    y_H1: npt.NDArray[np.float64],
    from_2: npt.NDArray[np.float64],
    to_2: npt.NDArray[np.float64],
    radius: float,
) -> npt.NDArray[np.bool_]:
    """(H, W) pixels of the ellipse whose long axis is the way between two points, and whose short half axis `radius`.

    None for two points in one place, such as the nose and itself.
    """
    half_2 = (to_2 - from_2) / 2
    length = float(np.hypot(*half_2))
    if length == 0:
        return np.zeros((y_H1.shape[0], x_1W.shape[1]), dtype=np.bool_)
    x_1W, y_H1 = x_1W - (from_2[0] + to_2[0]) / 2, y_H1 - (from_2[1] + to_2[1]) / 2
    along_HW = (x_1W * half_2[0] + y_H1 * half_2[1]) / length
    across_HW = (y_H1 * half_2[0] - x_1W * half_2[1]) / length
    inside_HW: npt.NDArray[np.bool_] = (along_HW / length) ** 2 + (across_HW / radius) ** 2 <= 1.0
    return inside_HW


def keypoints_for(
    analyzer: FaceAnalyzer, photo: Image.Image, size: tuple[int, int], *, face: FaceChoice = "clearest"
) -> Image.Image:
    """The key points of a face of the photo, as it stands in the upright photo when that is fitted to `size`.

    The photo is cut to the picture's shape as near to its middle as the face allows, whose box always stays whole: for
    a face that fills a photo of another shape more is taken than the photo holds.

    Parameters
    ----------
    analyzer
        Finds faces.
    photo
        An opened picture file; it is turned upright as `prepare_photo` does.
    size
        Width and height of the conditioning picture in pixels.
    face
        Which face is meant, see `prepare_photo`.

    Raises
    ------
    NoFaceFound
        The photo shows no face, or a closer look did not confirm it.
    BadPhoto
        The photo is not a picture that can be looked at, or has no face of that number.
    InvalidRequest
        `face` is none of the words and no number from 0 on.
    """
    upright, search, _turn = upright_search(analyzer, upright_rgb(photo).image)
    chosen = choose_face(search.faces, face, upright.size)
    if chosen.score < SURE_SCORE:
        embed_closely(analyzer, upright, chosen)
    scale = max(size[0] / upright.width, size[1] / upright.height)
    scale = min(scale, size[0] / chosen.width, size[1] / chosen.height)
    low_x, low_y, high_x, high_y = (float(value) for value in chosen.box_xyxy)
    corner = (
        _offset(upright.width, size[0] / scale, low_x, high_x),
        _offset(upright.height, size[1] / scale, low_y, high_y),
    )
    placed_5_2 = (chosen.points_5_2 - np.array(corner, dtype=np.float32)) * np.float32(scale)
    return keypoint_picture(placed_5_2.astype(np.float32), size)


def _offset(whole: float, kept: float, low: float, high: float) -> float:
    """Where to cut `kept` of `whole` pixels: centred, but moved so that low to high, which fit, stay inside."""
    return min(max((whole - kept) / 2, high - kept), low)
