"""One picture that shows what was found in a photo and what the networks are shown of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from hyperlora.faces.align import aligned_crop
from hyperlora.faces.choice import left_to_right
from hyperlora.faces.crops import (
    BASE_MASK_SCALE,
    FACE_STREAM_SIDES,
    ID_MASK_SCALE,
    base_box,
    crop_padded,
    polygon_mask,
)
from hyperlora.faces.geometry import Box, face_polygon, landmark_box, polygon_window, scale_polygon
from hyperlora.faces.prepare import PhotoConditions
from hyperlora.faces.types import Face

TILE = 320
GAP = 8
TITLE_HEIGHT = 18
CLIP_SIDE = 224
OTHERS = "#b0b0b0"
LINES = {
    "detector's box": "#ffd400",
    "polygon": "#35e06a",
    "landmark box": "#ff4b4b",
    "window": "#4b9bff",
    "face stream": "#ff7be5",
    "base picture": "#9be8ff",
}


def debug_picture(conditions: PhotoConditions) -> Image.Image:
    """Six tiles: the photo with all lines, the masks of both branches, what CLIP and the recogniser see; then words.

    Where the photo shows several faces, all of them are in the first tile with the numbers by which one is chosen.
    """
    photo, face = conditions.photo, conditions.face
    tiles = {
        f"photo {photo.width} x {photo.height}": _with_lines(photo, conditions),
        "mask, ID branch (scale 1.0)": _mask_over(photo, face, ID_MASK_SCALE),
        "mask, Base branch (scale 1.4)": _mask_over(photo, face, BASE_MASK_SCALE),
        "CLIP sees, ID branch": _tile(_as_clip_sees(conditions.clip_image)),
        "CLIP sees, Base branch": _tile(_as_clip_sees(conditions.base_image)),
        "aligned to the recogniser's places": _tile(
            Image.fromarray(aligned_crop(np.asarray(photo, dtype=np.uint8), face.points_5_2))
        ),
    }
    words = [
        f"{conditions.verdict} · {conditions.encoder} · score {face.score:.2f} · "
        f"face {face.width:.0f} x {face.height:.0f} px",
        *(f"{finding.code}: {finding.message}" for finding in conditions.findings),
    ]
    return _sheet(tiles, words, LINES)


def refusal_picture(photo: Image.Image, code: str | None, reason: str, faces: Sequence[Face] = ()) -> Image.Image:
    """One tile and words: the RGB photo that was refused, any faces seen in it with their numbers, and why."""
    tile, scale, (dx, dy) = _fitted(photo.convert("RGB"))
    _number(ImageDraw.Draw(tile), faces, lambda x, y: (x * scale + dx, y * scale + dy))
    return _sheet({f"photo {photo.width} x {photo.height}": tile}, [f"refused · {code}: {reason}"], {})


def _sheet(tiles: Mapping[str, Image.Image], words: Sequence[str], legend: Mapping[str, str]) -> Image.Image:
    """Tiles in rows of three with their titles, a legend of colours, and lines of words."""
    lines = [part for text in words for part in _wrapped(text, 150)]
    bottom = GAP + -(-len(tiles) // 3) * (TILE + TITLE_HEIGHT + GAP)
    legend_height = TITLE_HEIGHT if legend else 0
    size = (3 * TILE + 4 * GAP, bottom + legend_height + TITLE_HEIGHT * len(lines))
    sheet = Image.new("RGB", size, "#202124")
    pen = ImageDraw.Draw(sheet)
    for place, (title, tile) in enumerate(tiles.items()):
        x = GAP + (place % 3) * (TILE + GAP)
        y = GAP + (place // 3) * (TILE + TITLE_HEIGHT + GAP)
        pen.text((x, y), title, fill="white")
        sheet.paste(tile, (x, y + TITLE_HEIGHT))
    x = GAP
    for name, colour in legend.items():
        pen.rectangle((x, bottom + 2, x + 8, bottom + 10), fill=colour)
        pen.text((x + 12, bottom), name, fill="white")
        x += 24 + round(pen.textlength(name))
    for row, line in enumerate(lines):
        pen.text((GAP, bottom + legend_height + TITLE_HEIGHT * row), line, fill="white")
    return sheet


def _as_clip_sees(picture: Image.Image) -> Image.Image:
    """The middle square at 224 pixels: CLIP's own preprocessing cuts off what is longer."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BICUBIC, box=box)


def _number(
    pen: ImageDraw.ImageDraw, faces: Sequence[Face], place: Callable[[float, float], tuple[float, float]]
) -> None:
    """A grey frame around each face, and its number from the left."""
    for number, face in enumerate(left_to_right(faces)):
        box = _detected(face)
        pen.rectangle((place(box.left, box.top), place(box.right, box.bottom)), outline=OTHERS)
        x, y = place(box.left, box.top)
        pen.text((x + 2, y), str(number), fill="white", stroke_width=1, stroke_fill="black")


def _with_lines(photo: Image.Image, conditions: PhotoConditions) -> Image.Image:
    """The surroundings of the face with every line; drawn on the tile, so that lines are as thin for any photo."""
    face = conditions.face
    region = _region(photo, face, conditions.others)
    picture, (left, top) = crop_padded(photo, region)
    tile, scale, (dx, dy) = _fitted(picture)
    pen = ImageDraw.Draw(tile)

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - left) * scale + dx, (y - top) * scale + dy

    def frame(box: Box, colour: str) -> None:
        pen.rectangle((place(box.left, box.top), place(box.right, box.bottom)), outline=colour)

    if conditions.others:
        _number(pen, (face, *conditions.others), place)
    polygon_V2 = face_polygon(face)
    frame(base_box(photo, face), LINES["base picture"])
    frame(landmark_box(face, FACE_STREAM_SIDES), LINES["face stream"])
    frame(polygon_window(polygon_V2), LINES["window"])
    frame(landmark_box(face), LINES["landmark box"])
    frame(_detected(face), LINES["detector's box"])
    pen.polygon([place(float(x), float(y)) for x, y in polygon_V2], outline=LINES["polygon"])
    small_N2 = face.points_106_2 if face.points_106_2 is not None else np.zeros((0, 2), dtype=np.float32)
    for x, y in small_N2:
        pen.point(place(float(x), float(y)), fill="white")
    for x, y in face.points_5_2:
        px, py = place(float(x), float(y))
        pen.ellipse((px - 2, py - 2, px + 2, py + 2), fill="#ffd400")
    return tile


def _mask_over(photo: Image.Image, face: Face, scale: float) -> Image.Image:
    """The window with everything outside the mask darkened."""
    polygon_V2 = scale_polygon(face_polygon(face), scale)
    window, corner = crop_padded(photo, polygon_window(polygon_V2))
    mask = polygon_mask(polygon_V2, corner, window.size)
    return _tile(Image.composite(window, window.point(lambda value: value // 4), mask))


def _region(photo: Image.Image, face: Face, others: Sequence[Face]) -> Box:
    """The part of the photo worth showing: twice the landmark box, the Base picture, and every other face."""
    shown = [landmark_box(face, FACE_STREAM_SIDES), base_box(photo, face), *(_detected(other) for other in others)]
    return Box(
        min(box.left for box in shown) - 2,
        min(box.top for box in shown) - 2,
        max(box.right for box in shown) + 2,
        max(box.bottom for box in shown) + 2,
    )


def _detected(face: Face) -> Box:
    return Box(*(float(value) for value in face.box_xyxy))


def _fitted(picture: Image.Image) -> tuple[Image.Image, float, tuple[int, int]]:
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = Image.fromarray(np.asarray(cv2.resize(np.asarray(picture), size, interpolation=how), dtype=np.uint8))
    tile = Image.new("RGB", (TILE, TILE), "#303134")
    corner = ((TILE - size[0]) // 2, (TILE - size[1]) // 2)
    tile.paste(small, corner)
    return tile, scale, corner


def _tile(picture: Image.Image) -> Image.Image:
    return _fitted(picture.convert("RGB"))[0]


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = "    " + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
