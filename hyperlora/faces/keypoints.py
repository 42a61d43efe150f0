"""Key-point pictures: what InstantID's ControlNet is conditioned on, drawn from a reference face.

Five points on black: each eye and mouth corner is joined to the nose by a limb in its own colour, dimmed, and marked
by a disc. Limbs are thin ellipses with a short half axis of 4 pixels, discs have a radius of 10. InstantID's published
conditioning has these colours and sizes, the same for every size from about 1024 pixels on; in smaller pictures they
shrink in proportion.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from hyperlora.errors import InvalidRequest
from hyperlora.faces.choice import FaceChoice, choose_face
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import SURE_SCORE, embed_closely, upright_search
from hyperlora.faces.types import FaceAnalyzer, FloatArray

# Left eye, right eye, nose, left and right mouth corner (left and right of the picture).
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
LIMB_RADIUS, DISC_RADIUS, TRAINED_SIDE = 4.0, 10.0, 1024.0
DIMMED = 0.6


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
    points = [(float(x), float(y)) for x, y in points_5_2]
    picture = Image.new("RGB", size)
    pen = ImageDraw.Draw(picture)
    for number, (x, y) in enumerate(points):
        if number != NOSE:
            colour = tuple(round(DIMMED * channel) for channel in COLOURS[number])
            pen.polygon(_ellipse((x, y), points[NOSE], LIMB_RADIUS * unit), fill=colour)
    radius = max(0.5, DISC_RADIUS * unit)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return picture


def _ellipse(a: tuple[float, float], b: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """The outline of the ellipse that has the way from a to b as its long axis and is `radius` thin."""
    along_2 = (np.array(b) - np.array(a)) / 2
    length = float(np.linalg.norm(along_2)) or 1.0
    across_2 = np.array([-along_2[1], along_2[0]]) / length * max(0.5, radius)
    middle_2 = (np.array(a) + np.array(b)) / 2
    angle_A = np.linspace(0, 2 * np.pi, 73)
    outline_A2 = middle_2 + np.cos(angle_A)[:, None] * along_2 + np.sin(angle_A)[:, None] * across_2
    return [(float(x), float(y)) for x, y in outline_A2]


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
