"""People and what can be said about them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

import hyperlora.mini
from hyperlora.mini.attributes import CLOTHING, VOCABULARY, Attributes, caption, draw_attributes
from hyperlora.mini.people import HAIR_COLOURS, SKINS, Person, person, split_of


@pytest.mark.parametrize(
    ("seed", "part"),
    [
        (0, "train"),
        (999_999, "train"),
        (1_000_000, "validation"),
        (1_999_999, "validation"),
        (2_000_000, "test"),
        (2_999_999, "test"),
        (3_000_000, "spare"),
        (8_999_999, "spare"),
    ],
)
def test_the_ranges_of_seeds(seed: int, part: str) -> None:
    assert split_of(seed) == part


@pytest.mark.parametrize("seed", [-1, 9_000_000, 12_345_678])
def test_seeds_that_nobody_may_use_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 8,999,999"):
        person(seed)


def test_a_seed_is_the_same_person_for_ever() -> None:
    # Given what this seed has always meant
    # Then it still does: features are drawn from a generator whose sequence is promised to stay
    ada = person(2_000_028)
    assert (ada.presentation, ada.age, ada.hair_cut, ada.hair_colour) == ("woman", "young", "ponytail", "black")
    assert ada == person(2_000_028)
    assert ada.subject == "a young woman with a black ponytail"


def test_people_differ_and_every_feature_occurs() -> None:
    # Given many people
    crowd = [person(seed) for seed in range(400)]
    # Then no two are alike, and every skin and hair colour is among them
    described = {tuple(v for k, v in dataclasses.asdict(one).items() if k != "seed") for one in crowd}
    assert len(described) == 400
    assert {one.skin_name for one in crowd} == set(SKINS)
    assert {one.hair_colour for one in crowd} == set(HAIR_COLOURS)
    women = sum(one.presentation == "woman" for one in crowd)
    assert 140 < women < 250  # 48 of 100 are asked for: 192


def test_a_person_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        person(1).age = "older"  # type: ignore[misc]


def _someone() -> Person:
    return person(2_000_028)


def test_a_caption_says_what_is_to_be_seen() -> None:
    said = Attributes("hoodie", "orange", "forest", "straw hat", "laughing", "watercolour")
    assert caption(_someone(), said) == (
        "watercolour painting of a young woman with a black ponytail, wearing an orange hoodie and a straw hat, "
        "laughing, in a forest"
    )
    assert caption(_someone(), Attributes("overalls", "blue", accessory="glasses")) == (
        "portrait photo of a young woman with a black ponytail, wearing blue overalls and glasses, neutral face, "
        "in a grey studio"
    )


def test_words_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clothing must be one of t-shirt, .*not 'toga'"):
        Attributes(clothing="toga")
    with pytest.raises(ValueError, match="no such attribute: shoes"):
        Attributes.of({"shoes": "red"})


def test_random_attributes_cover_the_vocabulary() -> None:
    drawn = [draw_attributes(seed) for seed in range(600)]
    for name, words in VOCABULARY.items():
        assert {getattr(one, name) for one in drawn} == set(words)
    assert draw_attributes(3) == drawn[3]
    assert draw_attributes(3, "sketch").clothing in CLOTHING
    assert draw_attributes(3, "sketch").style == "sketch"


def test_a_public_name_is_never_a_module() -> None:
    # Given every module of the package imported, which binds its name in the package
    modules = [each.name for each in pkgutil.iter_modules(hyperlora.mini.__path__)]
    for name in modules:
        if name != "__main__":
            importlib.import_module(f"hyperlora.mini.{name}")
    # Then what the package offers by name is what it says, whatever was imported before
    assert not set(modules) & set(hyperlora.mini.__all__)
    assert all(callable(getattr(hyperlora.mini, name)) for name in hyperlora.mini.__all__)
