"""Which face of a photo is meant, where it shows several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from hyperlora.errors import BadPhoto, InvalidRequest, NoFaceFound
from hyperlora.faces.find import DETECTOR_SIZES
from hyperlora.faces.types import Face

WordChoice = Literal["clearest", "largest", "central"]
FaceChoice: TypeAlias = WordChoice | int
"""The face the detector is surest of, the one with the largest box, the one nearest to the photo's middle, or a number:
0 is the leftmost face of the upright photo, 1 the next to its right."""


def left_to_right(faces: Sequence[Face]) -> list[Face]:
    """The faces by the middle of their boxes, the leftmost first, which has the number 0."""
    return sorted(faces, key=_middle)


def choose_face(faces: Sequence[Face], choice: FaceChoice, size: tuple[int, int]) -> Face:
    """The face that is meant.

    Parameters
    ----------
    faces
        The faces found, best score first.
    choice
        Which one.
    size
        Width and height of the upright photo in pixels.

    Raises
    ------
    NoFaceFound
        There is none.
    BadPhoto
        The photo shows fewer faces than the number asks for; the message says how many there are, and where.
    InvalidRequest
        `choice` is neither one of the words nor a number from 0 on.
    """
    if not faces:
        sizes = ", ".join(str(detector_size) for detector_size in DETECTOR_SIZES)
        raise NoFaceFound(
            f"no face found in a photo of {size[0]} x {size[1]} pixels (looked at detector sizes {sizes}, "
            "then again with a margin around the photo); use an upright photo that shows the face from the front, "
            "uncovered and in focus"
        )
    if isinstance(choice, int) and not isinstance(choice, bool) and choice >= 0:
        if choice >= len(faces):
            found = "one face" if len(faces) == 1 else f"{len(faces)} faces"
            raise BadPhoto(
                f"face {choice} was asked for, but the photo shows {found}, from left to right: {places(faces)}; "
                "the leftmost face is number 0"
            )
        return left_to_right(faces)[choice]
    if choice == "clearest":
        return faces[0]
    if choice == "largest":
        return max(faces, key=lambda face: face.width * face.height)
    if choice == "central":
        return min(faces, key=lambda face: _from_middle(face, size))
    raise InvalidRequest(
        f"a face is chosen by one of the words {', '.join(get_args(WordChoice))} or by its number from the left, "
        f"beginning with 0; found {choice!r}"
    )


def places(faces: Sequence[Face]) -> str:
    """The numbers of the faces with size and middle in pixels, from left to right, for messages."""
    return ", ".join(
        f"{number} ({face.width:.0f} px wide, around x {_middle(face)[0]:.0f}, y {_middle(face)[1]:.0f})"
        for number, face in enumerate(left_to_right(faces))
    )


def _middle(face: Face) -> tuple[float, float]:
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    return (left + right) / 2, (top + bottom) / 2


def _from_middle(face: Face, size: tuple[int, int]) -> float:
    x, y = _middle(face)
    return (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2
