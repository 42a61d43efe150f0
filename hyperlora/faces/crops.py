"""The pictures that the networks are shown, cut from a photo by the lines around its face.

Boxes may leave the photo; what lies outside is the grey #7f7f7f. Only the box is ever copied, never the whole photo,
so a picture of many megapixels costs no more than its face.
"""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter

from hyperlora.errors import BadPhoto
from hyperlora.faces.geometry import Box, face_polygon, landmark_box, polygon_window, scale_polygon
from hyperlora.faces.photo import GREY_RGB
from hyperlora.faces.types import Face, FloatArray

# Blurs happen on the window resized to this side, so that their radii mean the same for small and large faces.
BLUR_SIDE = 512
MASK_RADIUS = 15.0
FACE_RADIUS = 45.0
ID_MASK_SCALE = 1.0
BASE_MASK_SCALE = 1.4
FACE_STREAM_SIDES = 2.0
# How far the Base picture reaches to the left, up, right and down, in units of L. Clothes are below the face: hence
# more room there, and the same 4 L in both directions, so that CLIP's square crop loses nothing.
BASE_SIDES = (2.0, 1.5, 2.0, 2.5)


def crop_padded(image: Image.Image, box: Box) -> tuple[Image.Image, tuple[int, int]]:
    """The box cut out, grey where it leaves the picture, and the whole pixels (left, top) at which it lies."""
    left, top, right, bottom = box.to_pixels()
    canvas = Image.new("RGB", (right - left, bottom - top), GREY_RGB)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        canvas.paste(image.crop(inside), (inside[0] - left, inside[1] - top))
    return canvas, (left, top)


def polygon_mask(polygon_V2: FloatArray, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """The polygon in white on black, its edge softened, in a window of `size` pixels whose upper left is `corner`."""
    mask = Image.new("L", size, 0)
    vertices = [(float(x) - corner[0], float(y) - corner[1]) for x, y in polygon_V2]
    ImageDraw.Draw(mask).polygon(vertices, fill=255)
    soft = mask.resize((BLUR_SIDE, BLUR_SIDE), Image.Resampling.BILINEAR)
    return soft.filter(ImageFilter.GaussianBlur(MASK_RADIUS)).resize(size, Image.Resampling.BILINEAR)


def masked_face(image: Image.Image, face: Face) -> Image.Image:
    """What CLIP is shown for the ID branch: the face on grey, nothing of hair, clothes and background."""
    polygon_V2 = scale_polygon(face_polygon(face), ID_MASK_SCALE)
    window, corner = crop_padded(image, polygon_window(polygon_V2))
    mask = polygon_mask(polygon_V2, corner, window.size)
    grey = Image.new("RGB", window.size, GREY_RGB)
    shown = Image.composite(window, grey, mask)
    return crop_padded(shown, _seen_from(landmark_box(face), corner))[0]


def faceless(image: Image.Image, face: Face) -> Image.Image:
    """What CLIP is shown for the Base branch: the surroundings, the face blurred away; cut at the photo's edges."""
    polygon_V2 = scale_polygon(face_polygon(face), BASE_MASK_SCALE)
    window, corner = crop_padded(image, polygon_window(polygon_V2))
    mask = polygon_mask(polygon_V2, corner, window.size)
    small = window.resize((BLUR_SIDE, BLUR_SIDE), Image.Resampling.BILINEAR)
    blurred = small.filter(ImageFilter.GaussianBlur(FACE_RADIUS)).resize(window.size, Image.Resampling.BILINEAR)
    picture, base_corner = crop_padded(image, base_box(image, face))
    picture.paste(blurred, (corner[0] - base_corner[0], corner[1] - base_corner[1]), mask=mask)
    return picture


def base_box(image: Image.Image, face: Face) -> Box:
    """Where the Base picture is cut: the landmark box, each side at its own distance, clamped to the photo.

    Raises
    ------
    BadPhoto
        Nothing of the box lies in the photo.
    """
    box = landmark_box(face)
    x, y = box.centre
    half = box.width / 2
    left, up, right, down = BASE_SIDES
    clamped = Box(
        max(0.0, x - left * half),
        max(0.0, y - up * half),
        min(float(image.width), x + right * half),
        min(float(image.height), y + down * half),
    )
    if clamped.width < 1 or clamped.height < 1:
        raise BadPhoto("the face lies outside the photo; choose a photo that shows the whole face")
    return clamped


def _seen_from(box: Box, corner: tuple[int, int]) -> Box:
    return Box(box.left - corner[0], box.top - corner[1], box.right - corner[0], box.bottom - corner[1])
