"""Is a photo good enough to train on? One photo in, a sample or a reason out.

Checks run from cheap to dear, and the first that fails is the reason that is told. Nothing here depends on another
photo, so any number of processes may look at any part of a set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from hyperlora.dataset.captions import DEFAULT_TEMPLATE, own_caption, templated
from hyperlora.dataset.crop import Square, cut, face_in_cut, holds, stands_in, training_square
from hyperlora.dataset.picture import MOST_PICTURE_BYTES, decode_picture
from hyperlora.dataset.records import face_record, labels_of, person_number
from hyperlora.dataset.shards import read_caption, read_record
from hyperlora.dataset.sources import Source
from hyperlora.errors import BadPhoto, DatasetError, FaceError
from hyperlora.faces.align import aligned_crop
from hyperlora.faces.findings import SHARP_DEVIATION, sharpness_of
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import PhotoConditions, prepare_photo
from hyperlora.faces.types import Face, FaceAnalyzer

Captions = Literal["file", "template", "none"]

REFUSED_FINDINGS = frozenset(
    {"unsure_face", "first_detection_used", "cut_off_face", "turned_face", "tilted_face", "dark_face", "bright_face"}
)
"""What a face may be found to be that makes its photo useless for training; size and sharpness have their own rules."""

MIN_SHARPNESS = SHARP_DEVIATION**2
MIN_FACE_PIXELS = 96


@dataclass(frozen=True)
class Rules:
    """What a photo must be, and what it becomes.

    Parameters
    ----------
    size
        Pixels of a side of the stored picture.
    min_face
        Pixels of the face's shorter side, in the photo.
    min_sharpness
        Variance of the Laplacian of the face, aligned at 112 pixels, in grey levels squared.
    min_side
        Pixels of the photo's shorter side; None is half of `size`.
    allowed
        Findings that are not refused although they stand in `REFUSED_FINDINGS`.
    captions, templates
        Where captions come from.
    """

    size: int = 1024
    min_face: float = MIN_FACE_PIXELS
    min_sharpness: float = MIN_SHARPNESS
    min_side: int | None = None
    allowed: tuple[str, ...] = ()
    captions: Captions = "file"
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo that is kept: the stored picture, its texts, and the conditions that were made from the photo."""

    picture: Image.Image
    caption: str
    record: dict[str, Any]
    conditions: PhotoConditions
    square: Square
    face_pixels: float
    sharpness: float


class Dropped(Exception):
    """A photo that is not kept. Not one of the errors of the package: dropping is an ordinary outcome."""

    def __init__(self, code: str, message: str, picture: Image.Image | None = None) -> None:
        super().__init__(message)
        self.code, self.picture = code, picture
        self.face_pixels: float | None = None
        self.sharpness: float | None = None


@dataclass(frozen=True)
class _Texts:
    """What a photo's files say of it."""

    caption: str
    labels: dict[str, str | int | float | bool]
    person: int | None
    origin: str


def screen(source: Source, analyzer: FaceAnalyzer, rules: Rules) -> Sample:
    """Look at one photo. Raises `Dropped` with the reason why it is not kept."""
    # 1. Its texts, which cost nothing.
    texts = _texts(source, rules)
    # 2. Its pixels, within bounds.
    photo = _photo(source, rules)
    # 3. Its face, and what is wrong with it.
    conditions = _conditions(photo, analyzer)
    face = conditions.face
    square = training_square(conditions.photo.size, face, rules.size)
    face_pixels, sharpness = min(face.width, face.height), face_sharpness(conditions.photo, face)
    reason = _reason(conditions, square, face_pixels, sharpness, rules)
    if reason is not None:
        dropped = Dropped(*reason, conditions.photo)
        dropped.face_pixels, dropped.sharpness = face_pixels, sharpness
        raise dropped
    # 4. The stored picture and its record.
    record = face_record(
        face_in_cut(face, square, rules.size),
        person=texts.person,
        source=texts.origin,
        labels=texts.labels,
        encoder=conditions.encoder,
        photo_size=list(conditions.photo.size),
        square=list(square),
        face_pixels=round(face_pixels, 1),
        sharpness=round(sharpness, 1),
        findings=[finding.code for finding in conditions.findings],
    )
    picture = cut(conditions.photo, square, rules.size)
    return Sample(picture, texts.caption, record, conditions, square, face_pixels, sharpness)


def picture_of(source: Source) -> Image.Image | None:
    """A photo that was dropped before it was decoded, for the report; None where it cannot be read."""
    try:
        return upright_rgb(decode_picture(source.entry.picture.read(MOST_PICTURE_BYTES, "picture"))).image
    except (BadPhoto, DatasetError):
        return None


def face_sharpness(photo: Image.Image, face: Face) -> float:
    """Variance of the Laplacian in the middle of the aligned 112 pixel face, in grey levels squared."""
    aligned = aligned_crop(np.asarray(photo, dtype=np.uint8), face.points_5_2, smooth=True)
    grey_112 = np.asarray(cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return sharpness_of(grey_112[28:100, 24:88]) ** 2


def _texts(source: Source, rules: Rules) -> _Texts:
    entry = source.entry
    try:
        facts = read_record(entry.facts, "json")
        record = read_record(entry.face, "face.json")
        labels = {**labels_of(facts, "json"), **labels_of(record)}
        named = record["person"] if record.get("person") is not None else source.person
        written = read_caption(entry.caption, "caption") if rules.captions == "file" else ""
        person = person_number(named)
    except DatasetError as fault:
        raise Dropped("bad_text", _without_folder(fault, source)) from fault
    caption = ""
    if rules.captions == "file" and not (caption := own_caption(written, facts)):
        raise Dropped("no_caption", "no words in a .txt beside it, nor a caption in a .json")
    if rules.captions == "template" and not (caption := templated(rules.templates, labels, source.name)):
        raise Dropped("no_caption", "it does not have the labels that any template asks for")
    # What an earlier preparation wrote stays the origin.
    origin = record.get("source")
    return _Texts(caption, labels, person, origin if isinstance(origin, str) and origin else source.name)


def _photo(source: Source, rules: Rules) -> Image.Image:
    try:
        photo = decode_picture(source.entry.picture.read(MOST_PICTURE_BYTES, "picture"))
    except (BadPhoto, DatasetError) as fault:
        raise Dropped("bad_picture", _without_folder(fault, source)) from fault
    least = rules.size // 2 if rules.min_side is None else rules.min_side
    if min(photo.size) < least:
        raise Dropped(
            "small_photo", f"the photo is {photo.width} x {photo.height} pixels, wanted {least} a side", _shown(photo)
        )
    return photo


def _conditions(photo: Image.Image, analyzer: FaceAnalyzer) -> PhotoConditions:
    try:
        return prepare_photo(analyzer, photo, face="largest")
    except FaceError as fault:
        # A face that cannot be used is another matter than a picture that cannot be read.
        code = fault.code if fault.code != BadPhoto.code else "bad_face"
        raise Dropped(code, str(fault), _shown(photo)) from fault


def _reason(
    conditions: PhotoConditions, square: Square, face_pixels: float, sharpness: float, rules: Rules
) -> tuple[str, str] | None:
    """Code and sentence of the first rule that the photo breaks."""
    if face_pixels < rules.min_face:
        return "small_face", f"the face is {face_pixels:.0f} pixels wide, wanted {rules.min_face:.0f}"
    others = sum(stands_in(square, other) for other in conditions.others)
    if others:
        return "several_people", f"{others + 1} faces stand in the picture, wanted one person"
    if not holds(square, conditions.face, conditions.photo.size):
        return "no_square", "the face does not fit into a square of the photo"
    for finding in conditions.findings:
        if finding.code in REFUSED_FINDINGS and finding.code not in rules.allowed:
            return finding.code, finding.message
    if sharpness < rules.min_sharpness:
        return "blurred_face", f"the face may be blurred (sharpness {sharpness:.1f}, wanted {rules.min_sharpness:.1f})"
    return None


def _without_folder(fault: Exception, source: Source) -> str:
    """What went wrong, without where on this machine the photo lies."""
    return str(fault).replace(f"{os.path.dirname(source.entry.picture.path)}{os.sep}", "")


def _shown(photo: Image.Image) -> Image.Image | None:
    """The photo for the report, None where not even that can be made."""
    try:
        return upright_rgb(photo).image
    except BadPhoto:
        return None
