"""Key-point pictures: what InstantID's ControlNet is conditioned on, drawn from a reference face.

Five points on black: each eye and mouth corner is joined to the nose by a limb in its own colour, dimmed, and marked
by a disc. The network was trained on pictures whose longer side is about 1024 pixels, limbs 4 and discs 10 pixels in
radius; smaller pictures are drawn in proportion. (Colours and sizes as in InstantID's published conditioning.)
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from hyperlora.errors import NoFaceFound
from hyperlora.faces.find import find_faces
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.types import FaceAnalyzer, FloatArray

# Left eye, right eye, nose, left and right mouth corner (left and right of the picture).
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
LIMB_RADIUS, DISC_RADIUS, TRAINED_SIDE = 4.0, 10.0, 1024.0
DIMMED = 0.6


def keypoint_picture(points_5_2: FloatArray, size: tuple[int, int]) -> Image.Image:
    """The picture of `size` (width, height) pixels for five points (x, y) in its own coordinates."""
    unit = max(size) / TRAINED_SIDE
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


def keypoints_for(analyzer: FaceAnalyzer, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The key points of a photo's clearest face, as it stands in the photo when that is fitted to `size`.

    The photo is cut to the picture's shape so that the face's box stays inside, as near to the middle of the photo as
    that allows.

    Raises
    ------
    NoFaceFound
        The photo shows no face.
    BadPhoto
        The photo is not a picture that can be looked at.
    """
    upright = upright_rgb(photo).image
    faces = find_faces(analyzer, np.asarray(upright, dtype=np.uint8))
    if not faces:
        raise NoFaceFound(
            f"no face found in a photo of {upright.width} x {upright.height} pixels, so no key points can be drawn; "
            "use a photo that shows the face from the front"
        )
    face = faces[0]
    scale = max(size[0] / upright.width, size[1] / upright.height)
    left = _offset(upright.width, size[0] / scale, float(face.box_xyxy[0]), float(face.box_xyxy[2]))
    top = _offset(upright.height, size[1] / scale, float(face.box_xyxy[1]), float(face.box_xyxy[3]))
    placed_5_2 = (face.points_5_2 - np.array([left, top], dtype=np.float32)) * np.float32(scale)
    return keypoint_picture(placed_5_2.astype(np.float32), size)


def _offset(whole: float, kept: float, low: float, high: float) -> float:
    """Where to cut `kept` of `whole` pixels: centred, but moved so that low to high stays inside."""
    fits = high - low <= kept
    start = min(max((whole - kept) / 2, high - kept), low) if fits else (low + high - kept) / 2
    return min(max(start, 0.0), whole - kept)
