"""The detail pass: a small face is cut out with its surroundings, drawn again at full size, and blended back.

SDXL draws a face well when it has some two hundred pixels; smaller ones come out smeared. The same LoRA draws the
square around the face at 896 pixels from what is there (strength 0.5, ten steps), and only the face itself is laid over
the picture, its edge feathered, so that there is no seam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hyperlora.errors import InvalidRequest
from hyperlora.faces.geometry import face_polygon, scale_polygon
from hyperlora.faces.types import Face

# 896 of 1024 pixels: room for the batch that the whole pictures had, at a size the model knows.
SIDE_SHARE = 0.875
# A detector's box ends at brow and chin; what is laid over the picture reaches a little beyond.
BOX_GROWTH = 1.25
# Below this share of the model's size (16 of 1024 pixels) a finding is a pattern as often as a face.
LEAST_SHARE = 1 / 64
# For redrawing only the face: the polygon from brow to chin, with some skin around it to blend into.
POLYGON_GROWTH = 1.3
# Pixels; in a smaller patch there is no room for an edge that fades.
SMALLEST_PATCH = 16
# Radius of the corners of what is laid over, in shorter sides of the grown box; the detector's box stays inside.
CORNER_SHARE = 0.25
# The normal distribution function, from which soft edges are read.
_DEVIATIONS = np.linspace(-4.0, 4.0, 801)
_NORMAL = np.array([0.5 * (1.0 + math.erf(float(value) / math.sqrt(2.0))) for value in _DEVIATIONS])


@dataclass(frozen=True)
class DetailPass:
    """How small faces are drawn again.

    Parameters
    ----------
    side
        Pixels of the square that is drawn; None takes 0.875 of the model's size, 896 for a model of 1024.
    strength, steps
        The share of the schedule that is walked, and the steps really walked in it.
    below
        A face is small when the shorter side of its box is under this share of the model's size (and not under a 64th,
        where a pattern is found as often as a face).
    scale
        Sides of the face's box that are cut out around it.
    feather
        Radius in pixels of the picture by which the edge of what is laid over is softened.
    max_faces
        At most so many faces of a picture are drawn again.
    """

    side: int | None = None
    strength: float = 0.5
    steps: int = 10
    below: float = 0.2
    scale: float = 2.0
    feather: float = 5.0
    max_faces: int = 4

    def __post_init__(self) -> None:
        drawable = 0 < self.strength <= 1 and self.steps >= 1 and self.below > 0 and self.max_faces >= 1
        shaped = BOX_GROWTH < self.scale < math.inf and 0 <= self.feather < math.inf
        sized = self.side is None or (self.side > 0 and self.side % 8 == 0)
        if not (drawable and shaped and sized):
            raise InvalidRequest(
                "a detail pass needs 0 < strength <= 1, steps >= 1, below > 0, max_faces >= 1, "
                f"scale > {BOX_GROWTH}, feather >= 0, and a side that is a multiple of 8 or None; found {self}"
            )

    @property
    def schedule_steps(self) -> int:
        """Steps n of the whole schedule, of which the last int(n * strength) = `steps` are walked."""
        steps = math.ceil(self.steps / self.strength)
        # The division may end a hair below a whole number.
        return steps if int(steps * self.strength) >= self.steps else steps + 1

    def side_for(self, model_size: int) -> int:
        """Pixels of the square that is drawn by a model of this size, a multiple of 8."""
        return self.side or max(8, 8 * round(SIDE_SHARE * model_size / 8))


@dataclass(frozen=True, eq=False)
class FacePatch:
    """The square around a face, whole pixels inside the picture, and the mask (L, its size) of what is laid over."""

    box: tuple[int, int, int, int]
    mask: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


def face_patch(picture_size: tuple[int, int], face: Face, *, scale: float = 2.0, feather: float = 5.0) -> FacePatch:
    """The square of `scale` box sides around a face, pushed inside the picture, and smaller only where it has no room.

    The mask is white over the face's box grown by a quarter, its corners rounded, and falls to zero before the square's
    edge, except where that is the picture's edge too. The feather of a face of few pixels is smaller, so that its
    middle stays white.

    Raises
    ------
    InvalidRequest
        The face lies outside the picture, its box is none, or `scale` or `feather` leaves no room to fade.
    """
    if not (BOX_GROWTH < scale < math.inf and 0 <= feather < math.inf):
        raise InvalidRequest(f"wanted scale > {BOX_GROWTH} and feather >= 0, found scale {scale} and feather {feather}")
    width, height = picture_size
    left, top, right, bottom = (float(v) for v in face.box_xyxy)
    seen = min(right, width) > max(left, 0.0) and min(bottom, height) > max(top, 0.0)
    if not (seen and np.isfinite(face.box_xyxy).all()):
        raise InvalidRequest(
            f"wanted a face inside the picture of {width} x {height} pixels, found a box from ({left:.0f}, {top:.0f}) "
            f"to ({right:.0f}, {bottom:.0f})"
        )
    longer = max(right - left, bottom - top)
    side = min(max(round(scale * longer), SMALLEST_PATCH), width, height)
    x = min(max(round((left + right - side) / 2), 0), width - side)
    y = min(max(round((top + bottom - side) / 2), 0), height - side)
    # Four radii from the edge of the grown box a blur has died away; a patch of twice the box has that room.
    radius = min(feather, longer * (scale - BOX_GROWTH) / 8, side / 16)
    columns = _span(left - x, right - x, side, radius, open_ends=(x == 0, x + side == width))
    rows = _span(top - y, bottom - y, side, radius, open_ends=(y == 0, y + side == height))
    rounding = CORNER_SHARE * BOX_GROWTH * min(right - left, bottom - top)
    return FacePatch((x, y, x + side, y + side), _soft_box(columns, rows, side, rounding, radius))


def _span(low: float, high: float, side: int, radius: float, *, open_ends: tuple[bool, bool]) -> tuple[float, float]:
    """From where to where the mask is white along one axis of a patch: the box's span grown by a quarter.

    An open end is the picture's own edge: nothing lies beyond it, so what reaches it goes on far outside. At a closed
    end, where the patch meets the rest of the picture, the span keeps so far away that the last pixel is 0.
    """
    growth = (BOX_GROWTH - 1) / 2 * (high - low)
    room = min(4.0 * radius + 1.0, side / 4)
    start, end = low - growth, high + growth
    if not open_ends[0]:
        start = max(start, room)
    elif start <= 0:
        start = -2.0 * side
    if not open_ends[1]:
        end = min(end, side - room)
    elif end >= side:
        end = 3.0 * side
    return start, end


def _soft_box(
    columns: tuple[float, float], rows: tuple[float, float], side: int, rounding: float, radius: float
) -> Image.Image:
    """A mask of side x side pixels, white in a box with rounded corners, its edge softened by a Gaussian of `radius`.

    The value is the normal distribution function of the distance to the edge, which is that of a straight edge after a
    Gaussian blur. Corners are round because a square's show on plain backgrounds.
    """
    half_2 = np.array([columns[1] - columns[0], rows[1] - rows[0]]) / 2
    middle_2 = np.array([columns[0] + columns[1], rows[0] + rows[1]]) / 2
    rounding = min(rounding, float(half_2.min()))
    centres_S = np.arange(side) + 0.5
    # Signed distance to a rounded box: beyond the inner box of the corners' centres, less the corners' radius.
    beyond_x_W = np.abs(centres_S - middle_2[0])[None, :] - (half_2[0] - rounding)
    beyond_y_H = np.abs(centres_S - middle_2[1])[:, None] - (half_2[1] - rounding)
    outside_HW = np.hypot(np.maximum(beyond_x_W, 0.0), np.maximum(beyond_y_H, 0.0))
    inside_HW = np.minimum(np.maximum(beyond_x_W, beyond_y_H), 0.0)
    depth_HW = rounding - outside_HW - inside_HW
    share_HW = np.interp(depth_HW / max(radius, 1e-6), _DEVIATIONS, _NORMAL)
    return Image.fromarray(np.rint(255.0 * share_HW).astype(np.uint8))


def cut(picture: Image.Image, patch: FacePatch, side: int) -> Image.Image:
    """The patch of the picture, enlarged (or reduced) to side x side pixels, RGB."""
    return picture.convert("RGB").crop(patch.box).resize((side, side), Image.Resampling.LANCZOS)


def paste(picture: Image.Image, redrawn: Image.Image, patch: FacePatch) -> Image.Image:
    """A copy of the picture with the redrawn patch laid over it; where the mask is zero it is the same bit for bit."""
    out = picture.convert("RGB").copy()
    fitted = redrawn.convert("RGB").resize(patch.size, Image.Resampling.LANCZOS)
    out.paste(Image.composite(fitted, out.crop(patch.box), patch.mask), patch.box[:2])
    return out


def small_faces(
    faces: Sequence[Face],
    model_size: int,
    detail: DetailPass,
    *,
    is_person: Callable[[Face], bool] | None = None,
) -> list[Face]:
    """The faces to be drawn again, the largest first.

    Parameters
    ----------
    faces
        The faces of one picture.
    model_size
        Pixels for which the model was trained.
    detail
        How small is small, and how many at most.
    is_person
        Tells for every face but the largest whether it is a person that the picture is of. A face of the crowd in the
        background must stay somebody else; without this test only the largest face is drawn again.
    """
    by_area = sorted(faces, key=lambda face: -face.width * face.height)
    small: list[Face] = []
    for number, face in enumerate(by_area):
        if len(small) == detail.max_faces:
            break
        if not LEAST_SHARE * model_size <= min(face.width, face.height) < detail.below * model_size:
            continue
        if number == 0 or (is_person is not None and is_person(face)):
            small.append(face)
    return small


def face_mask(picture_size: tuple[int, int], face: Face) -> Image.Image:
    """White over a face from brow to chin and a little around it, softly edged: for redrawing only the face.

    Raises
    ------
    BadPhoto
        The face's points are not finite or lie in one place.
    """
    polygon_V2 = scale_polygon(face_polygon(face), POLYGON_GROWTH)
    mask = Image.new("L", picture_size, 0)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in polygon_V2], fill=255)
    extent = float((polygon_V2.max(axis=0) - polygon_V2.min(axis=0)).max())
    return mask.filter(ImageFilter.GaussianBlur(extent / 40))
