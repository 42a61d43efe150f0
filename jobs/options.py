"""What a render asks for beyond prompt, seed and size: the content of the column `renders.options`.

A render that asks for nothing out of the ordinary holds NULL. Else the column holds the groups that differ from what is
ordinary, each of them whole, so that a later version may choose other values for a group's parts without changing what
older rows mean. Values are checked when a manifest is read and again when a row is: both sides use these classes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.errors import OptionsInvalid

MAX_CONTROLS = 4
MAX_SLIDERS = 8
MAX_OUTPUTS = 4
MAX_ATTEMPTS = 16

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1)]


class _Option(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Picture(_Option):
    """A given picture in storage: a pose, a start picture, a mask."""

    sha256: Sha256
    key: Annotated[str, Field(min_length=1)]
    media_type: str


class ControlOption(_Option):
    """One ControlNet of the profile and what conditions it: a picture as it is, or key points drawn from a face.

    `keypoints` is the picture whose face is meant, or `photo`: the person's first usable photo. `scale` multiplies the
    network's influence; `start` and `end` are shares of the steps between which it acts.
    """

    net: Annotated[str, Field(min_length=1)]
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

    name: str
    photo_set: uuid.UUID
    weight: Annotated[float, Field(ge=-3.0, le=3.0)]


class DetailOption(_Option):
    """Redrawing of small faces: `below` is the share of the model's size that a face must be under."""

    when: Literal["auto", "always", "never"] = "auto"
    strength: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    steps: Annotated[int, Field(ge=1)] = 10
    below: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    faces: Annotated[int, Field(ge=1, le=16)] = 4


class GateOption(_Option):
    """How alike a picture must be to be kept, and how many seeds are tried; without a least likeness: best of n."""

    min_id_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] | None
    attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]


class OutputOption(_Option):
    """One file that is made of a picture; the first of a render is the picture of its row."""

    name: str = ""
    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    crop: Literal["face"] | None = None
    size: tuple[Side, Side] | None = None
    upscale: str | None = None


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


ORDINARY = RenderOptions()
