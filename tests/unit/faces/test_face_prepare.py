"""From any kind of picture file to what the networks are shown."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter
from skimage import data

from hyperlora.errors import BadPhoto, NoFaceFound
from hyperlora.faces import Face, PhotoConditions, debug_picture, prepare_photo, similarity
from hyperlora.faces.closer import embed_closely
from hyperlora.faces.crops import base_box, faceless, masked_face
from hyperlora.faces.findings import share_outside
from hyperlora.faces.geometry import POLYGON_ORDER, face_polygon, landmark_box
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.types import FaceAnalyzer

GREY = (0x7F, 0x7F, 0x7F)


def codes(conditions: PhotoConditions) -> set[str]:
    return {finding.code for finding in conditions.findings}


def reopened(image: Image.Image, **how: object) -> Image.Image:
    """The picture written to a file and opened again, as a user's photo comes."""
    buffer = io.BytesIO()
    image.save(buffer, **how)  # type: ignore[arg-type]
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_a_good_photo_is_usable(astronaut_conditions: PhotoConditions) -> None:
    assert astronaut_conditions.verdict == "usable"
    assert astronaut_conditions.reasons == ()
    assert astronaut_conditions.encoder == "opencv-yunet-sface"
    assert astronaut_conditions.clip_image.mode == astronaut_conditions.base_image.mode == "RGB"


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_the_exif_orientation_is_honoured(
    analyzer: FaceAnalyzer, astronaut: Image.Image, astronaut_conditions: PhotoConditions, orientation: int
) -> None:
    # Given the photo as a phone stores it: turned or mirrored, with the tag that undoes it
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = reopened(astronaut.transpose(undo[orientation]), format="PNG", exif=exif)
    # When it is prepared
    conditions = prepare_photo(analyzer, stored)
    # Then it is the photo as it was taken, pixel for pixel
    assert codes(conditions) == set()
    assert np.array_equal(np.asarray(conditions.clip_image), np.asarray(astronaut_conditions.clip_image))
    np.testing.assert_allclose(conditions.face_embedding, astronaut_conditions.face_embedding, atol=1e-6)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_photo_that_lost_its_orientation_is_turned(
    analyzer: FaceAnalyzer, astronaut: Image.Image, astronaut_conditions: PhotoConditions, degrees: int
) -> None:
    # Given the photo lying on its side or upside down, without any tag
    lying = astronaut.rotate(-degrees, expand=True)
    # When it is prepared
    conditions = prepare_photo(analyzer, lying)
    # Then it was turned back, and says so
    assert codes(conditions) == {"turned_photo"} and conditions.verdict == "warning"
    assert f"by {degrees} degrees" in conditions.reasons[0]
    np.testing.assert_allclose(conditions.face_embedding, astronaut_conditions.face_embedding, atol=1e-6)


def sixteen_bit(astronaut: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(astronaut.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "kind",
    ["L", "LA", "RGBA", "P", "CMYK jpeg", "YCbCr jpeg", "16 bit", "32 bit", "float", "palette gif", "Lab"],
)
def test_every_kind_of_picture_file(
    analyzer: FaceAnalyzer, astronaut: Image.Image, astronaut_conditions: PhotoConditions, kind: str
) -> None:
    # Given the photo as this kind of file
    grey = astronaut.convert("L")
    makers = {
        "L": lambda: grey,
        "LA": lambda: grey.convert("LA"),
        "RGBA": lambda: reopened(astronaut.convert("RGBA"), format="PNG"),
        "P": lambda: astronaut.quantize(256),
        "CMYK jpeg": lambda: reopened(astronaut.convert("CMYK"), format="JPEG", quality=95),
        "YCbCr jpeg": lambda: reopened(astronaut, format="JPEG", quality=90),
        "16 bit": lambda: reopened(sixteen_bit(astronaut), format="PNG"),
        "32 bit": lambda: Image.fromarray(np.asarray(grey).astype(np.int32) * 257),
        "float": lambda: Image.fromarray(np.asarray(grey).astype(np.float32) / 255),
        "palette gif": lambda: reopened(astronaut.quantize(128), format="GIF"),
        "Lab": lambda: ImageCms.profileToProfile(
            astronaut, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        ),
    }
    picture = makers[kind]()
    assert isinstance(picture, Image.Image)
    # When it is prepared
    conditions = prepare_photo(analyzer, picture)
    # Then the person is known again and the CLIP picture is nearly that of the photo (grey where the file is grey)
    assert conditions.photo.mode == "RGB"
    assert conditions.face_embedding @ astronaut_conditions.face_embedding > 0.9
    expected = astronaut_conditions.photo
    if kind in ("L", "LA", "16 bit", "32 bit", "float"):
        expected = expected.convert("L").convert("RGB")
    difference = np.abs(np.asarray(conditions.photo, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() < 6


def test_transparency_becomes_the_grey_of_nothing(astronaut: Image.Image) -> None:
    # Given a cut-out: left half opaque, a quarter half transparent, the rest clear, with white beneath
    picture = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    picture.paste((200, 100, 0, 255), (0, 0, 32, 64))
    picture.paste((255, 255, 255, 128), (32, 0, 48, 64))
    pixels = np.asarray(upright_rgb(picture).image)
    # Then clear pixels are #7f7f7f, half transparent ones the mean, opaque ones themselves
    assert tuple(pixels[10, 60]) == GREY
    assert tuple(pixels[10, 10]) == (200, 100, 0)
    np.testing.assert_allclose(pixels[10, 40], [127 + 128 * 128 / 255] * 3, atol=1)


def test_a_palette_with_a_transparent_colour(astronaut: Image.Image) -> None:
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([255, 255, 255, 10, 20, 30] + [0] * 750)
    picture.paste(1, (0, 0, 32, 64))
    opened = reopened(picture, format="PNG", transparency=0)
    pixels = np.asarray(upright_rgb(opened).image)
    assert tuple(pixels[0, 63]) == GREY and tuple(pixels[0, 0]) == (10, 20, 30)


def test_a_colour_profile_is_applied_and_a_broken_one_is_told(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given the photo with sRGB's own profile, and one with nonsense for a profile
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    good = reopened(astronaut, format="PNG", icc_profile=profile)
    broken = astronaut.copy()
    broken.info["icc_profile"] = b"not a profile at all"
    # Then the first is the photo, and the second is too, with a warning
    assert np.abs(np.asarray(upright_rgb(good).image, dtype=int) - np.asarray(astronaut)).max() <= 2
    conditions = prepare_photo(analyzer, broken)
    assert codes(conditions) == {"colours_assumed"}
    assert "colour profile" in conditions.reasons[0]


def test_files_that_cannot_be_used_are_bad_photos(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given a torn file
    buffer = io.BytesIO()
    astronaut.save(buffer, format="JPEG")
    with pytest.raises(BadPhoto, match="torn"):
        prepare_photo(analyzer, Image.open(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2])))
    # A stamp
    with pytest.raises(BadPhoto, match="20 x 30 pixels"):
        prepare_photo(analyzer, Image.new("RGB", (20, 30)))
    # And numbers that are none
    with pytest.raises(BadPhoto, match="finite"):
        prepare_photo(analyzer, Image.fromarray(np.full((64, 64), np.nan, dtype=np.float32)))


@pytest.mark.parametrize("name", ["coins", "coffee", "chelsea", "noise", "grey"])
def test_no_face_is_an_error_that_helps(analyzer: FaceAnalyzer, name: str) -> None:
    # Given pictures without a person (YuNet takes the coffee cup for one at first, and the cat if it is turned)
    if name == "noise":
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    elif name == "grey":
        picture = Image.new("RGB", (400, 300), GREY)
    else:
        picture = Image.fromarray(getattr(data, name)())
    with pytest.raises(NoFaceFound, match=r"no face found.*use a.* photo that shows the face"):
        prepare_photo(analyzer, picture)


def test_a_long_thin_picture_is_no_trouble(analyzer: FaceAnalyzer) -> None:
    with pytest.raises(NoFaceFound):
        prepare_photo(analyzer, Image.new("RGB", (4000, 33), "white"))


def test_a_tight_crop_works(
    analyzer: FaceAnalyzer, astronaut: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    # Given nothing but the face, cut at chin and hairline
    conditions = prepare_photo(analyzer, astronaut.crop((180, 66, 268, 176)))
    # Then the person is known again, and the boxes that leave the photo are grey there
    assert conditions.face_embedding @ astronaut_conditions.face_embedding > 0.8
    assert tuple(np.asarray(conditions.clip_image)[0, 0]) == GREY
    assert abs(conditions.clip_image.width - astronaut_conditions.clip_image.width) < 25


def test_a_small_face_is_a_warning_and_a_tiny_one_an_error(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    # Given the photo at 40 %, its face 36 pixels wide, and at 18 %, 16 pixels
    small = prepare_photo(analyzer, astronaut.resize((205, 205), Image.Resampling.LANCZOS))
    assert codes(small) == {"small_face"} and "36 pixels" in small.reasons[0]
    with pytest.raises(BadPhoto, match=r"1[5-7] pixels wide"):
        prepare_photo(analyzer, astronaut.resize((92, 92), Image.Resampling.LANCZOS))


def test_blur_light_and_pose_are_told(analyzer: FaceAnalyzer, astronaut: Image.Image, cameraman: Image.Image) -> None:
    assert "blurred_face" in codes(prepare_photo(analyzer, astronaut.filter(ImageFilter.GaussianBlur(4))))
    assert "dark_face" in codes(prepare_photo(analyzer, astronaut.point(lambda v: v // 8)))
    assert "bright_face" in codes(prepare_photo(analyzer, astronaut.point(lambda v: min(255, v * 2))))
    assert "turned_face" in codes(prepare_photo(analyzer, cameraman))


def test_several_faces_are_told_and_the_best_is_taken(
    analyzer: FaceAnalyzer, astronaut: Image.Image, cameraman: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    pair = Image.new("RGB", (1024, 512))
    pair.paste(cameraman.convert("RGB"), (0, 0))
    pair.paste(astronaut, (512, 0))
    conditions = prepare_photo(analyzer, pair)
    assert conditions.verdict == "warning"
    assert conditions.findings[0].code == "several_faces" and conditions.reasons[0].startswith("2 faces found")
    assert conditions.face_embedding @ astronaut_conditions.face_embedding > 0.95
    assert len(conditions.others) == 1


def test_a_face_cut_by_the_edge_is_told(analyzer: FaceAnalyzer, astronaut: Image.Image) -> None:
    conditions = prepare_photo(analyzer, astronaut.crop((195, 90, 255, 155)))
    assert "cut_off_face" in codes(conditions)


def test_the_share_outside_by_hand() -> None:
    # Given landmarks whose polygon is the square from (0, 0) to (40, 40), in a picture that ends at x = 30
    corners = [(0, 0)] * 17 + [(0, 40)] * 9 + [(40, 40)] * 10 + [(40, 0)] * 7
    points = np.zeros((106, 2), dtype=np.float32)
    points[list(POLYGON_ORDER)] = corners
    face = Face(np.array([0, 0, 40, 40], np.float32), 1.0, np.zeros((5, 2), np.float32), points)
    # Then a quarter lies outside
    assert share_outside((30, 100), face) == pytest.approx(0.25, abs=0.01)
    assert share_outside((100, 100), face) == 0.0
    assert share_outside((0, 0), face) == pytest.approx(1.0, abs=0.02)


def square_face(left: int, top: int, side: int) -> Face:
    """A face whose 106 landmarks all lie on the edge of a square, the polygon being that square."""
    right, bottom = left + side, top + side
    corners = [(left, top)] * 11 + [(left, bottom)] * 11 + [(right, bottom)] * 11 + [(right, top)] * 10
    points = np.full((106, 2), (left, top), dtype=np.float32)
    points[list(POLYGON_ORDER)] = corners
    box = np.array([left, top, right, bottom], np.float32)
    return Face(box, 1.0, np.array([[0, 0], [9, 0], [5, 5], [1, 9], [8, 9]], np.float32), points)


def test_the_masked_face_by_hand() -> None:
    # Given a white picture and a square polygon from (200, 200) to (300, 300)
    picture = Image.new("RGB", (600, 600), "white")
    face = square_face(200, 200, 100)
    pixels = np.asarray(masked_face(picture, face)).astype(int)
    # Then the crop is the landmark box: half a side 75 about (250, 250 - 9.375): from (175, 166) on
    assert pixels.shape == (150, 150, 3)
    # And the square is white inside, #7f7f7f far outside; on its edges the mask is about one half
    left, top = 175, round(250 - 9.375 - 75)
    assert (pixels[250 - top, 250 - left] > 250).all()
    assert tuple(pixels[2, 2]) == GREY
    half = (255 + 127) / 2
    for x, y in ((200, 250), (300, 250), (250, 200), (250, 300)):
        assert pixels[y - top, x - left, 0] == pytest.approx(half, abs=8), (x, y)
    # And the edge is as soft as a Gaussian of 15 pixels of 512 over a window of 160 pixels: 4.7 pixels
    profile = pixels[250 - top, : 250 - left, 0]
    share = (profile - 127) / 128
    ten, ninety = np.argmax(share > 0.1), np.argmax(share > 0.9)
    assert ninety - ten == pytest.approx(2 * 1.2816 * 15 * 160 / 512, abs=2.5)


def test_the_base_picture_hides_the_face_and_keeps_the_rest(
    analyzer: FaceAnalyzer, astronaut_conditions: PhotoConditions
) -> None:
    # Given the astronaut's photo and its Base picture, cut from the photo at whole pixels
    photo = np.asarray(astronaut_conditions.photo).astype(int)
    left, top, right, bottom = base_box(astronaut_conditions.photo, astronaut_conditions.face).to_pixels()
    base = np.asarray(astronaut_conditions.base_image).astype(int)
    cut = photo[top:bottom, left:right]
    assert base.shape == cut.shape
    # Then the suit and the background are untouched
    assert np.array_equal(base[-40:], cut[-40:]) and np.array_equal(base[:, :20], cut[:, :20])
    # And eyes, nose and mouth have no detail left: neighbouring pixels differ by a small part of what they did
    rows, columns = slice(95 - top, 150 - top), slice(200 - left, 250 - left)
    detail, detail_before = (np.abs(np.diff(part[rows, columns], axis=1)).mean() for part in (base, cut))
    assert detail < 0.15 * detail_before
    # And the recogniser no longer knows the person (the detector still sees that a head is there)
    value, _ = similarity(analyzer, astronaut_conditions.base_image, astronaut_conditions.face_embedding)
    assert value is None or value < 0.363


def test_the_base_box_reaches_further_down_and_is_clamped() -> None:
    # Given L = 75 about (250, 240.625): 150 to the left and right, 112.5 up, 187.5 down
    face = square_face(200, 200, 100)
    assert base_box(Image.new("RGB", (600, 600)), face) == pytest.approx((100, 128.125, 400, 428.125))
    assert base_box(Image.new("RGB", (320, 300)), face) == pytest.approx((100, 128.125, 320, 300))
    with pytest.raises(BadPhoto, match="outside the photo"):
        base_box(Image.new("RGB", (90, 90)), face)


def test_faceless_and_masked_do_not_touch_the_photo(astronaut: Image.Image, analyzer: FaceAnalyzer) -> None:
    before = np.asarray(astronaut).copy()
    face = prepare_photo(analyzer, astronaut).face
    faceless(astronaut, face), masked_face(astronaut, face)
    assert np.array_equal(np.asarray(astronaut), before)


class Recorder:
    """An analyzer that writes down what it is asked, and answers with what it was given."""

    name = "recorder"
    embedding_size = 4

    def __init__(self, answers: list[list[Face]]) -> None:
        self.answers = answers
        self.detected: list[tuple[tuple[int, ...], int]] = []
        self.embedded: list[tuple[np.ndarray, Face]] = []

    def detect(self, rgb_HW3: np.ndarray, size: int = 640) -> list[Face]:
        self.detected.append((rgb_HW3.shape[:2], size))
        return self.answers.pop(0)

    def embed(self, rgb_HW3: np.ndarray, face: Face) -> np.ndarray:
        self.embedded.append((rgb_HW3, face))
        return np.array([1, 0, 0, 0], dtype=np.float32)


def test_the_face_stream_looks_again_in_twice_the_landmark_box() -> None:
    # Given a white photo and a square face: the landmark box has L = 75 about (250, 240.625)
    photo = Image.new("RGB", (350, 600), "white")
    first = square_face(200, 200, 100)
    # When the second look sees a neighbour with a better score, and the same face at (101, 110) of the crop
    same = square_face(101, 110, 98)
    neighbour = square_face(10, 10, 60)
    recorder = Recorder([[neighbour, same]])
    closer = embed_closely(recorder, photo, first)
    # Then the crop was 4 L = 300 pixels from (100, 91) on (240.625 - 150 to the nearest pixel), looked at with 640
    assert recorder.detected == [((300, 300), 640)]
    # And the same face was embedded, not the neighbour
    crop, used = recorder.embedded[0]
    assert used is same and closer.findings == ()
    # And the crop is the untouched photo as far as x = 350, where the photo ends, and grey beyond
    assert crop.shape == (300, 300, 3)
    assert (crop[:, :250] == 255).all() and (crop[:, 250:] == 0x7F).all()


def test_the_first_look_is_used_only_with_a_reason() -> None:
    # Given a sure first look, and a second that sees only somebody else
    photo = Image.new("RGB", (600, 600), "white")
    recorder = Recorder([[square_face(10, 10, 60)]])
    closer = embed_closely(recorder, photo, square_face(200, 200, 100))
    # Then the first face is embedded, moved into the crop (which begins at (100, 91)), and the reason is recorded
    assert [finding.code for finding in closer.findings] == ["first_detection_used"]
    assert recorder.embedded[0][1].box_xyxy.tolist() == [100, 109, 200, 209]
    # And an unsure first look that is not confirmed is no face
    unsure = dataclasses.replace(square_face(200, 200, 100), score=0.7)
    with pytest.raises(NoFaceFound, match=r"score 0\.70.*did not confirm"):
        embed_closely(Recorder([[]]), photo, unsure)


def test_the_debug_picture_shows_everything(
    analyzer: FaceAnalyzer, astronaut: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    # Given a good photo and a tight, unsharp one
    sheet = debug_picture(astronaut_conditions)
    worse = debug_picture(prepare_photo(analyzer, astronaut.crop((195, 90, 255, 155))))
    # Then both are one RGB sheet of the same width; the second has lines of text more
    assert sheet.mode == "RGB" and sheet.width == worse.width and worse.height > sheet.height
    # And the colours of box, polygon and boxes are there
    colours = {tuple(pixel) for pixel in np.asarray(sheet).reshape(-1, 3)}
    assert {(0x35, 0xE0, 0x6A), (0xFF, 0x4B, 0x4B), (0x4B, 0x9B, 0xFF), (0xFF, 0x7B, 0xE5)} <= colours
    # And what CLIP sees: plenty of #7f7f7f
    assert (np.asarray(sheet) == 0x7F).all(axis=2).mean() > 0.02


def test_polygon_and_box_belong_to_the_photo_given(astronaut_conditions: PhotoConditions) -> None:
    polygon = face_polygon(astronaut_conditions.face)
    box = landmark_box(astronaut_conditions.face)
    assert box.left < polygon[:, 0].min() and polygon[:, 0].max() < box.right
    assert box.top < polygon[:, 1].min() and polygon[:, 1].max() < box.bottom
