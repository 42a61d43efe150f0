"""`face.json`: the face of a stored picture, and what else is known about it.

    box          [left, top, right, bottom], pixels of the stored picture
    points_5     [[x, y], ...]: eye, eye, nose tip, mouth corner, mouth corner
    points_106   [[x, y], ...] in InsightFace's numbering, or null
    score        the detector's, 0 to 1
    person       a number that is the same for all pictures of one person, or a name, or null
    labels       words and numbers by name
    source       where the picture came from

Everything else is kept as it is. The file is data of strangers: it is bounded, and what does not fit is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperlora.errors import DatasetDamaged
from hyperlora.faces.types import Face, FloatArray

MOST_JSON_BYTES = 256 * 1024
MOST_LABELS = 200
MOST_LABEL_CHARACTERS = 500
# Numbers that are made of names lie from here up to 2^63: given ones are hardly ever as large.
NAMED_PEOPLE = 1 << 62
_BEYOND = 1 << 63


def read_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object from bytes. Raises `DatasetDamaged` for anything else, NaN and infinity included."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        found = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as fault:
        raise DatasetDamaged(f"{what} is no JSON: {fault}") from fault
    if not isinstance(found, dict):
        raise DatasetDamaged(f"{what}: wanted a JSON object, found {type(found).__name__}")
    return found


def face_record(face: Face, *, person: int | None = None, source: str = "", **more: Any) -> dict[str, Any]:
    """The content of a `face.json`; `more` is added as it is. Coordinates are rounded to a hundredth of a pixel."""
    return {
        "box": _rounded(face.box_xyxy),
        "points_5": _rounded(face.points_5_2),
        "points_106": None if face.points_106_2 is None else _rounded(face.points_106_2),
        "score": round(face.score, 4),
        "person": person,
        "source": source,
        **more,
    }


def face_of(record: Mapping[str, Any], what: str = "face.json") -> Face | None:
    """The face that a record holds, None for one without a box and five points.

    Raises `DatasetDamaged` for numbers that cannot be a face.
    """
    if record.get("box") is None or record.get("points_5") is None:
        return None
    points_106 = record.get("points_106")
    score = record.get("score", 1.0)
    if not _is_number(score):
        raise DatasetDamaged(f"{what}: wanted a number as score, found {score!r:.80}")
    return Face(
        box_xyxy=_array(record["box"], (4,), "box", what),
        score=float(score),
        points_5_2=_array(record["points_5"], (5, 2), "points_5", what),
        points_106_2=None if points_106 is None else _array(points_106, (106, 2), "points_106", what),
    )


def person_number(person: object, what: str = "face.json") -> int | None:
    """A stable number for a person who was given as a number, a name or not at all.

    A name becomes the first 62 bits of its SHA-256, above 2^62; numbers, also such, stay as they are.
    Raises `DatasetDamaged` for anything else.
    """
    if person is None:
        return None
    if isinstance(person, int) and not isinstance(person, bool) and 0 <= person < _BEYOND:
        return person
    if isinstance(person, str) and 0 < len(person) <= MOST_LABEL_CHARACTERS:
        return NAMED_PEOPLE | int.from_bytes(hashlib.sha256(person.encode()).digest()[:8], "big") >> 2
    raise DatasetDamaged(f"{what}: wanted a person's number from 0 on, or a name, found {person!r:.80}")


def labels_of(record: Mapping[str, Any], what: str = "face.json") -> dict[str, str | int | float | bool]:
    """Words and numbers that describe the picture. Raises `DatasetDamaged` for other or too many values."""
    labels = record.get("labels")
    if labels is None:
        return {}
    if not isinstance(labels, dict) or len(labels) > MOST_LABELS:
        raise DatasetDamaged(f"{what}: wanted at most {MOST_LABELS} labels by name, found {labels!r:.80}")
    for name, value in labels.items():
        if not isinstance(value, str | int | float) or len(str(value)) + len(name) > MOST_LABEL_CHARACTERS:
            raise DatasetDamaged(f"{what}: the label {name!r:.80} is no short word and no number: {value!r:.80}")
    return labels


def _rounded(values: FloatArray) -> Any:
    return np.round(values.astype(np.float64), 2).tolist()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _array(values: object, shape: tuple[int, ...], name: str, what: str) -> FloatArray:
    flat: list[object] = []
    for value in values if isinstance(values, Sequence) and len(values) == shape[0] else ():
        flat += value if isinstance(value, list) else [value]
    if len(flat) != math.prod(shape) or not all(_is_number(value) and abs(float(value)) < 1e6 for value in flat):  # type: ignore[arg-type]
        raise DatasetDamaged(f"{what}: wanted {name} of shape {shape}, found {values!r:.120}")
    return np.array(flat, dtype=np.float32).reshape(shape)
