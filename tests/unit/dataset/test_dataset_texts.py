"""Captions, labels, people and faces from files that strangers wrote; where a photo is cut."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from portrait_sets import drawn, face_in

from hyperlora.dataset.captions import check_templates, own_caption, templated, tidy
from hyperlora.dataset.crop import cut, face_in_cut, holds, stands_in, training_square
from hyperlora.dataset.histogram import histogram
from hyperlora.dataset.picture import decode_picture
from hyperlora.dataset.records import face_of, face_record, labels_of, person_number, read_json
from hyperlora.errors import BadPhoto, DatasetDamaged, InvalidRequest
from hyperlora.faces import Face


def face_at(left: float, top: float, side: float) -> Face:
    box = np.array([left, top, left + side, top + side], dtype=np.float32)
    return Face(box, 0.9, box[:2] + side * np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.4, 0.8], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("size", "face", "least", "square"),
    [
        # The whole short side; the face in the middle across, at 42 % of the height: 300 - 0.42 * 400 = 132.
        ((400, 900), face_at(150, 250, 100), 256, (0, 132, 400)),
        # The face is at the right and upper edge: the square stops there.
        ((1000, 500), face_at(900, 10, 90), 256, (500, 0, 500)),
        # A far face: six times its side, 600, although the photo has 2,000.
        ((2000, 2000), face_at(950, 950, 100), 256, (700, 748, 600)),
        # The same, but never fewer pixels than the set's pictures have.
        ((2000, 2000), face_at(950, 950, 100), 1024, (488, 570, 1024)),
    ],
)
def test_where_a_photo_is_cut(size: tuple[int, int], face: Face, least: int, square: tuple[int, int, int]) -> None:
    assert training_square(size, face, least) == square
    assert holds(square, face, size) and stands_in(square, face)


def test_a_face_that_is_wider_than_the_square(tmp_path: object) -> None:
    face = face_at(0, 100, 300)
    assert not holds(training_square((1000, 250), face, 64), face, (1000, 450))


def test_the_face_moves_with_the_picture() -> None:
    # Given a photo with one white pixel at the nose
    photo = Image.new("RGB", (300, 400))
    photo.paste((255, 255, 255), (120, 200, 124, 204))
    face = Face(np.array([100, 180, 140, 220], np.float32), 0.9, np.full((5, 2), [121.5, 201.5], np.float32))
    # When a square is cut and shrunk to half
    square = (40, 100, 240)
    small = np.asarray(cut(photo, square, 120).convert("L"), dtype=float)
    moved = face_in_cut(face, square, 120)
    # Then the point lies in the middle of the white spot
    y, x = (float((grid * small).sum() / small.sum()) for grid in np.mgrid[:120, :120])
    np.testing.assert_allclose(moved.points_5_2[2], [x, y], atol=0.05)
    np.testing.assert_allclose(moved.box_xyxy, [29.75, 39.75, 49.75, 59.75])


def test_templates_are_filled_with_labels() -> None:
    templates = ["a {kind} of {who}", "{who}", "{age} years"]
    labels = {"kind": "portrait", "who": "a woman"}
    # Those that ask for what is not known are left out; each key has its own, always the same
    said = {templated(templates, labels, str(key)) for key in range(20)}
    assert said == {"a portrait of a woman", "a woman"}
    assert templated(templates, labels, "7") == templated(templates, labels, "7")
    assert templated(["{age}"], labels, "7") == ""
    # Labels are words, whatever they hold
    assert templated(["{who}"], {"who": "{kind} {0.__class__}", "kind": "x"}, "1") == "{kind} {0.__class__}"


@pytest.mark.parametrize("template", ["{", "a {b c}", "{a.b}", "}{", "  ", "{}"])
def test_templates_that_cannot_be_read(template: str) -> None:
    with pytest.raises(InvalidRequest):
        check_templates(["fine {who}", template])


def test_captions_are_tidied() -> None:
    assert tidy("  a\n\tb\x00\u202ec ") == "a b c"
    assert len(tidy("long " * 1000)) <= 2000
    assert own_caption("", {"caption": " told "}) == "told"
    assert own_caption("written", {"caption": "told"}) == "written"
    assert own_caption("", {"caption": 7}) == ""


def test_a_face_is_written_and_read() -> None:
    face = face_in(drawn(0))
    found = face_of(face_record(face, person=3))
    assert found is not None and found.points_106_2 is not None
    np.testing.assert_allclose(found.points_106_2, face.points_106_2, atol=0.006)
    np.testing.assert_allclose(found.box_xyxy, face.box_xyxy, atol=0.006)
    assert face_of({"person": 3}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"box": [1, 2, 3]},
        {"box": [1, 2, 3, "4"]},
        {"box": [1, 2, 3, 1e300]},
        {"box": "abcd"},
        {"points_5": [[1, 2]] * 4},
        {"points_5": [[1, 2, 3]] * 5},
        {"points_5": [[[1], 2]] * 5},
        {"points_106": [[1, 2]] * 105},
        {"score": True},
    ],
)
def test_numbers_that_are_no_face(change: dict[str, object]) -> None:
    record = {"box": [1, 2, 3, 4], "points_5": [[1, 2]] * 5, "score": 0.5}
    with pytest.raises(DatasetDamaged):
        face_of(record | change)


@pytest.mark.parametrize("person", [-1, 1.5, True, "", "x" * 501, 1 << 63, [1]])
def test_what_is_no_person(person: object) -> None:
    with pytest.raises(DatasetDamaged, match="person"):
        person_number(person)


def test_people_have_numbers() -> None:
    ada = person_number("ada")
    assert ada is not None and 1 << 62 <= ada < 1 << 63
    # A number that was made of a name is a number like any other when it is read again
    assert (person_number(ada), person_number(0), person_number(None)) == (ada, 0, None)


@pytest.mark.parametrize("labels", [[1], {"a": [1]}, {"a": None}, {"a": "x" * 501}, {str(n): n for n in range(201)}])
def test_what_are_no_labels(labels: object) -> None:
    with pytest.raises(DatasetDamaged):
        labels_of({"labels": labels})


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"a": NaN}', b"\xff\xfe{}", b"[" * 100_000])
def test_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(DatasetDamaged):
        read_json(data, "face.json")


def encoded(form: str, size: tuple[int, int] = (40, 40), **how: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, form, **how)  # type: ignore[arg-type]
    return out.getvalue()


def test_pictures_that_are_not_decoded() -> None:
    assert decode_picture(encoded("PNG")).size == (40, 40)
    animation = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:])
    jpeg = encoded("JPEG")
    for data, message in (
        (b"", "other or damaged"),
        (b"<svg/>", "other or damaged"),
        (encoded("GIF"), "other or damaged"),
        (encoded("PNG")[:60], "damaged or missing"),
        (animation.getvalue(), "animation of 2"),
        (encoded("PNG", (8000, 6500)), "pixels"),
        (jpeg + b"\xff\xda" * 501, "more than 500 scans"),
    ):
        with pytest.raises(BadPhoto, match=message):
            decode_picture(data)


def test_a_histogram_counts_everything_once() -> None:
    # Given values over several doublings, one of them below 1
    values = [0.0, 10.0, 11.0, 90.0, 1000.0]
    drawn_svg = histogram(values, [False, True, True, False, True], 16, "<pixels>")
    # Then each is in one bar: heights and counts say so
    assert drawn_svg.count("<rect") == 4 and ">2<" in drawn_svg
    assert "wanted 16" in drawn_svg and "&lt;pixels&gt;" in drawn_svg
    assert histogram([], [], 16, "pixels").startswith("<svg")
