"""Photos as people have them: each kind gets its verdict, and every warning or refusal a reason that helps."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data

from hyperlora.errors import BadPhoto
from hyperlora.faces import Face, PhotoConditions, debug_picture, find_faces, prepare_photo, refusal_picture
from hyperlora.faces.find import Search
from hyperlora.faces.findings import findings
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.identity import prepare_identity


class NoTokens:
    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.zeros(len(images), 1, 1)


def opened(image: Image.Image, **how: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, **how)  # type: ignore[arg-type]
    return Image.open(io.BytesIO(buffer.getvalue()))


def painted(astronaut: Image.Image) -> Image.Image:
    """Broad strokes of few colours, as a portrait in oil."""
    head = astronaut.crop((120, 0, 330, 230)).resize((630, 690))
    return head.filter(ImageFilter.ModeFilter(15))


def cut_out(astronaut: Image.Image) -> Image.Image:
    """The head alone; all around it is clear."""
    alpha = Image.new("L", astronaut.size)
    alpha.paste(255, (150, 20, 300, 200))
    out = astronaut.convert("RGBA")
    out.putalpha(alpha)
    return out


def beside(astronaut: Image.Image, other: Image.Image) -> Image.Image:
    out = Image.new("RGB", (1024, 512))
    out.paste(astronaut, (0, 0))
    out.paste(other, (512, 0))
    return out


Maker = Callable[[Image.Image], Image.Image]
KINDS: dict[str, tuple[Maker, str, set[str]]] = {
    "as it is": (lambda a: a, "usable", set()),
    "head only": (lambda a: a.crop((150, 20, 300, 190)), "usable", set()),
    "tight crop": (lambda a: a.crop((190, 75, 262, 170)), "warning", {"cut_off_face"}),
    "half a face": (lambda a: a.crop((0, 0, 225, 512)), "warning", {"small_face", "cut_off_face"}),
    "on its side, no EXIF": (lambda a: a.rotate(90, expand=True), "warning", {"turned_photo"}),
    "upside down, no EXIF": (lambda a: a.rotate(180), "warning", {"turned_photo"}),
    "head held askew": (lambda a: a.rotate(20, fillcolor="grey"), "usable", set()),
    "grey": (lambda a: a.convert("L"), "usable", set()),
    "black and white bits": (lambda a: a.resize((1024, 1024)).convert("1"), "warning", {"first_detection_used"}),
    "cut-out with alpha": (cut_out, "usable", set()),
    "premultiplied alpha": (lambda a: cut_out(a).convert("RGBa"), "usable", set()),
    "premultiplied grey": (lambda a: a.convert("LA").convert("La"), "usable", set()),
    "CMYK": (lambda a: opened(a.convert("CMYK"), format="JPEG", quality=90), "usable", set()),
    "16 bit grey": (
        lambda a: Image.fromarray((np.asarray(a.convert("L"), dtype=np.uint16) * 257).astype(np.uint16)),
        "usable",
        set(),
    ),
    "16 bit colours": (
        lambda a: Image.open(
            io.BytesIO(cv2.imencode(".png", np.asarray(a)[..., ::-1].astype(np.uint16) * 257)[1].tobytes())
        ),
        "usable",
        set(),
    ),
    "palette of 16": (lambda a: a.quantize(16), "usable", set()),
    "hard JPEG": (lambda a: opened(a, format="JPEG", quality=10), "usable", set()),
    "12 megapixels": (lambda a: a.resize((3500, 3500)), "usable", set()),
    "small face": (lambda a: a.resize((205, 205)), "warning", {"small_face"}),
    "profile": (lambda _: Image.fromarray(data.camera()), "warning", {"small_face", "turned_face"}),
    "several people": (
        lambda a: beside(a, Image.fromarray(data.camera()).convert("RGB")),
        "warning",
        {"several_faces"},
    ),
    "painting": (painted, "usable", set()),
    "dark": (lambda a: a.point(lambda value: value // 8), "warning", {"dark_face", "blurred_face"}),
    "tiny face": (lambda a: a.resize((100, 100)), "refused", {"bad_photo"}),
    "stamp": (lambda a: a.resize((24, 24)), "refused", {"bad_photo"}),
    "no face": (lambda _: Image.fromarray(data.coins()), "refused", {"no_face"}),
    "no face in colours": (lambda _: Image.fromarray(data.coffee()), "refused", {"no_face"}),
}
# What the owner of such a photo must be able to read out of the reason.
HELP = {
    "cut_off_face": "outside the photo",
    "small_face": "64 pixels",
    "turned_photo": "turned by",
    "turned_face": "frontal photo",
    "several_faces": "choose the face",
    "dark_face": "very dark",
    "blurred_face": "may be blurred",
    "first_detection_used": "closer look",
    "no_face": "use an? .*photo that shows the face",
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_photo_has_its_verdict(analyzer: FaceAnalyzer, astronaut: Image.Image, kind: str) -> None:
    # Given a photo of this kind, and a good one beside it, as a person's photos come
    make, verdict, codes = KINDS[kind]
    photo = make(astronaut)
    # When the person is prepared
    found = prepare_identity(analyzer, NoTokens(), [photo, astronaut]).verdicts[0]
    # Then the verdict is the kind's, and its code one of those expected, or that of a stranger among the photos
    assert found.verdict == verdict or found.code == "photos_disagree", found
    if verdict == "refused":
        assert {found.code} == codes
        reasons = found.reason
    else:
        conditions = prepare_photo(analyzer, photo)
        assert {finding.code for finding in conditions.findings} == codes and conditions.verdict == verdict
        reasons = "; ".join(conditions.reasons)
    # And the reason says what helps
    for code in codes & HELP.keys():
        assert re.search(HELP[code], reasons), reasons
    assert bool(reasons) == (verdict != "usable")


def test_damaged_exif_is_a_warning_and_the_photo_is_used(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given a photo whose EXIF block ends in the middle of its first entry
    photo = opened(astronaut, format="PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    # When it is prepared, where Pillow's warnings are errors
    conditions = prepare_photo(analyzer, photo)
    # Then it is used as it is stored, and the owner is told
    assert conditions.verdict == "warning" and conditions.photo.size == (512, 512)
    assert [finding.code for finding in conditions.findings] == ["damaged_exif"]


def test_colours_that_cannot_be_read_are_a_bad_photo(astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a picture whose mode Pillow cannot convert
    def no_way(self: Image.Image, *_: object, **__: object) -> Image.Image:
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", no_way)
    with pytest.raises(BadPhoto, match=r"colours \(mode RGB\) cannot be read: conversion not supported"):
        upright_rgb(astronaut)


@pytest.mark.parametrize(("degrees", "told"), [(-45, True), (-25, False), (25, False), (45, True)])
def test_a_tilted_head_is_told(astronaut_conditions: PhotoConditions, degrees: float, told: bool) -> None:
    # Given a face whose five points are turned (YuNet's hardly turn with the head, SCRFD's do)
    face = astronaut_conditions.face
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = face.points_5_2.mean(axis=0)
    points = (middle + (face.points_5_2 - middle) @ turn).astype(np.float32)
    tilted = Face(face.box_xyxy, face.score, points)
    # Then beyond 30 degrees either way the owner is told by how much
    photo = astronaut_conditions.photo
    found = findings(photo, np.asarray(photo, dtype=np.uint8), Search((tilted,), 640, padded=False))
    messages = [finding.message for finding in found if finding.code == "tilted_face"]
    assert bool(messages) == told
    assert all("tilted by about 4" in message for message in messages)


def test_a_refused_photo_is_shown_with_its_reason_and_its_faces(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given a photo whose face is too small, and one without a face
    small = astronaut.resize((100, 100))
    faces = find_faces(analyzer, np.asarray(small))
    assert faces
    # When each is drawn with its reason
    with_face = np.asarray(refusal_picture(small, "bad_photo", "the face is only 18 pixels wide", faces))
    without = np.asarray(refusal_picture(small, "bad_photo", "the face is only 18 pixels wide"))
    other_words = np.asarray(refusal_picture(small, "bad_photo", "another reason"))
    # Then the face has a frame in the first, and the words stand below the photo
    framed, bare = ((sheet == (0xB0, 0xB0, 0xB0)).all(axis=2).sum() for sheet in (with_face, without))
    assert framed > 100 + bare
    assert np.array_equal(without[:346], other_words[:346]) and not np.array_equal(without[346:], other_words[346:])


def test_the_debug_picture_shows_clips_own_square(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given a photo whose Base picture is cut by the photo's right edge, so that it is taller than wide
    conditions = prepare_photo(analyzer, astronaut.crop((100, 0, 300, 400)))
    assert conditions.base_image.height > conditions.base_image.width
    # When the debug picture is made
    sheet = np.asarray(debug_picture(conditions)).astype(int)
    # Then the tile of the Base branch is filled by the middle square that CLIP's preprocessing leaves
    tile = sheet[8 + 346 + 18 : 8 + 346 + 18 + 320, 336 : 336 + 320]
    side = conditions.base_image.width
    top = (conditions.base_image.height - side) // 2
    square = conditions.base_image.crop((0, top, side, top + side)).resize((320, 320), Image.Resampling.BICUBIC)
    assert np.abs(tile - np.asarray(square).astype(int)).mean() < 4
