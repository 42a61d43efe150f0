"""Options of a render: what a row holds, and what comes back."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.errors import OptionsInvalid
from jobs.options import (
    ORDINARY,
    ControlOption,
    DetailOption,
    GateOption,
    OutputOption,
    Picture,
    RenderOptions,
    SliderOption,
    StartOption,
)

POSE = Picture(sha256="a" * 64, key="acme/photos/aa/a.png", media_type="image/png")
EVERYTHING = RenderOptions(
    base_weight=-0.5,
    trigger_words=False,
    weighting="compel",
    control=(ControlOption(net="pose", image=POSE, scale=0.5), ControlOption(net="id", keypoints="photo", end=0.5)),
    start=StartOption(image=POSE, strength=0.6, mask="face"),
    sliders=(SliderOption(name="smile", photo_set=uuid.UUID(int=7), weight=1.5),),
    detail=DetailOption(when="always", steps=5),
    gate=GateOption(min_id_similarity=0.4, attempts=8),
    outputs=(OutputOption(format="webp", quality=80), OutputOption(name="avatar", crop="face", size=(512, 512))),
)


def test_nothing_out_of_the_ordinary_is_null() -> None:
    assert RenderOptions().dump() is None
    assert RenderOptions.load(None) == ORDINARY
    assert RenderOptions(control=(), detail=DetailOption(when="auto", strength=0.5)).dump() is None


def test_everything_comes_back_as_it_was() -> None:
    # Given options that differ in every group
    dumped = EVERYTHING.dump()

    # Then the row holds every group, and reading it gives the same options
    assert dumped is not None
    assert sorted(dumped) == sorted(RenderOptions.model_fields)
    assert RenderOptions.load(dumped) == EVERYTHING


def test_a_group_that_differs_is_written_whole() -> None:
    """So a later version may choose another strength without changing what this row means."""
    assert RenderOptions(detail=DetailOption(when="never")).dump() == {
        "detail": {"when": "never", "strength": 0.5, "steps": 10, "below": 0.2, "faces": 4}
    }


@pytest.mark.parametrize(
    "raw",
    [
        {"magic": 1},
        {"control": [{"net": "pose"}]},
        {"control": [{"net": "pose", "image": POSE.model_dump(), "keypoints": "photo"}]},
        {"control": [{"net": "pose", "keypoints": "photo", "start": 0.5, "end": 0.5}]},
        {"control": [{"net": "pose", "keypoints": "photo"}] * 5},
        {"base_weight": float("nan")},
        {"start": {"image": {**POSE.model_dump(), "sha256": "../x"}, "strength": 0.5}},
        {"gate": {"min_id_similarity": 0.5, "attempts": 17}},
        {"outputs": []},
        {"outputs": [{"name": "../a"}]},
        {"outputs": [{"name": "con"}]},
        {"outputs": [{"name": "a" * 65}]},
        {"outputs": [{"name": "a"}, {"name": "a"}]},
        {"outputs": [{"name": "a"}, {"name": ""}]},
        {"outputs": [{"size": [16_385, 16]}]},
        {"outputs": [{"upscale": "x" * 201}]},
        {"detail": {"steps": 1001}},
        {"sliders": [{"name": "s" * 201, "photo_set": str(uuid.UUID(int=7)), "weight": 1}]},
        {"control": [{"net": "n" * 201, "keypoints": "photo"}]},
        {"start": {"image": {**POSE.model_dump(), "key": "k" * 501}, "strength": 0.5}},
        [],
    ],
)
def test_what_no_version_wrote_is_told(raw: Any) -> None:
    with pytest.raises(OptionsInvalid, match="another version"):
        RenderOptions.load(raw)


def test_options_are_values() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ORDINARY.base_weight = 1.0  # type: ignore[misc]


def test_the_bounds_themselves_are_allowed() -> None:
    raw = {
        "outputs": [{"size": [16_384, 16], "upscale": "x" * 200}, {"name": "a" * 64}],
        "detail": {"steps": 1000},
        "sliders": [{"name": "s" * 200, "photo_set": str(uuid.UUID(int=7)), "weight": 1}],
        "control": [{"net": "n" * 200, "keypoints": {**POSE.model_dump(), "key": "k" * 500}}],
    }
    assert RenderOptions.load(raw).outputs[1].name == "a" * 64


def test_what_leaves_the_house_says_nothing_of_its_storage() -> None:
    # Given options with pictures in every place and a slider
    asked = EVERYTHING.model_copy(
        update={
            "control": (ControlOption(net="pose", image=POSE), ControlOption(net="id", keypoints=POSE)),
            "start": StartOption(image=POSE, strength=0.6, mask=POSE),
        }
    )

    # When they are told
    told, dumped = asked.told(), asked.dump()

    # Then pictures are their hashes, sliders their names and weights, and all else is as a row holds it
    assert told is not None
    assert dumped is not None
    picture = {"sha256": "a" * 64, "media_type": "image/png"}
    assert [(one["image"], one["keypoints"]) for one in told["control"]] == [(picture, None), (None, picture)]
    assert told["start"] == {"image": picture, "strength": 0.6, "mask": picture}
    assert told["sliders"] == [{"name": "smile", "weight": 1.5}]
    of_its_own = {"control", "start", "sliders"}
    assert {name: told[name] for name in told if name not in of_its_own} == {
        name: dumped[name] for name in dumped if name not in of_its_own
    }
    assert "acme" not in str(told)
    assert RenderOptions().told() is None
