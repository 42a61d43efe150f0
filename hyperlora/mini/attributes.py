"""What a prompt can say about a portrait: clothing, background, accessory, expression, style.

Every word here is a label that a classifier can be asked for, and a word of the captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from hyperlora.mini.canvas import Colour
from hyperlora.mini.people import Dice, Person

CLOTHING = ("t-shirt", "hoodie", "sweater", "turtleneck", "shirt", "suit", "denim jacket", "leather jacket", "dress",
            "lab coat", "overalls")  # fmt: skip
CLOTHING_COLOURS: dict[str, Colour] = {
    "red": (196, 58, 56),
    "orange": (226, 128, 58),
    "yellow": (236, 190, 76),
    "green": (72, 140, 98),
    "teal": (46, 134, 140),
    "blue": (62, 102, 178),
    "navy": (44, 56, 96),
    "purple": (122, 84, 160),
    "pink": (228, 140, 162),
    "white": (236, 234, 228),
    "grey": (134, 140, 148),
    "black": (50, 50, 58),
}
BACKGROUNDS = ("grey studio", "blue studio", "warm studio", "beach", "forest", "city at night", "library", "sunset",
               "mountains", "garden", "starry sky", "office")  # fmt: skip
ACCESSORIES = ("none", "glasses", "round glasses", "sunglasses", "beanie", "straw hat", "headphones", "earrings",
               "scarf", "flower")  # fmt: skip
EXPRESSIONS = ("neutral", "smiling", "laughing", "serious", "surprised")
STYLES = ("plain", "watercolour", "sketch", "cyberpunk")


@dataclass(frozen=True)
class Attributes:
    """One portrait's sayable part. Raises `ValueError` for a word that is not in the vocabulary."""

    clothing: str = "t-shirt"
    clothing_colour: str = "blue"
    background: str = "grey studio"
    accessory: str = "none"
    expression: str = "neutral"
    style: str = "plain"

    def __post_init__(self) -> None:
        for name, known in VOCABULARY.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; not {value!r}")

    @classmethod
    def of(cls, values: Attributes | Mapping[str, str] | None) -> Attributes:
        """From a mapping; what is left out takes its default. Raises `ValueError` for a name that does not exist."""
        if isinstance(values, Attributes):
            return values
        values = dict(values or {})
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"no such attribute: {', '.join(unknown)}; there are {', '.join(VOCABULARY)}")
        return cls(**values)

    def labels(self) -> dict[str, str]:
        """The attributes as a plain dict."""
        return asdict(self)

    def with_(self, **changes: str) -> Attributes:
        """A copy with some words changed."""
        return replace(self, **changes)


VOCABULARY: dict[str, tuple[str, ...]] = {
    "clothing": CLOTHING,
    "clothing_colour": tuple(CLOTHING_COLOURS),
    "background": BACKGROUNDS,
    "accessory": ACCESSORIES,
    "expression": EXPRESSIONS,
    "style": STYLES,
}


def draw_attributes(seed: int, style: str | None = None) -> Attributes:
    """A random set of attributes; half without an accessory, three quarters in the plain style unless one is given."""
    d = Dice(f"hyperlora.mini attributes {seed}")
    return Attributes(
        clothing=d.pick(CLOTHING),
        clothing_colour=d.pick(tuple(CLOTHING_COLOURS)),
        background=d.pick(BACKGROUNDS),
        accessory=d.pick(ACCESSORIES, (9, *[1] * (len(ACCESSORIES) - 1))),
        expression=d.pick(EXPRESSIONS, (3, 4, 2, 1.5, 1)),
        style=style or d.pick(STYLES, (9, 1, 1, 1)),
    )


def caption(person: Person, attributes: Attributes) -> str:
    """One sentence that says what is to be seen, in the words of the vocabulary."""
    a = attributes
    garment = f"{a.clothing_colour} {a.clothing}"
    worn = garment if a.clothing == "overalls" else _with_article(garment)
    if a.accessory != "none":
        worn += f" and {a.accessory if a.accessory.endswith('s') else _with_article(a.accessory)}"
    face = a.expression if a.expression in ("smiling", "laughing") else f"{a.expression} face"
    place = _PLACES.get(a.background, f"in {_with_article(a.background)}")
    return f"{_MEDIA[a.style]} {person.subject}, wearing {worn}, {face}, {place}"


_MEDIA = {
    "plain": "portrait photo of",
    "watercolour": "watercolour painting of",
    "sketch": "pencil sketch of",
    "cyberpunk": "cyberpunk portrait of",
}
_PLACES = {
    "sunset": "at sunset",
    "beach": "on a beach",
    "city at night": "in a city at night",
    "mountains": "in the mountains",
    "starry sky": "under a starry sky",
}


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
