"""What is worth telling the owner of a photo, in words that help to choose a better one.

A finding has a stable code and a sentence. None of them stops the work; what does is an error (NoFaceFound, BadPhoto).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from hyperlora.faces.align import aligned_crop
from hyperlora.faces.choice import FaceChoice, left_to_right, places
from hyperlora.faces.find import Search
from hyperlora.faces.geometry import face_polygon
from hyperlora.faces.types import Face, RGBArray

# Short side of the face's box in pixels. In the 112 px square that recognisers read a face is about 67 pixels wide.
SMALL_FACE_PIXELS = 64
TINY_FACE_PIXELS = 20
# Standard deviation of the Laplacian of the aligned 112 px crop: sharp portraits give 10 and more. Where blur brings
# it to 4, SFace's similarity of a face with its sharp self has fallen to 0.57.
SHARP_DEVIATION = 4.0
DARK_MEAN, BRIGHT_MEAN = 40.0, 225.0
CUT_SHARE = 0.10
# Place of the nose tip between the eyes, 0 at the left one and 1 at the right one; beyond it the head is turned far.
TURNED_NOSE = (0.15, 0.85)
# Degrees between the line of the eyes and the horizontal. Networks are shown the photo as it stands, not set straight.
TILT_DEGREES = 30.0


@dataclass(frozen=True)
class Finding:
    """One thing that makes a photo less good: a stable code and a sentence for people."""

    code: str
    message: str


def findings(
    image: Image.Image,
    rgb_HW3: RGBArray,
    search: Search,
    turn: int = 0,
    *,
    face: Face | None = None,
    choice: FaceChoice = "clearest",
) -> tuple[Finding, ...]:
    """Everything to be said about the photo and the face that was chosen in it, the gravest first.

    Parameters
    ----------
    image, rgb_HW3
        The upright photo, and its pixels.
    search
        The faces found in it, at least one.
    turn
        By how many degrees the photo had to be turned.
    face, choice
        The face that was taken, and how it was chosen; None is the clearest.

    Raises
    ------
    BadPhoto
        The face's points cannot be used.
    """
    face = face or search.faces[0]
    out: list[Finding] = []
    # Whoever said which face is meant knows that there are several.
    if len(search.faces) > 1 and choice == "clearest":
        out.append(_several_faces(search.faces, face))
    out += _size_and_place(image, face, search, turn)
    out += _light_and_sharpness(rgb_HW3, face)
    return tuple(out)


def _several_faces(faces: Sequence[Face], face: Face) -> Finding:
    """Which of the faces is used, where they all are, and how to choose another."""
    number = next(place for place, other in enumerate(left_to_right(faces)) if other is face)
    return Finding(
        "several_faces",
        f"{len(faces)} faces found, from left to right: {places(faces)}; the clearest one, number {number} "
        f"(score {face.score:.2f}), is used. If you mean another person, choose the face: "
        "largest, central or its number; or crop the photo",
    )


def _size_and_place(image: Image.Image, face: Face, search: Search, turn: int) -> list[Finding]:
    out: list[Finding] = []
    if search.padded:
        out.append(
            Finding(
                "padded_detection",
                "the face was found only after adding a margin: the photo is cropped very tightly; "
                "a photo with some room around the head works better",
            )
        )
    side = min(face.width, face.height)
    if side < SMALL_FACE_PIXELS:
        out.append(
            Finding(
                "small_face",
                f"the face is only {side:.0f} pixels wide; from {SMALL_FACE_PIXELS} pixels on the likeness gets better",
            )
        )
    cut = share_outside(image.size, face)
    if cut > CUT_SHARE:
        out.append(Finding("cut_off_face", f"about {cut:.0%} of the face lies outside the photo"))
    if turn:
        out.append(
            Finding("turned_photo", f"the photo lay on its side or upside down and was turned by {turn} degrees")
        )
    tilt = _tilt(face)
    if abs(tilt) > TILT_DEGREES:
        out.append(
            Finding(
                "tilted_face", f"the head is tilted by about {abs(tilt):.0f} degrees; turn the photo until it stands"
            )
        )
    if not TURNED_NOSE[0] <= _nose_place(face) <= TURNED_NOSE[1]:
        out.append(
            Finding("turned_face", "the head is turned far to one side; a frontal photo gives a better likeness")
        )
    return out


def _light_and_sharpness(rgb_HW3: RGBArray, face: Face) -> list[Finding]:
    out: list[Finding] = []
    grey_112 = cv2.cvtColor(aligned_crop(rgb_HW3, face.points_5_2, smooth=True), cv2.COLOR_RGB2GRAY)
    middle = np.asarray(grey_112, dtype=np.uint8)[28:100, 24:88]
    brightness = float(middle.mean())
    if brightness < DARK_MEAN:
        out.append(Finding("dark_face", f"the face is very dark (mean brightness {brightness:.0f} of 255)"))
    if brightness > BRIGHT_MEAN:
        out.append(Finding("bright_face", f"the face is overexposed (mean brightness {brightness:.0f} of 255)"))
    sharpness = sharpness_of(middle)
    if sharpness < SHARP_DEVIATION:
        out.append(
            Finding(
                "blurred_face", f"the face may be blurred (sharpness {sharpness:.1f}, wanted {SHARP_DEVIATION:.1f})"
            )
        )
    return out


def sharpness_of(grey_HW: RGBArray) -> float:
    """Standard deviation of the Laplacian, in grey levels."""
    return float(cv2.Laplacian(grey_HW, cv2.CV_64F).std())


def share_outside(size: tuple[int, int], face: Face) -> float:
    """The share of the face's polygon that lies outside a picture of this (width, height)."""
    polygon_V2 = face_polygon(face)
    low_2, high_2 = polygon_V2.min(axis=0), polygon_V2.max(axis=0)
    # Count on a grid of at most 200 cells a side: exact enough for a share, and cheap for any photo.
    step = max(float((high_2 - low_2).max()) / 200.0, 1e-3)
    extent_2 = np.ceil((high_2 - low_2) / step).astype(int) + 1
    mask_HW = np.zeros((int(extent_2[1]), int(extent_2[0])), dtype=np.uint8)
    cv2.fillPoly(mask_HW, [np.rint((polygon_V2 - low_2) / step).astype(np.int32)], 1)
    x_W = low_2[0] + np.arange(mask_HW.shape[1]) * step
    y_H = low_2[1] + np.arange(mask_HW.shape[0]) * step
    inside_HW = ((y_H >= 0) & (y_H <= size[1]))[:, None] & ((x_W >= 0) & (x_W <= size[0]))[None, :]
    return 1.0 - float((mask_HW * inside_HW).sum()) / max(1.0, float(mask_HW.sum()))


def _tilt(face: Face) -> float:
    """Degrees by which the line from eye to eye falls to the right."""
    across_2 = face.points_5_2[1] - face.points_5_2[0]
    return float(np.degrees(np.arctan2(across_2[1], across_2[0])))


def _nose_place(face: Face) -> float:
    """Where the nose tip falls along the line from eye to eye, 0 to 1."""
    left_2, right_2, nose_2 = face.points_5_2[0], face.points_5_2[1], face.points_5_2[2]
    across_2 = right_2 - left_2
    length = float(across_2 @ across_2)
    return float((nose_2 - left_2) @ across_2) / length if length > 0 else 0.5
