"""What a manifest may say about who an identity is.

    photos: [a.jpg, {file: b.jpg, face: largest}]            # which face: clearest, largest, central, or 0 to 9
    identity: {mix: {ada: 0.6, alan: 0.4}}                   # a face between several people's
    identity: {together: {ada: left, alan: {region: [0.5, 0, 1, 1], prompt: "a man in a suit"}}}
    identity: {weight_set: "<64 hex digits>"}                # a stored weight set, such as a refined one
    sliders: {smile: {edited: ada-smiling, original: ada-neutral}}

A mix, several people together and a slider are made of other identities of the same manifest, each with photos. So
nothing can be made of itself, however it is turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator

from jobs.manifest_values import FileName, Line, Number, Slug, Strict, Text

MAX_SLIDERS = 100
CLEAREST = "clearest"
HALVES = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}
HALVES |= {"top": (0.0, 0.0, 1.0, 0.5), "bottom": (0.0, 0.5, 1.0, 1.0)}
_REGIONS = "left, right, top, bottom, [left, top, right, bottom] in shares from 0 to 1, or {mask: file}"
_FACES = ("largest", "central")
_MIN_SHARE = 0.05

Box = tuple[float, float, float, float]
Id = Annotated[Line, Field(min_length=1, max_length=200)]


def _face(value: Any) -> str | None:
    if type(value) is int and 0 <= value <= 9:
        return str(value)
    if value in _FACES or value == CLEAREST:
        return None if value == CLEAREST else str(value)
    raise ValueError("wanted clearest, largest, central, or a number from 0 to 9 that counts faces from the left")


def _photo(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {"file": value}


class PhotoEntry(Strict):
    """A photo and which of its faces is meant; the name alone means the clearest."""

    file: FileName
    face: Annotated[str | None, PlainValidator(_face)] = None


Photo = Annotated[PhotoEntry, BeforeValidator(_photo)]


def _region(value: Any) -> Any:
    """A box as four shares, a mask as a mapping."""
    if isinstance(value, str) and value in HALVES:
        return {"box": HALVES[value]}
    if isinstance(value, list | tuple):
        return {"box": value}
    if isinstance(value, Mapping) and set(value) == {"mask"}:
        return {"mask": value["mask"]}
    raise ValueError(f"wanted {_REGIONS}")


def _box(value: Any) -> Box:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise ValueError("wanted four shares: [left, top, right, bottom]")
    if any(isinstance(side, bool) or not isinstance(side, int | float) or not 0 <= side <= 1 for side in value):
        raise ValueError("wanted shares of the picture from 0 to 1: [left, top, right, bottom]")
    left, top, right, bottom = map(float, value)
    if right - left < _MIN_SHARE or bottom - top < _MIN_SHARE:
        raise ValueError(
            f"wanted [left, top, right, bottom] with at least {_MIN_SHARE} between left and right, top and bottom"
        )
    return left, top, right, bottom


class Region(Strict):
    """Where somebody stands: a box in shares of the picture, or a mask whose white part it is."""

    box: Annotated[Box, PlainValidator(_box)] | None = None
    mask: FileName | None = None


def _place(value: Any) -> Any:
    return value if isinstance(value, Mapping) and set(value) & {"region", "prompt"} else {"region": value}


def _plain(value: str) -> str:
    if "{" in value or "}" in value:
        raise ValueError("no fields are filled in here; write the words themselves, without braces")
    return " ".join(value.split())


class PlaceEntry(Strict):
    """One of several people in a picture; the region alone means no words of their own."""

    region: Annotated[Region, BeforeValidator(_region)]
    prompt: Annotated[Text, Field(min_length=1, max_length=1000), AfterValidator(_plain)] | None = None


class Composition(Strict):
    """An identity that is not given by photos."""

    mix: Annotated[dict[Id, Annotated[Number, Field(gt=0, le=1000)]], Field(min_length=2, max_length=8)] | None = None
    together: (
        Annotated[dict[Id, Annotated[PlaceEntry, BeforeValidator(_place)]], Field(min_length=2, max_length=4)] | None
    ) = None
    weight_set: Annotated[Line, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise ValueError(f"wanted one of `mix`, `together` and `weight_set`, found {found}")
        places = [place.region.box for place in (self.together or {}).values() if place.region.box]
        if len(set(places)) != len(places):
            raise ValueError("two people of `together` have the same place; give each a region of their own")
        return self

    @property
    def kind(self) -> str:
        """mix, together or weights."""
        return "mix" if self.mix else "together" if self.together else "weights"

    def members(self) -> list[str]:
        """The identities it is made of."""
        return list(self.mix or self.together or ())


class SliderEntry(Strict):
    """A slider: what changes from the original identity to the edited one."""

    edited: Id
    original: Id

    @model_validator(mode="after")
    def _two_people(self) -> Self:
        if self.edited == self.original:
            raise ValueError(f"{self.edited!r} is both edited and original; the slider would change nothing")
        return self


class Sliders(Strict):
    """All sliders of a job by their names."""

    sliders: Annotated[dict[Slug, SliderEntry], Field(max_length=MAX_SLIDERS)]
