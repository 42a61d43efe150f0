"""The held-out people of the mini world: what the judge knows them by, what the model is given, what is asked for.

Every drawing of a person has a number, and gallery, asked portraits and photos have ranges of their own, so no portrait
serves twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from PIL import Image

from hyperlora.errors import InvalidRequest
from hyperlora.mini.attributes import Attributes, caption, draw_attributes
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import TEST, Person, person

FIRST = TEST.start
GALLERY = range(0, 4)
PHOTOS = range(200, 208)
_ASKED, _OTHERS, _STRIDE = 100, 300, 1_000
DRAWN_AT_LEAST = 128
PHOTO_SIZE = 256
BARE_PROMPT = "portrait photo of a person"
PHOTO_SLOTS = ("clothing", "clothing_colour", "background")
"""What a photo shows that is not the person, as far as labels tell it."""


@dataclass(frozen=True)
class HeldOut:
    """A person of the test range.

    Parameters
    ----------
    seed
        From 2,000,000 to below 3,000,000.
    size
        Side in pixels of the pictures that the model draws; gallery portraits are made as large.
    photo_size
        Side in pixels of the photos that the model is given.
    """

    seed: int
    size: int
    photo_size: int = PHOTO_SIZE

    def __post_init__(self) -> None:
        if self.seed not in TEST:
            raise InvalidRequest(
                f"held-out persons have seeds from {TEST.start:,} to {TEST.stop - 1:,}, found {self.seed:,}"
            )

    @property
    def who(self) -> Person:
        """Their features."""
        return person(self.seed)

    def gallery(self) -> list[Image.Image]:
        """The four drawn portraits that the judge knows the person by; the model is never given them."""
        return [self._drawn(number, self.said(number)) for number in GALLERY]

    def photo(self, place: int) -> Image.Image:
        """One of eight photos for the model, with random attributes."""
        return self._portrait(PHOTOS[place], self.said(PHOTOS[place]), self.photo_size)

    def photo_says(self, place: int = 0) -> Attributes:
        """What the photo of this place shows beside the person."""
        return self.said(PHOTOS[place])

    def asked(self, place: int) -> Attributes:
        """What the prompt of this place asks for."""
        return self.said(_ASKED + place)

    def ideal(self, place: int) -> Image.Image:
        """A drawn portrait of the person that shows exactly what the prompt asks for: the best there can be."""
        return self._drawn(_ASKED + place, self.asked(place))

    def asked_otherwise(self, place: int) -> Attributes:
        """Like `asked`, and different from the first photo in clothing, its colour and background."""
        photo = self.photo_says()
        for number in count(_OTHERS + place, 20):
            said = self.said(number)
            if all(getattr(said, slot) != getattr(photo, slot) for slot in PHOTO_SLOTS):
                return said
        raise AssertionError("unreachable: the count does not end")

    def picture_seed(self, place: int) -> int:
        """The seed of the noise for the prompt of this place."""
        return self.seed * _STRIDE + _ASKED + place

    def said(self, number: int) -> Attributes:
        """The attributes of the drawing of this number, always in the plain style."""
        return draw_attributes(self.seed * _STRIDE + number, "plain")

    def _portrait(self, number: int, said: Attributes, size: int) -> Image.Image:
        image = portrait(self.who, said, self.seed * _STRIDE + number, size=size)
        image.info.clear()  # nobody is told what the drawing shows
        return image

    def _drawn(self, number: int, said: Attributes) -> Image.Image:
        """At the model's own size; small ones are drawn larger and averaged down, as the model's training data."""
        drawn = self._portrait(number, said, max(self.size, DRAWN_AT_LEAST))
        return drawn if drawn.width == self.size else drawn.resize((self.size, self.size), Image.Resampling.BOX)


def held_out(people: int, size: int, photo_size: int = PHOTO_SIZE) -> list[HeldOut]:
    """The first `people` held-out persons. Raises `InvalidRequest` for none."""
    if people < 1:
        raise InvalidRequest(f"an evaluation needs at least one person, found {people}")
    return [HeldOut(FIRST + index, size, photo_size) for index in range(people)]


def prompt_of(said: Attributes) -> str:
    """The caption of the attributes, of nobody in particular.

    A caption's subject tells age, hair and beard. With it the base model alone would come near the person, and the
    text would be measured, not the photos: so a prompt says "a person".
    """
    anyone = person(0)
    return caption(anyone, said).replace(anyone.subject, "a person")
