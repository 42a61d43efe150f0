"""Small faces: which, cut how, and laid back so that nobody sees where."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from hyperlora.detail import BOX_GROWTH, DetailPass, FacePatch, cut, face_mask, face_patch, paste, small_faces
from hyperlora.errors import BadPhoto, InvalidRequest
from hyperlora.faces.types import Face

SIZE = (1024, 768)
# Faces in a picture of 1024 x 768: in the middle, at edges and corners, beyond them, wide, tall, tiny, filling it.
BOXES = {
    "middle": (400, 300, 500, 430),
    "left edge": (0, 300, 100, 430),
    "lower right corner": (930, 640, 1024, 768),
    "beyond the upper left": (-20, -30, 100, 120),
    "near the right edge": (900, 300, 990, 420),
    "wide": (200, 100, 900, 500),
    "tall": (300, 10, 700, 760),
    "small": (500, 500, 530, 541),
    "tiny": (500, 500, 503, 504),
    "everything": (0, 0, 1024, 768),
    "between pixels": (400.4, 300.7, 499.2, 431.9),
}


def face_at(left: float, top: float, right: float, bottom: float, score: float = 0.9) -> Face:
    """A face looking at us: eyes, nose and mouth where they are in a box."""
    width, height = right - left, bottom - top
    shares = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.78), (0.65, 0.78)]
    points = np.array([[left + x * width, top + y * height] for x, y in shares], dtype=np.float32)
    return Face(np.array([left, top, right, bottom], dtype=np.float32), score, points)


def noise(size: tuple[int, int], seed: int = 0, low: int = 0, high: int = 255) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(low, high, (size[1], size[0], 3), endpoint=True)
    return Image.fromarray(pixels.astype(np.uint8))


def numbers(picture: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(picture).astype(np.int64)


def in_picture(patch: FacePatch, size: tuple[int, int] = SIZE) -> npt.NDArray[np.int64]:
    """The mask where it lies, zero elsewhere."""
    whole = Image.new("L", size, 0)
    whole.paste(patch.mask, patch.box[:2])
    return numbers(whole)


def steepest(values_HW: npt.NDArray[np.int64]) -> int:
    return int(max(np.abs(np.diff(values_HW, axis=0)).max(), np.abs(np.diff(values_HW, axis=1)).max()))


def test_the_defaults_are_those_of_the_model_s_authors() -> None:
    detail = DetailPass()
    assert (detail.strength, detail.steps, detail.below, detail.scale, detail.feather) == (0.5, 10, 0.2, 2.0, 5.0)
    assert detail.max_faces == 4
    # 0.875 of the model's size, a multiple of 8; or the size that was asked for
    assert [detail.side_for(size) for size in (1024, 512, 768, 64)] == [896, 448, 672, 56]
    assert DetailPass(side=640).side_for(1024) == 640


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 33])
@pytest.mark.parametrize("strength", [0.01, 0.1, 0.29, 0.3, 0.45, 0.5, 0.57, 0.6, 0.7, 0.999, 1.0])
def test_the_steps_asked_for_are_the_steps_walked(strength: float, steps: int) -> None:
    # Given a strength and steps; img2img walks int(n * strength) of a schedule of n steps
    n = DetailPass(strength=strength, steps=steps).schedule_steps
    # Then that is what was asked for, and no shorter schedule would do
    assert int(n * strength) == steps
    assert int((n - 1) * strength) < steps


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": 0.0}, {"strength": 1.01}, {"strength": math.nan}, {"steps": 0}, {"below": 0.0}, {"scale": 1.25},
        {"scale": math.inf}, {"feather": -1.0}, {"feather": math.nan}, {"max_faces": 0}, {"side": 0}, {"side": 900},
    ],
    ids=str,
)  # fmt: skip
def test_a_pass_that_cannot_be_drawn_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="a detail pass needs"):
        DetailPass(**wrong)  # type: ignore[arg-type]


def test_a_patch_by_hand() -> None:
    # Given a face of 100 x 130 pixels about (450, 365)
    patch = face_patch(SIZE, face_at(400, 300, 500, 430))
    # Then the square has 2 * 130 = 260 pixels about the same middle
    assert patch.box == (320, 235, 580, 495) and patch.size == patch.mask.size == (260, 260)
    assert patch.mask.mode == "L"
    mask = in_picture(patch)
    # And the mask is white over the box, one half on the edge of the box grown by a quarter (12.5 and 16.25 pixels)
    assert (mask[300:430, 410:490] >= 253).all() and (mask[310:420, 400:500] >= 253).all()
    for x, y in ((387, 365), (512, 365)):
        assert mask[y, x] == pytest.approx(127.5, abs=1), "the edge runs through the middle of this pixel"
    assert mask[283:285, 450].mean() == pytest.approx(127.5, abs=20)
    # And it falls as a Gaussian of 5 pixels blurs: 5 pixels outside it is 16 %, 10 pixels outside 2 %
    assert mask[365, 382] == pytest.approx(255 * 0.1587, abs=1) and mask[365, 377] == pytest.approx(255 * 0.0228, abs=1)
    # And beyond four of them there is nothing
    assert not mask[:, : 387 - 20].any() and not mask[: 283 - 20].any() and not mask[431 + 16 + 21 :].any()


def test_the_edge_is_the_one_that_a_gaussian_blur_gives() -> None:
    # Given a large face with a feather of 9, and as an independent reading a hard bar blurred by PIL
    patch = face_patch((2000, 2000), face_at(800, 800, 1200, 1200), feather=9.0)
    ours = numbers(patch.mask)[400]
    bar = np.zeros((60, 800), dtype=np.uint8)
    bar[:, 150:650] = 255  # the box grown by a quarter: 400 -> 500 pixels in a patch of 800
    theirs = numbers(Image.fromarray(bar).filter(ImageFilter.GaussianBlur(9.0)))[30]
    assert np.abs(ours - theirs).max() <= 4


@pytest.mark.parametrize("feather", [0.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("where", BOXES)
def test_every_patch_lies_inside_and_fades_before_it_ends(where: str, feather: float) -> None:
    # Given a face
    face = face_at(*BOXES[where])
    patch = face_patch(SIZE, face, feather=feather)
    left, top, right, bottom = patch.box
    # Then the patch is a square inside the picture, of twice the face where the picture has so many pixels
    assert 0 <= left < right <= SIZE[0] and 0 <= top < bottom <= SIZE[1]
    assert patch.size[0] == patch.size[1] == min(max(round(2 * max(face.width, face.height)), 16), *SIZE)
    # And what of the mask meets the rest of the picture is zero
    mask = numbers(patch.mask)
    meeting = [(left > 0, mask[:, 0]), (top > 0, mask[0]), (right < SIZE[0], mask[:, -1]), (bottom < SIZE[1], mask[-1])]
    assert not any(rim.any() for meets, rim in meeting if meets)
    # And it is white in the face's middle, as far as the picture shows that
    x = min(max((face.box_xyxy[0] + face.box_xyxy[2]) / 2, 0), SIZE[0] - 1)
    y = min(max((face.box_xyxy[1] + face.box_xyxy[3]) / 2, 0), SIZE[1] - 1)
    assert in_picture(patch)[int(y), int(x)] >= 250


@pytest.mark.parametrize(
    "where", ["middle", "left edge", "lower right corner", "beyond the upper left", "wide", "tall"]
)
def test_no_mask_falls_faster_than_its_feather(where: str) -> None:
    # A Gaussian of 5 pixels falls by at most 1 / (5 sqrt(2 pi)) = 8 % a pixel
    mask = in_picture(face_patch(SIZE, face_at(*BOXES[where])))
    assert steepest(mask) <= 255 / (5 * math.sqrt(2 * math.pi)) + 1


def test_at_the_picture_s_edge_the_mask_goes_on() -> None:
    # Given a face cut by the upper left corner: beyond the edge nothing is left to fade into
    mask = in_picture(face_patch(SIZE, face_at(*BOXES["beyond the upper left"])))
    assert (mask[:100, 0] == 255).all() and (mask[0, :90] == 255).all()
    # And where only the feather of one would reach beyond it, the edge is as white as the middle: left and right
    for left, column in ((2, 0), (982, 1023)):
        assert in_picture(face_patch(SIZE, face_at(left, 300, left + 40, 340)))[320, column] == 255
    # And one that fills the picture is redrawn to its very edges, top and bottom
    mask = in_picture(face_patch((768, 768), face_at(0, 0, 768, 768)), (768, 768))
    assert (mask == 255).all()


def test_corners_are_round_but_the_detector_s_box_is_inside() -> None:
    patch = face_patch(SIZE, face_at(*BOXES["middle"]))
    mask = in_picture(patch)
    # The corner of the grown box is (387.5, 283.75): nothing there; that of the detector's box is nearly white
    assert mask[284, 388] < 10
    assert min(mask[300, 400], mask[300, 499], mask[429, 400], mask[429, 499]) > 200


@pytest.mark.parametrize(
    "box",
    [(-50, 10, -1, 60), (1024, 0, 1100, 90), (10, 768, 90, 900), (50, 50, 50, 90), (9, 9, 4, 20),
     (math.nan, 0, 10, 10), (0, 0, math.inf, 10)],
)  # fmt: skip
def test_a_face_that_is_not_in_the_picture_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidRequest, match="a face inside the picture of 1024 x 768"):
        face_patch(SIZE, face_at(*box))


@pytest.mark.parametrize("scale, feather", [(BOX_GROWTH, 5.0), (math.nan, 5.0), (2.0, -1.0), (2.0, math.inf)])
def test_a_patch_without_room_to_fade_is_refused(scale: float, feather: float) -> None:
    with pytest.raises(InvalidRequest, match=r"wanted scale > 1\.25"):
        face_patch(SIZE, face_at(*BOXES["middle"]), scale=scale, feather=feather)


@pytest.mark.parametrize("where", BOXES)
def test_a_patch_that_was_not_changed_gives_back_the_picture_bit_for_bit(where: str) -> None:
    # Given noise, the worst for any blending
    picture = noise(SIZE)
    patch = face_patch(SIZE, face_at(*BOXES[where]))
    # When the very pixels of the patch are laid over it, then nothing changes, nor does the picture that was given
    before = numbers(picture)
    assert np.array_equal(numbers(paste(picture, picture.crop(patch.box), patch)), before)
    assert np.array_equal(numbers(picture), before)


@pytest.mark.parametrize("where", BOXES)
def test_outside_the_mask_no_bit_changes(where: str) -> None:
    # Given a patch that was redrawn beyond recognition
    picture, patch = noise(SIZE), face_patch(SIZE, face_at(*BOXES[where]))
    pasted = numbers(paste(picture, noise((896, 896), seed=1), patch))
    # Then the picture differs where the mask is not zero, and nowhere else
    mask = in_picture(patch)
    assert np.array_equal(pasted[mask == 0], numbers(picture)[mask == 0])
    assert (pasted[mask == 255] != numbers(picture)[mask == 255]).mean() > 0.9


@pytest.mark.parametrize("shift", [-90, 1, 30, 100])
@pytest.mark.parametrize(
    "where", ["middle", "left edge", "lower right corner", "beyond the upper left", "wide", "tall"]
)
def test_a_brighter_patch_fades_no_faster_than_its_feather(where: str, shift: int) -> None:
    # Given an even picture and its patch redrawn brighter or darker by some levels
    picture = Image.new("RGB", SIZE, (120, 120, 120))
    patch = face_patch(SIZE, face_at(*BOXES[where]))
    redrawn = Image.new("RGB", (896, 896), (120 + shift,) * 3)
    # When it is laid over
    pasted = numbers(paste(picture, redrawn, patch))[..., 0]
    # Then the face has the new brightness, the rest its own, and no step is larger than a Gaussian of 5 pixels gives,
    # but for the rounding of mask (100 / 255 / 2) and pixel (1 / 2) at both ends of the step
    assert np.ptp(pasted) == abs(shift) and set(np.unique(pasted)) <= set(range(min(120, 120 + shift), 221))
    assert steepest(pasted) <= abs(shift) / (5 * math.sqrt(2 * math.pi)) + 1.4


def test_cut_enlarges_the_patch_and_paste_brings_it_back() -> None:
    # Given a smooth picture
    picture = noise(SIZE).filter(ImageFilter.GaussianBlur(3))
    patch = face_patch(SIZE, face_at(*BOXES["middle"]))
    # When the patch is cut at 896 pixels
    enlarged = cut(picture.convert("RGBA"), patch, 896)
    # Then it is that part of the picture, enlarged
    assert enlarged.size == (896, 896) and enlarged.mode == "RGB"
    small = numbers(enlarged.resize(patch.size, Image.Resampling.BOX))
    assert np.abs(small - numbers(picture.crop(patch.box))).mean() < 1.5
    # And laid back as it is it changes the picture by no more than rounding
    assert np.abs(numbers(paste(picture, enlarged, patch)) - numbers(picture)).max() <= 2


def test_faces_stay_in_place() -> None:
    # Given a white dot on the left eye of a black picture
    face = face_at(*BOXES["near the right edge"])
    x, y = (round(float(value)) for value in face.points_5_2[0])
    picture = Image.new("RGB", SIZE)
    picture.paste((255, 255, 255), (x - 2, y - 2, x + 3, y + 3))
    patch = face_patch(SIZE, face)
    # When the patch is cut
    pixels = numbers(cut(picture, patch, 896))[..., 0]
    # Then the dot lies as far from the patch's corner, in patches
    rows, columns = np.mgrid[:896, :896]
    side = patch.size[0]
    found = (columns * pixels).sum() / pixels.sum(), (rows * pixels).sum() / pixels.sum()
    expected = [(value + 0.5 - corner) * 896 / side - 0.5 for value, corner in zip((x, y), patch.box[:2], strict=True)]
    assert found == pytest.approx(expected, abs=0.5)


def sized(*sides: int) -> list[Face]:
    return [face_at(150 * place, 0, 150 * place + side, side + 30) for place, side in enumerate(sides)]


def test_only_the_largest_face_is_surely_the_person() -> None:
    # Given three faces under a fifth of 1024 pixels, the largest in the middle
    faces = sized(50, 100, 60)
    # Then without further knowledge only that one is drawn again
    assert small_faces(faces, 1024, DetailPass()) == [faces[1]]
    # And with it all that are the person, the largest first, which need not be asked about
    asked: list[Face] = []

    def is_person(face: Face) -> bool:
        asked.append(face)
        return True

    assert small_faces(faces, 1024, DetailPass(), is_person=is_person) == [faces[1], faces[2], faces[0]]
    assert asked == [faces[2], faces[0]]
    assert small_faces(faces, 1024, DetailPass(), is_person=lambda face: face is faces[0]) == [faces[1], faces[0]]


def test_a_pattern_of_a_few_pixels_is_no_face_to_be_redrawn() -> None:
    # Given findings of 15 and 16 pixels for a model of 1024, where a 64th is 16
    # Then only the larger one is drawn again
    assert not small_faces(sized(15), 1024, DetailPass())
    assert small_faces(sized(16), 1024, DetailPass())


def test_a_large_face_is_good_as_it_is() -> None:
    # Given a person of 204 pixels and one of 205, where a fifth of the model's size is 204.8
    assert small_faces(sized(204), 1024, DetailPass()) and not small_faces(sized(205), 1024, DetailPass())
    # And the shorter side counts, here the width; a model of 512 pixels needs fewer
    assert not small_faces(sized(103), 512, DetailPass())
    # And a small stranger behind a large person is left alone, a small twin is not
    faces = sized(400, 50)
    assert small_faces(faces, 1024, DetailPass(), is_person=lambda face: False) == []
    assert small_faces(faces, 1024, DetailPass(), is_person=lambda face: True) == [faces[1]]
    # And "always" is a limit above every face
    assert small_faces(faces, 1024, DetailPass(below=math.inf)) == [faces[0]]


def test_a_crowd_is_limited() -> None:
    faces = sized(90, 80, 70, 60, 50, 40)
    found = small_faces(faces, 1024, DetailPass(max_faces=3), is_person=lambda face: True)
    assert found == faces[:3]
    assert small_faces([], 1024, DetailPass()) == []


def test_the_face_mask_covers_the_face_and_little_else() -> None:
    # Given a face of five points and a box from (400, 300) to (500, 430)
    face = face_at(*BOXES["middle"])
    mask = numbers(face_mask(SIZE, face))
    # Then eyes, nose and mouth are white, and so is the picture's part of nothing else: not a box away from the face
    for x, y in face.points_5_2:
        assert mask[round(float(y)), round(float(x))] == 255
    assert mask.shape == (768, 1024)
    assert not mask[:200].any() and not mask[530:].any() and not mask[:, :340].any() and not mask[:, 560:].any()
    # And its edge is soft
    assert steepest(mask) < 128 and 0.01 < (mask > 127).mean() < 0.04


def test_the_face_mask_is_the_polygon_grown_by_three_tenths() -> None:
    # Given 106 landmarks whose polygon is the square from (400, 300) to (500, 400), with a notch at its top so
    # that the mean of its vertices is its middle
    from hyperlora.faces.geometry import POLYGON_ORDER

    corners = [(400, 300)] * 10 + [(400, 400)] * 10 + [(500, 400)] * 10 + [(500, 300)] * 10 + [(450, 350)] * 3
    points = np.zeros((106, 2), dtype=np.float32)
    points[list(POLYGON_ORDER)] = corners
    face = Face(np.array([400, 300, 500, 400], np.float32), 0.9, np.zeros((5, 2), np.float32), points)
    # Then one half of white runs 65 pixels from the middle, at 385 and 515
    mask = numbers(face_mask(SIZE, face))
    for x, y in ((385, 330), (515, 330), (430, 415)):
        assert mask[y, x] == pytest.approx(127.5, abs=40)
    # And a Gaussian of 130 / 40 pixels is as soft as from there to a quarter of a per cent in nine pixels
    assert mask[330, 395] >= 253 and mask[330, 375] <= 2


def test_a_face_of_one_point_has_no_mask() -> None:
    face = Face(np.array([0, 0, 9, 9], np.float32), 0.9, np.full((5, 2), 4.0, np.float32))
    with pytest.raises(BadPhoto, match="one place"):
        face_mask(SIZE, face)
