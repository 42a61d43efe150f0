"""The square that a photo is trained as, and the face in its new place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from hyperlora.faces.types import Face, FloatArray

MOST_ROOM = 6.0
"""Side of the square in units of the face's longer side, at most: smaller faces teach nothing of a person."""

FACE_HEIGHT = 0.42
"""Where the middle of the face would stand, from the top, if the photo allowed it."""

Square = tuple[int, int, int]
"""Left, top and side in whole pixels of the photo; it lies inside the photo."""


def training_square(size: tuple[int, int], face: Face, least: int) -> Square:
    """The largest square of the photo, but at most six faces wide where that leaves `least` pixels.

    `size` is the photo's width and height. The face stands in the middle, a little above half the height, as far as
    the photo's edges allow it.
    """
    width, height = size
    side = min(width, height, max(least, round(MOST_ROOM * max(face.width, face.height))))
    x, y = _middle(face)
    left = min(max(round(x - side / 2), 0), width - side)
    top = min(max(round(y - FACE_HEIGHT * side), 0), height - side)
    return left, top, side


def holds(square: Square, face: Face, size: tuple[int, int]) -> bool:
    """Whether all of the face that the photo shows lies in the square."""
    left, top, side = square
    box = np.clip(face.box_xyxy, 0, [size[0], size[1], size[0], size[1]])
    return bool(box[0] >= left and box[1] >= top and box[2] <= left + side and box[3] <= top + side)


def stands_in(square: Square, face: Face) -> bool:
    """Whether the middle of a face lies in the square."""
    left, top, side = square
    x, y = _middle(face)
    return left <= x < left + side and top <= y < top + side


def cut(photo: Image.Image, square: Square, size: int) -> Image.Image:
    """The square, resized to `size` pixels a side."""
    left, top, side = square
    box = (left, top, left + side, top + side)
    if side == size:
        return photo.crop(box)
    return photo.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def face_in_cut(face: Face, square: Square, size: int) -> Face:
    """The face in pixels of the cut picture; the middle of a pixel stays the middle of what becomes of it."""
    left, top, side = square
    scale = size / side

    def moved(points_N2: FloatArray) -> FloatArray:
        corner_2 = np.array([left, top], dtype=np.float64)
        return ((points_N2 + 0.5 - corner_2) * scale - 0.5).astype(np.float32)

    return replace(
        face,
        box_xyxy=moved(face.box_xyxy.reshape(2, 2)).reshape(4),
        points_5_2=moved(face.points_5_2),
        points_106_2=None if face.points_106_2 is None else moved(face.points_106_2),
    )


def _middle(face: Face) -> tuple[float, float]:
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    return (left + right) / 2, (top + bottom) / 2
