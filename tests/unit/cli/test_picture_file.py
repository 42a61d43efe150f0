"""Pictures as files: what is written inside can be read by others, whatever a prompt holds, and crops hold the head."""

from __future__ import annotations

import io
import json
import struct
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hyperlora.faces.types import Face
from jobs.digital_source import ASSEMBLED, DRAWN, REDRAWN, DigitalSource, png_of, source_of, uri_of, xmp_of
from worker.picture_file import (
    SAMPLER_NAMES,
    Format,
    PictureTooLarge,
    encode,
    extension_of,
    parameters_text,
    record_of,
    shape,
)

JPEG_SEGMENT = 2**16 - 1 - 2  # 16 bits of length, which count themselves
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")
RECORD: dict[str, Any] = {
    "final_prompt": "fcsks fxhks fhyks, a portrait",
    "negative_prompt": "blurry",
    "steps": 30,
    "scheduler": "dpmpp_2m_karras",
    "guidance": 5.0,
    "seed": 7,
    "width": 64,
    "height": 48,
    "model_fingerprint": "a" * 64,
    "weight_set_fingerprint": "b" * 64,
    "lora_weight": 0.8,
    "profile": "released",
    "notice": "untrained",
}
HOSTILE = {
    "emoji": "a \U0001f600 portrait \U0001f468\u200d\U0001f469\u200d\U0001f467 \u5c71\u7530 e\u0301",
    "newlines": "first\r\nsecond\n\nNegative prompt: mine\nSteps: 1, Sampler: Euler, Seed: 99",
    "markup": "</portraits:record><x>&amp;]]> <!-- \"'",
    "backslashes": r'\u0041 \\ {"seed": 1}',
    "tabs and separators": "a\tb\u2028c\u0085d\u00a0e",
    "10 kB": "word " * 2048,
    "10 kB of emoji": "\U0001f600" * 2560,
    "10 kB of ampersands": "&" * 10240,
}


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A picture with colours that differ from pixel to pixel."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 4 % 256, y * 5 % 256, (x * y) % 256], axis=2).astype(np.uint8))


def opened(image: Image.Image, record: dict[str, Any], form: Format, quality: int | None = None) -> Image.Image:
    """The picture encoded and opened again."""
    found = Image.open(io.BytesIO(encode(image, record, format=form, quality=quality)[0]))
    found.load()
    return found


def parameters_of(image: Image.Image) -> str:
    """The text `parameters` as image tools of this field read it."""
    if image.format == "PNG":
        return str(image.info["parameters"])
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    return str(comment[8:].decode("utf-16-be"))


@pytest.mark.parametrize("form", FORMATS)
def test_others_read_what_is_written_inside(form: Format) -> None:
    # Given an encoded picture
    found = opened(picture(), RECORD, form)

    # Then it is of its kind, and tells its making as text and as a record
    assert (found.format, found.size, found.mode) == (form.upper(), (64, 48), "RGB")
    assert parameters_of(found).split("\n") == [
        "fcsks fxhks fhyks, a portrait",
        "Negative prompt: blurry",
        "Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 7, Size: 64x48, Model hash: aaaaaaaaaa, "
        'Model: released, Lora hashes: "hyperlora: bbbbbbbbbbbb", Lora weight: 0.8',
    ]
    assert record_of(found) == RECORD


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_prompts_come_back_as_they_were(form: Format, name: str) -> None:
    # Given a prompt of any kind, as prompt and as negative prompt
    record = {**RECORD, "final_prompt": HOSTILE[name], "negative_prompt": HOSTILE[name][:100]}

    # When it is written into a picture and read again
    found = opened(picture(), record, form)

    # Then not a character is lost
    assert record_of(found) == record
    assert parameters_of(found).startswith(f"{HOSTILE[name]}\nNegative prompt: ")
    assert parameters_of(found).split("\n")[-1].startswith("Steps: 30")


@pytest.mark.parametrize("form", FORMATS)
def test_characters_that_no_file_can_hold_do_not_stop_a_picture(form: Format) -> None:
    # Given half a surrogate pair, a NUL and a noncharacter
    record = {**RECORD, "final_prompt": "a\ud83d b\0c \ufffe d"}
    found = opened(picture(), record, form)

    # Then the record has them still, and the text has signs for them
    assert record_of(found) == record
    assert parameters_of(found).startswith("a\ufffd b\ufffdc \ufffd d\n")


@pytest.mark.parametrize("form", ["png", "webp"])
def test_png_and_webp_hold_records_of_any_length(form: Format) -> None:
    record = {**RECORD, "final_prompt": "&\U0001f600" * 50_000}
    found = opened(picture(), record, form)
    assert record_of(found) == record
    assert parameters_of(found).startswith("&\U0001f600" * 50_000)


def test_a_jpeg_cuts_what_does_not_fit_into_its_segments_and_says_so() -> None:
    # Given a prompt that is longer than a JPEG segment, and options that are too
    options = {"regions": ["x" * 50_000, "y" * 50_000]}
    record = {**RECORD, "final_prompt": "\U0001f600" * 40_000, "options": options}

    # When the picture is encoded
    found = opened(picture(), record, "jpeg")

    # Then text and record are there, with the longest parts cut and named, and all that is short
    told = record_of(found)
    assert told["shortened"] == ["final_prompt", "options"]
    assert told["options"] is None
    assert told["final_prompt"].endswith("\u2026") and 4_000 < len(told["final_prompt"]) < 40_000
    short = {name: value for name, value in RECORD.items() if name != "final_prompt"}
    assert {name: told[name] for name in short} == short
    prompt, negative, settings = parameters_of(found).split("\n")
    assert prompt.endswith("\u2026") and 10_000 < len(prompt) < 40_000
    assert negative == "Negative prompt: blurry"
    assert "Seed: 7" in settings and settings.endswith("Shortened: final_prompt")


@pytest.mark.parametrize("length", range(32_300, 32_780, 40))
def test_a_jpeg_is_cut_only_where_it_must_be(length: int) -> None:
    # Given prompts around the longest that fits
    record = {**RECORD, "final_prompt": "a" * length}
    data = encode(picture(), record, format="jpeg")[0]

    # Then the segment is full or the prompt was cut, and each segment has its length
    found = Image.open(io.BytesIO(data))
    whole = parameters_of(found).startswith(record["final_prompt"])
    needed = len(b"Exif\0\0") + 76 + len(b"UNICODE\0") + 2 * len(parameters_text(record))
    assert whole == (needed <= JPEG_SEGMENT)
    assert len(found.info["exif"]) <= JPEG_SEGMENT
    assert record_of(found) == record


def test_the_xmp_packet_is_xml() -> None:
    for form in ("jpeg", "webp"):
        packet = opened(picture(), {**RECORD, "final_prompt": HOSTILE["markup"]}, form).info["xmp"]
        root = ElementTree.fromstring(packet.decode("utf-8"))
        (node,) = [one for one in root.iter() if one.tag.endswith("}record")]
        assert json.loads(node.text or "")["final_prompt"] == HOSTILE["markup"]


def test_the_comment_has_the_type_that_readers_ask_for() -> None:
    """UNDEFINED, 7: some readers take BYTE for a list of numbers."""
    exif = opened(picture(), RECORD, "jpeg").info["exif"][6:]
    assert exif[:4] == b"MM\0*"
    (entries,) = struct.unpack_from(">H", exif, 8)
    tags = {tag: value for tag, _, _, value in (struct.unpack_from(">HHII", exif, 10 + 12 * n) for n in range(entries))}
    tag, kind, length = struct.unpack_from(">HHI", exif, tags[0x8769] + 2)
    assert (tag, kind, length) == (0x9286, 7, 8 + 2 * len(parameters_text(RECORD)))


def test_a_plain_text_stands_in_the_chunk_that_every_tool_reads() -> None:
    plain = encode(picture(), RECORD)[0]
    accented = encode(picture(), {**RECORD, "final_prompt": "caf\u00e9"})[0]
    assert b"tEXtparameters\0fcsks" in plain
    assert b"iTXtparameters\0" in accented and b"tEXtparameters" not in accented
    assert parameters_of(Image.open(io.BytesIO(accented))).startswith("caf\u00e9\n")


def test_a_picture_of_others_has_no_record() -> None:
    for info in (
        {},
        {"portraits": "not JSON"},
        {"portraits": "[1]"},
        {"xmp": b"<portraits:record>{</portraits:record>"},
    ):
        image = picture()
        image.info.update(info)
        assert record_of(image) == {}


def test_the_text_names_the_seed_that_drew_and_the_strength() -> None:
    text = parameters_text({**RECORD, "drawn_seed": 12, "strength": 0.6, "scheduler": "euler_trailing"})
    assert "Seed: 12," in text and "Denoising strength: 0.6," in text
    assert "Sampler: Euler, Schedule type: SGM Uniform," in text
    assert "Seed: 7," in parameters_text({**RECORD, "drawn_seed": None, "strength": 1.0})
    assert "Denoising" not in parameters_text({**RECORD, "strength": 1.0})


def test_every_scheduler_has_a_name_for_people() -> None:
    from hyperlora.schedulers import SCHEDULERS

    assert set(SAMPLER_NAMES) == set(SCHEDULERS)


def test_pixels_are_kept_or_nearly_so() -> None:
    # Given a smooth picture
    y, x = np.mgrid[:120, :160]
    image = Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))

    # Then PNG loses nothing, and the others little, and less at a higher quality
    assert np.array_equal(np.asarray(opened(image, RECORD, "png")), np.asarray(image))
    for form in ("jpeg", "webp"):
        low, usual, high = (_loss(image, opened(image, RECORD, form, quality)) for quality in (10, None, 100))
        assert high < usual < low and usual < 3


def _loss(image: Image.Image, found: Image.Image) -> float:
    return float(np.abs(np.asarray(image, np.int16) - np.asarray(found)).mean())


def test_colours_stay_sharp_at_a_high_quality() -> None:
    # Given one-pixel stripes of two colours of one brightness
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (40, 125, 60)
    image = Image.fromarray(stripes)

    # Then the usual quality keeps the stripes, and a low one may not
    assert _loss(image, opened(image, RECORD, "jpeg")) < 8 < _loss(image, opened(image, RECORD, "jpeg", 89))


@pytest.mark.parametrize(("form", "side"), [("webp", 16_384), ("jpeg", 65_501)])
def test_a_picture_that_a_format_cannot_hold_is_told(form: Format, side: int) -> None:
    with pytest.raises(PictureTooLarge, match=f"{form} holds at most {side - 1} pixels"):
        encode(Image.new("RGB", (side, 1)), RECORD, format=form)
    assert encode(Image.new("RGB", (side - 1, 1)), RECORD, format=form)[1] == f"image/{form}"


def test_endings_and_media_types_go_together() -> None:
    found = {extension_of(encode(picture(), RECORD, format=form)[1]) for form in FORMATS}
    assert found == {".png", ".jpg", ".webp"}
    assert (extension_of(None), extension_of("image/tiff")) == (".png", ".bin")


def face(left: float, top: float, right: float, bottom: float) -> Face:
    """A face of which only the box matters."""
    return Face(np.array([left, top, right, bottom], np.float32), 0.9, np.zeros((5, 2), np.float32))


def marked(width: int, height: int) -> Image.Image:
    """A picture whose red and green tell where a pixel is, in steps of 4 pixels."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x // 4, y // 4, 0 * x], axis=2).astype(np.uint8))


def place(part: Image.Image) -> tuple[int, int, int, int]:
    """Where a part of a marked picture was: left, top, right, bottom, to 4 pixels."""
    red, green, _ = np.asarray(part).transpose(2, 0, 1).astype(int) * 4
    return int(red[0, 0]), int(green[0, 0]), int(red[-1, -1]) + 4, int(green[-1, -1]) + 4


def test_a_face_crop_is_a_square_around_the_head() -> None:
    # Given a face of 100 x 120 pixels in the upper left of a portrait
    part = shape(marked(800, 1000), crop="face", face=face(200, 300, 300, 420))

    # Then the crop is 2.2 times its height, with the face in the middle and a little below
    assert part.size == (264, 264)
    assert place(part) == pytest.approx((118, 216, 382, 480), abs=4)


def test_the_head_fits_with_hair_and_chin() -> None:
    for box in ((0, 0, 80, 100), (700, 20, 800, 140), (350, 880, 450, 1000), (300, 400, 700, 880)):
        left, top, right, bottom = place(shape(marked(800, 1000), crop="face", face=face(*box)))
        height = box[3] - box[1]
        assert left <= box[0] and right >= box[2] and bottom >= box[3]
        assert top <= max(0, box[1] - 0.35 * height) + 4


@pytest.mark.parametrize("size", [(512, 512), (300, 600), (600, 200)])
@pytest.mark.parametrize("box", [(390, 490, 410, 512), (0, 0, 60, 70), (100, 100, 700, 800)])
def test_a_face_crop_has_the_shape_of_the_size_and_is_not_squeezed(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    part = shape(marked(800, 1000), crop="face", size=size, face=face(*box))
    assert part.size == size
    left, top, right, bottom = place(part)
    assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.25)
    assert 0 <= left < right <= 804 and 0 <= top < bottom <= 1004
    # the head's square is in it, or all that the picture has of this shape
    side = 2.2 * max(box[2] - box[0], box[3] - box[1])
    assert min(right - left, bottom - top) >= side - 8 or right - left >= 792 or bottom - top >= 992


def test_without_a_face_the_middle_is_taken() -> None:
    assert place(shape(marked(800, 1000), crop="face", face=None)) == pytest.approx((0, 100, 800, 900), abs=4)


def test_a_size_alone_takes_the_middle_and_resizes() -> None:
    # Given a picture that is higher than the size
    part = shape(marked(400, 800), size=(200, 200), face=face(0, 0, 50, 50))

    # Then what is left away is left away above and below alike, and the face does not matter
    assert part.size == (200, 200)
    assert place(part) == pytest.approx((0, 200, 400, 600), abs=8)


def test_nothing_asked_for_is_nothing_done() -> None:
    image = picture()
    assert shape(image) is image
    assert np.array_equal(np.asarray(shape(image, size=image.size)), np.asarray(image))


def test_resizing_is_smooth() -> None:
    """Lanczos: stripes finer than the small picture's pixels become their mean, not some of them."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 200
    small = np.asarray(shape(Image.fromarray(stripes), size=(64, 64)), int)
    assert np.abs(small[8:-8, 8:-8] - 100).max() <= 6


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", [DRAWN, REDRAWN])
def test_every_file_says_by_iptcs_word_that_it_is_made_by_ai(form: Format, source: DigitalSource) -> None:
    # Given a picture in any format, whose prompt speaks of another source
    hostile = {**RECORD, "final_prompt": "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalCapture"}
    data = encode(picture(), hostile, format=form, source=source)[0]

    # When its XMP is read as XML, as other tools do
    found = Image.open(io.BytesIO(data))
    root = ElementTree.fromstring(xmp_of(found).decode())
    (node,) = root.iter("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")

    # Then it tells the source, and so does our own reader
    assert node.text == uri_of(source) == f"http://cv.iptc.org/newscodes/digitalsourcetype/{source}"
    assert source_of(found) == source


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_for_everybody_tells_nothing_of_prompt_person_or_job(form: Format) -> None:
    # Given a record with a prompt and ids
    record = {
        **RECORD,
        "final_prompt": "SECRET WORDS",
        "job": "4f9c",
        "render": "77aa",
        "software": "hyperlora-portraits",
    }

    # When it is encoded without its making
    data = encode(picture(), record, format=form, tells_making=False)[0]
    found = Image.open(io.BytesIO(data))

    # Then it still says that AI made it, and what must be said beside it; nothing else of the record is there
    assert source_of(found) == DRAWN
    assert record_of(found) == {"software": "hyperlora-portraits", "notice": "untrained"}
    assert "parameters" not in found.info and 0x8769 not in found.getexif()
    for secret in ("SECRET WORDS", "4f9c", "77aa", "b" * 64, "blurry"):
        for codec in ("utf-8", "utf-16-be"):
            assert secret.encode(codec) not in data


def test_a_page_of_pictures_says_so() -> None:
    page = Image.open(io.BytesIO(png_of(picture(), ASSEMBLED)))
    assert source_of(page) == "compositeSynthetic" and source_of(picture()) is None
