"""What a render asks for beyond prompt, seed and size: the content of the column `renders.options`.

A render that asks for nothing out of the ordinary holds NULL. Else the column holds the groups that differ from what is
ordinary, each of them whole, so that a later version may choose other values for a group's parts without changing what
older rows mean. Values are checked when a manifest is read and again when a row is: both sides use these classes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.errors import OptionsInvalid

MAX_CONTROLS = 4
MAX_SLIDERS = 8
MAX_OUTPUTS = 4
MAX_ATTEMPTS = 16
MAX_OUTPUT_SIDE = 16_384
MAX_DETAIL_STEPS = 1000
MAX_NAME = 64

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def slug(value: str) -> str:
    """The value if it may be part of a file's name on every system. Raises ValueError."""
    if not _SLUG.fullmatch(value) or value in _RESERVED:
        raise ValueError("wanted lower-case letters a to z, digits, - and _, as in a file's name")
    return value


def _file_part(value: str) -> str:
    return slug(value) if value else value


Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_OUTPUT_SIDE)]
PartName = Annotated[str, Field(min_length=1, max_length=200)]


class _Option(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Picture(_Option):
    """A given picture in storage: a pose, a start picture, a mask."""

    sha256: Sha256
    key: Annotated[str, Field(min_length=1, max_length=500)]
    media_type: str


class ControlOption(_Option):
    """One ControlNet of the profile and what conditions it: a picture as it is, or key points drawn from a face.

    `keypoints` is the picture whose face is meant, or `photo`: the person's first usable photo. `scale` multiplies the
    network's influence; `start` and `end` are shares of the steps between which it acts.
    """

    net: PartName
    image: Picture | None = None
    keypoints: Picture | Literal["photo"] | None = None
    scale: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    start: Share = 0.0
    end: Share = 1.0

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if (self.image is None) == (self.keypoints is None):
            raise ValueError("wanted either `image` or `keypoints`")
        if self.start >= self.end:
            raise ValueError(f"wanted start below end, found {self.start:g} and {self.end:g}")
        return self


class StartOption(_Option):
    """The picture that drawing starts from; with a mask only its white part is redrawn.

    `mask` is a picture, or `face`: the face that is found in `image`. `strength` is the share of the steps walked.
    """

    image: Picture
    strength: Annotated[float, Field(gt=0.0, le=1.0)]
    mask: Picture | Literal["face"] | None = None


class SliderOption(_Option):
    """A slider of the job, by the photo set that defines it (edited and original), and how far it is moved."""

    name: PartName
    photo_set: uuid.UUID
    weight: Annotated[float, Field(ge=-3.0, le=3.0)]


class DetailOption(_Option):
    """Redrawing of small faces: `below` is the share of the model's size that a face must be under."""

    when: Literal["auto", "always", "never"] = "auto"
    strength: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    steps: Annotated[int, Field(ge=1, le=MAX_DETAIL_STEPS)] = 10
    below: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    faces: Annotated[int, Field(ge=1, le=16)] = 4


class GateOption(_Option):
    """How alike a picture must be to be kept, and how many seeds are tried; without a least likeness: best of n."""

    min_id_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] | None
    attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]


class OutputOption(_Option):
    """One file that is made of a picture; the first of a render is the picture of its row.

    `name` is part of the file's name and of its storage key; only the first may be without.
    """

    name: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_file_part)] = ""
    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    crop: Literal["face"] | None = None
    size: tuple[Side, Side] | None = None
    upscale: PartName | None = None


class RenderOptions(_Option):
    """Everything about a render that has no column of its own."""

    base_weight: Annotated[float, Field(ge=-1.5, le=1.5)] = 0.0
    trigger_words: bool = True
    weighting: Literal["plain", "compel"] = "plain"
    control: Annotated[tuple[ControlOption, ...], Field(max_length=MAX_CONTROLS)] = ()
    start: StartOption | None = None
    sliders: Annotated[tuple[SliderOption, ...], Field(max_length=MAX_SLIDERS)] = ()
    detail: DetailOption = DetailOption()
    gate: GateOption | None = None
    outputs: Annotated[tuple[OutputOption, ...], Field(min_length=1, max_length=MAX_OUTPUTS)] = (OutputOption(),)

    @model_validator(mode="after")
    def _files_apart(self) -> Self:
        names = [output.name for output in self.outputs]
        if "" in names[1:] or len(set(names)) != len(names):
            raise ValueError(f"wanted a name of its own for every output but the first, found {names}")
        return self

    @classmethod
    def load(cls, raw: Mapping[str, Any] | None) -> Self:
        """The options of a row. Raises OptionsInvalid when this version does not know what they say."""
        if raw is None:
            return cls()
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(step) for step in first["loc"])
            raise OptionsInvalid(
                f"the options of a stored render cannot be used ({field or 'as a whole'}: {first['msg']}); they were "
                "written by another version, so run workers of that version"
            ) from error

    def dump(self) -> dict[str, Any] | None:
        """What a row holds: None when nothing is out of the ordinary."""
        written = self.model_dump(mode="json")
        return {name: written[name] for name in written if getattr(self, name) != getattr(ORDINARY, name)} or None

    def told(self) -> dict[str, Any] | None:
        """What may leave the house inside a picture's file: `dump` without storage keys and photo sets.

        A picture is told by its SHA-256 and media type, a slider by its name and weight. None when nothing is out of
        the ordinary.
        """
        told: dict[str, Any] | None = unbound(self.dump())
        return told


def unbound(dumped: Any) -> Any:
    """Dumped options without what the tenant decides: the storage keys of pictures, the photo sets of sliders."""
    if isinstance(dumped, dict):
        left_out = {"key"} if "sha256" in dumped else {"photo_set"}
        return {name: unbound(value) for name, value in dumped.items() if name not in left_out}
    return [unbound(value) for value in dumped] if isinstance(dumped, list) else dumped


ORDINARY = RenderOptions()
