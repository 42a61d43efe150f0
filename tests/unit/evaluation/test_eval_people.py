"""Held-out people: who they are, and that nothing serves twice."""

from __future__ import annotations

import numpy as np
import pytest

from hyperlora.errors import InvalidRequest
from hyperlora.evaluation.people import GALLERY, PHOTOS, HeldOut, held_out, prompt_of
from hyperlora.mini.attributes import Attributes
from hyperlora.mini.people import person, split_of


def test_they_are_the_test_range() -> None:
    people = held_out(100, 64)
    assert {split_of(one.seed) for one in people} == {"test"} and len({one.seed for one in people}) == 100


@pytest.mark.parametrize("seed", [0, 1_999_999, 3_000_000, 9_000_000])
def test_nobody_else_is_held_out(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="2,000,000"):
        HeldOut(seed, 64)


def test_nobody_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        held_out(0, 64)


def test_gallery_prompts_and_photos_are_different_drawings() -> None:
    # Given the numbers of the drawings that are made of a person
    one = HeldOut(2_000_005, 64)
    asked = range(100, 100 + 64)
    numbers = [*GALLERY, *PHOTOS, *asked]

    # Then none serves twice, and the noise of pictures has seeds of its own for every person and prompt
    assert len(set(numbers)) == len(numbers) == 4 + 8 + 64
    seeds = {each.picture_seed(place) for each in (one, HeldOut(2_000_006, 64)) for place in range(64)}
    assert len(seeds) == 128


def test_other_things_are_asked_for_than_the_photo_shows() -> None:
    slots = ("clothing", "clothing_colour", "background")
    for one in held_out(30, 64):
        photo = one.photo_says()
        for place in range(4):
            said = one.asked_otherwise(place)
            assert all(getattr(said, slot) != getattr(photo, slot) for slot in slots)


def test_a_prompt_says_nothing_of_the_person() -> None:
    said = Attributes("hoodie", "red", "garden", "glasses", "smiling")
    assert prompt_of(said) == "portrait photo of a person, wearing a red hoodie and glasses, smiling, in a garden"


def test_portraits_are_drawn_at_the_models_size_and_tell_nothing_else() -> None:
    # Given a model that draws 64 pixels
    one = HeldOut(2_000_007, 64, photo_size=96)

    # When gallery, ideal and photo are drawn
    gallery, ideal, photo = one.gallery(), one.ideal(0), one.photo(0)

    # Then sizes are the model's and the photo's, and no labels are handed on
    assert [image.size for image in (*gallery, ideal, photo)] == [(64, 64)] * 5 + [(96, 96)]
    assert not any(image.info for image in (*gallery, ideal, photo))
    assert len({image.tobytes() for image in gallery}) == 4

    # And they are the same the next time, and of the same person
    assert np.array_equal(np.asarray(one.ideal(0)), np.asarray(ideal))
    assert one.who == person(2_000_007)
