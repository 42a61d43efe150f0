"""What a manifest may say about drawing beyond prompt, seed and size, and how it becomes `RenderOptions`.

- `control`: up to four ControlNets of the profile, each with an `image` that is used as it is, or `keypoints`: a file
  whose face gives the key points, or `photo` for the person's own first usable photo.
- `image`: a picture that drawing starts from; `inpaint`: a picture of which the face, or the white part of a mask, is
  drawn anew. Of both, the one in the nearest place counts.
- `sliders`: names from the job's `sliders`, each with how far it is moved.
- `min_id_similarity`, `attempts`: how alike a picture must be, and how many seeds may be tried for it.
- `outputs`: the files made of a picture; the first is the picture itself, the others need a name.

Planned options are those of a row without what only the job's tenant decides: storage keys and photo sets. `bind` adds
them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.manifest_values import FileName, FileSize, Flag, Number, PartName, Slug, Strict, Whole
from jobs.options import (
    MAX_ATTEMPTS,
    MAX_CONTROLS,
    MAX_DETAIL_STEPS,
    MAX_OUTPUTS,
    MAX_SLIDERS,
    ControlOption,
    DetailOption,
    GateOption,
    OutputOption,
    Picture,
    RenderOptions,
    SliderOption,
    StartOption,
    unbound,
)
from jobs.planned import CheckedPhoto

OWN_PHOTO = "photo"
FACE = "face"
GATED_ATTEMPTS = 4
_UNBOUND = uuid.UUID(int=0)

Share = Annotated[Number, Field(ge=0, le=1)]
Strength = Annotated[Number, Field(ge=0.01, le=1)]
Path = tuple[str | int, ...]


class ControlEntry(Strict):
    """One ControlNet of the profile and what conditions it."""

    net: PartName
    image: FileName | None = None
    keypoints: FileName | None = None
    scale: Annotated[Number, Field(ge=0, le=2)] = 1.0
    start: Share = 0.0
    end: Share = 1.0

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if (self.image is None) == (self.keypoints is None):
            raise ValueError("wanted either `image` with a file, or `keypoints` with a file or `photo`")
        if self.start >= self.end:
            raise ValueError(f"wanted `start` below `end`, found {self.start:g} and {self.end:g}")
        return self


class ImageEntry(Strict):
    """A picture that drawing starts from."""

    file: FileName
    strength: Strength = 0.6


class InpaintEntry(Strict):
    """A picture of which a part is drawn anew: its face, or what is white in a mask."""

    file: FileName
    mask: FileName = FACE
    strength: Strength = 0.9


def _detail(value: Any) -> Any:
    return {"when": value} if isinstance(value, str) else value


class DetailEntry(Strict):
    """When and how small faces are drawn again; the word alone is `when`."""

    when: Literal["auto", "always", "never"] = "auto"
    strength: Strength = DetailOption().strength
    steps: Annotated[Whole, Field(ge=1, le=MAX_DETAIL_STEPS)] = DetailOption().steps
    below: Annotated[Number, Field(ge=0.01, le=1)] = DetailOption().below
    faces: Annotated[Whole, Field(ge=1, le=16)] = DetailOption().faces


class OutputEntry(Strict):
    """One file made of a picture."""

    name: Slug | None = None
    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[Whole, Field(ge=1, le=100)] | None = None
    crop: Literal["face"] | None = None
    size: FileSize | None = None
    upscale: PartName | None = None

    @model_validator(mode="after")
    def _quality_counts(self) -> Self:
        if self.quality is not None and self.format == "png":
            raise ValueError("PNG keeps every pixel and has no `quality`; leave it out, or write format: jpeg")
        return self


def _outputs(entries: list[OutputEntry]) -> list[OutputEntry]:
    names = [entry.name or "" for entry in entries]
    if "" in names[1:]:
        raise ValueError(f"output {names.index('', 1) + 1} has no `name`; every output but the first needs one")
    if len(set(names)) != len(names):
        raise ValueError("a name stands twice; the files would be the same")
    return entries


class Options(Strict):
    """The options of a prompt, of defaults or of a profile; what is left out comes from the next place."""

    base_weight: Annotated[Number, Field(ge=-1.5, le=1.5)] | None = None
    trigger_words: Flag | None = None
    weighting: Literal["plain", "compel"] | None = None
    control: Annotated[list[ControlEntry], Field(max_length=MAX_CONTROLS)] | None = None
    image: ImageEntry | None = None
    inpaint: InpaintEntry | None = None
    sliders: Annotated[dict[Slug, Annotated[Number, Field(ge=-3, le=3)]], Field(max_length=MAX_SLIDERS)] | None = None
    detail: Annotated[DetailEntry, BeforeValidator(_detail)] | None = None
    min_id_similarity: Annotated[Number, Field(ge=-1, le=1)] | None = None
    attempts: Annotated[Whole, Field(ge=1, le=MAX_ATTEMPTS)] | None = None
    outputs: (
        Annotated[list[OutputEntry], Field(min_length=1, max_length=MAX_OUTPUTS), AfterValidator(_outputs)] | None
    ) = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.image is not None and self.inpaint is not None:
            raise ValueError("wanted either `image` or `inpaint`, found both")
        return self

    def files(self) -> Iterator[tuple[Path, str]]:
        """Every file that is named, with the way to it."""
        for index, control in enumerate(self.control or ()):
            if control.image is not None:
                yield ("control", index, "image"), control.image
            if control.keypoints not in (None, OWN_PHOTO):
                yield ("control", index, "keypoints"), str(control.keypoints)
        if self.image is not None:
            yield ("image", "file"), self.image.file
        if self.inpaint is not None:
            yield ("inpaint", "file"), self.inpaint.file
            if self.inpaint.mask != FACE:
                yield ("inpaint", "mask"), self.inpaint.mask


def planned_options(nearest_first: Sequence[Options], picture: Callable[[str], CheckedPhoto]) -> dict[str, Any] | None:
    """The planned options of a prompt; None when nothing is out of the ordinary.

    `picture` gives what was found about a file that these entries name.
    """

    def nearest(name: str, default: Any) -> Any:
        given = (getattr(entry, name) for entry in nearest_first)
        return next((value for value in given if value is not None), default)

    def given(file: str) -> Picture:
        found = picture(file)
        return Picture(sha256=found.sha256, key=found.sha256, media_type=found.media_type)

    least, attempts = nearest("min_id_similarity", None), nearest("attempts", None)
    attempts = attempts or (1 if least is None else GATED_ATTEMPTS)
    outputs = nearest("outputs", None)
    detail = nearest("detail", None)
    options = RenderOptions(
        base_weight=nearest("base_weight", 0.0),
        trigger_words=nearest("trigger_words", True),
        weighting=nearest("weighting", "plain"),
        control=tuple(_control(entry, given) for entry in nearest("control", ())),
        start=_start(nearest_first, given),
        sliders=tuple(
            SliderOption(name=name, photo_set=_UNBOUND, weight=weight)
            for name, weight in sorted(nearest("sliders", {}).items())
        ),
        detail=DetailOption(**dict(detail)) if detail else DetailOption(),
        gate=GateOption(min_id_similarity=least, attempts=attempts) if attempts > 1 or least is not None else None,
        outputs=tuple(map(_output, outputs)) if outputs else (OutputOption(),),
    )
    planned: dict[str, Any] | None = unbound(options.dump())
    return planned


def _control(entry: ControlEntry, given: Callable[[str], Picture]) -> ControlOption:
    keypoints = entry.keypoints
    return ControlOption(
        net=entry.net,
        image=given(entry.image) if entry.image else None,
        keypoints=None if keypoints is None else "photo" if keypoints == OWN_PHOTO else given(keypoints),
        scale=entry.scale,
        start=entry.start,
        end=entry.end,
    )


def _start(nearest_first: Sequence[Options], given: Callable[[str], Picture]) -> StartOption | None:
    for entry in nearest_first:
        if entry.image is not None:
            return StartOption(image=given(entry.image.file), strength=entry.image.strength)
        if entry.inpaint is not None:
            asked = entry.inpaint
            mask: Picture | Literal["face"] = "face" if asked.mask == FACE else given(asked.mask)
            return StartOption(image=given(asked.file), strength=asked.strength, mask=mask)
    return None


def _output(entry: OutputEntry) -> OutputOption:
    return OutputOption(**{**dict(entry), "name": entry.name or ""})


def bind(
    planned: Mapping[str, Any] | None, picture_key: Callable[[str, str], str], sliders: Mapping[str, uuid.UUID]
) -> dict[str, Any] | None:
    """What a row holds: planned options with the storage key of each picture and the photo set of each slider.

    `picture_key` makes a key of a SHA-256 and a media type.
    """
    if planned is None:
        return None

    def bound(value: Any) -> Any:
        if isinstance(value, Mapping):
            inner = {name: bound(part) for name, part in value.items()}
            if "sha256" in inner:
                inner["key"] = picture_key(inner["sha256"], inner["media_type"])
            return inner
        return [bound(part) for part in value] if isinstance(value, list | tuple) else value

    raw = bound(planned)
    raw["sliders"] = [{**slider, "photo_set": sliders[slider["name"]]} for slider in raw.get("sliders", ())]
    return RenderOptions.model_validate(raw).dump()
