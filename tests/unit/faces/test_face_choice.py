"""Which face of a photo is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hyperlora.errors import BadPhoto, InvalidRequest, NoFaceFound, NoUsablePhoto
from hyperlora.faces import Face, PhotoConditions, debug_picture, prepare_photo
from hyperlora.faces.choice import choose_face, left_to_right, places
from hyperlora.faces.crops import faceless
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.identity import prepare_identity


def face_at(x: float, y: float, side: float, score: float) -> Face:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], dtype=np.float32)
    return Face(box, score, np.zeros((5, 2), dtype=np.float32))


# Best score first, as a search gives them, in a photo of 400 x 200: right, left (the largest), middle.
FACES = (face_at(330, 100, 40, 0.95), face_at(60, 100, 80, 0.9), face_at(210, 90, 50, 0.8))
SIZE = (400, 200)


@pytest.mark.parametrize(("choice", "place"), [("clearest", 0), ("largest", 1), ("central", 2), (0, 1), (1, 2), (2, 0)])
def test_each_choice_is_its_face(choice: Any, place: int) -> None:
    assert choose_face(FACES, choice, SIZE) is FACES[place]


def test_a_number_beyond_the_last_face_says_how_many_there_are_and_where() -> None:
    with pytest.raises(
        BadPhoto, match=r"face 3 was asked for, but the photo shows 3 faces, from left to right: 0 \(80"
    ) as told:
        choose_face(FACES, 3, SIZE)
    assert "2 (40 px wide, around x 330, y 100)" in str(told.value) and "number 0" in str(told.value)
    with pytest.raises(BadPhoto, match="face 1 was asked for, but the photo shows one face"):
        choose_face(FACES[:1], 1, SIZE)


@pytest.mark.parametrize("choice", [-1, True, "0", "left", None, 1.0])
def test_what_is_no_choice_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"clearest, largest, central or by its number.*beginning with 0"):
        choose_face(FACES, choice, SIZE)


def test_no_face_is_no_face_whatever_is_chosen() -> None:
    for choice in ("clearest", 0):
        with pytest.raises(NoFaceFound, match="400 x 200 pixels"):
            choose_face((), choice, SIZE)  # type: ignore[arg-type]


def test_faces_count_from_the_left_of_the_photo() -> None:
    assert left_to_right(FACES) == [FACES[1], FACES[2], FACES[0]]
    assert places(FACES).startswith("0 (80 px wide, around x 60, y 100), 1 (50 px")


@pytest.fixture(scope="module")
def group() -> Image.Image:
    """The cameraman (in profile, unsure, large) on the left, the astronaut (clear, small) on the right."""
    from skimage import data

    picture = Image.new("RGB", (900, 600), "white")
    picture.paste(Image.fromarray(data.camera()).convert("RGB").resize((600, 600)), (0, 0))
    picture.paste(Image.fromarray(data.astronaut()).resize((300, 300)), (600, 0))
    return picture


def test_prepare_photo_takes_the_face_that_is_meant(
    analyzer: FaceAnalyzer, group: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    # Given who is to be seen in each half
    left = prepare_photo(analyzer, group.crop((0, 0, 600, 600))).face_embedding
    right = astronaut_conditions.face_embedding
    # When each is chosen
    by_number = [prepare_photo(analyzer, group, face=number) for number in (0, 1)]
    # Then embeddings, boxes and both of CLIP's pictures are those of that face, and the other one is kept apart
    assert by_number[0].face_embedding @ left > 0.95
    assert by_number[0].face_embedding @ right < 0.3
    assert by_number[1].face_embedding @ right > 0.9
    assert by_number[0].face.box_xyxy[2] < 600 < by_number[1].face.box_xyxy[0]
    assert [len(each.others) for each in by_number] == [1, 1]
    assert by_number[0].others[0].box_xyxy.tolist() == by_number[1].face.box_xyxy.tolist()
    seen, other, expected = (
        np.asarray(each.clip_image.resize((64, 64))).astype(int)
        for each in (by_number[1], by_number[0], astronaut_conditions)
    )
    assert 2 * np.abs(seen - expected).mean() < np.abs(other - expected).mean()
    for each in by_number:
        assert np.array_equal(np.asarray(each.base_image), np.asarray(faceless(each.photo, each.face)))
    assert by_number[0].base_image.size != by_number[1].base_image.size
    # And the words pick the same two
    largest, clearest = (prepare_photo(analyzer, group, face=word) for word in ("largest", "clearest"))  # type: ignore[arg-type]
    assert np.array_equal(largest.face.box_xyxy, by_number[0].face.box_xyxy)
    assert np.array_equal(clearest.face.box_xyxy, by_number[1].face.box_xyxy)


def test_who_did_not_choose_is_told_how_to(analyzer: FaceAnalyzer, group: Image.Image) -> None:
    # Given a photo of two people, and nothing said
    conditions = prepare_photo(analyzer, group)
    # Then the finding says who is where, who is used, and how to choose another
    assert conditions.findings[0].code == "several_faces"
    assert "the clearest one, number 1 (score" in conditions.reasons[0]
    assert "choose the face: largest, central or its number" in conditions.reasons[0]
    # And who chose the very same face is not told so
    assert "several_faces" not in {each.code for each in prepare_photo(analyzer, group, face=1).findings}


def test_the_debug_picture_numbers_every_face(analyzer: FaceAnalyzer, group: Image.Image) -> None:
    # Given the same photo with either face chosen, and one with a single face
    sheets = [np.asarray(debug_picture(prepare_photo(analyzer, group, face=number))) for number in (0, 1)]
    alone = np.asarray(debug_picture(prepare_photo(analyzer, group.crop((600, 0, 900, 300)))))
    # Then the first tile has grey frames in the colour of other faces, which a lone face has not
    grey = (0xB0, 0xB0, 0xB0)
    counts = [int((sheet[26:346, 8:328] == grey).all(axis=2).sum()) for sheet in (*sheets, alone)]
    assert counts[0] > 100 and counts[1] > 100 and counts[2] < 20


class NoTokens:
    def tokens(self, images: Any) -> torch.Tensor:
        return torch.zeros(len(images), 1, 1)


def test_an_identity_takes_one_choice_for_each_photo(
    analyzer: FaceAnalyzer, group: Image.Image, astronaut: Image.Image, astronaut_conditions: PhotoConditions
) -> None:
    # Given the group twice, with another face each time, and a number that is not there
    choices: list[Any] = [1, "clearest", 0, 5]
    identity = prepare_identity(analyzer, NoTokens(), [group, astronaut, group, group], faces=choices)
    # Then each photo gave its face, and the last one is refused
    likeness = identity.face_embeddings.numpy() @ astronaut_conditions.face_embedding
    assert likeness[0] > 0.9 and likeness[1] > 0.99 and likeness[2] < 0.3
    assert identity.used == (0, 1, 2)
    assert (identity.verdicts[3].verdict, identity.verdicts[3].code) == ("refused", "bad_photo")
    # And a list of another length is refused, as is a person whose only photo lacks that face
    with pytest.raises(InvalidRequest, match="found 1 for 2 photos"):
        prepare_identity(analyzer, NoTokens(), [group, group], faces=["largest"])
    with pytest.raises(NoUsablePhoto, match="face 2 was asked for"):
        prepare_identity(analyzer, NoTokens(), [group], faces=[2])
