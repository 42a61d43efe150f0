"""What a manifest says about drawing beyond prompt, seed and size: where it comes from, and what is refused."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.errors import ManifestInvalid, SettingsInvalid
from jobs.manifest import Manifest, open_manifest, parse_manifest
from jobs.manifest_options import bind
from jobs.options import RenderOptions
from jobs.settings import Settings

ADA = {"id": "ada", "photos": ["photos/ada.jpg"]}
NEUTRAL = {"id": "neutral", "photos": ["photos/alan.jpg"], "draw": False}
SLIDERS = {"smile": {"edited": "ada", "original": "neutral"}}


def sha(folder: Path, name: str) -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def opened(folder: Path, settings: Settings, prompt: dict[str, Any], **more: Any) -> Manifest:
    data = {"prompts": [{"text": "x", **prompt}], "identities": [ADA, NEUTRAL], "sliders": SLIDERS, **more}
    return parse_manifest(data, settings=settings, base=folder)


def planned(folder: Path, settings: Settings, prompt: dict[str, Any], **more: Any) -> Any:
    """The planned options of the one prompt."""
    with opened(folder, settings, prompt, **more) as manifest:
        manifest.check()
        return next(next(manifest.people()).renders).options


def content_hash(folder: Path, settings: Settings, prompt: dict[str, Any], **more: Any) -> str:
    with opened(folder, settings, prompt, **more) as manifest:
        return manifest.check().content_hash


def faults(folder: Path, settings: Settings, prompt: dict[str, Any], **more: Any) -> list[tuple[str | None, str]]:
    with opened(folder, settings, prompt, **more) as manifest, pytest.raises(ManifestInvalid) as caught:
        manifest.check()
    return [(fault.field, fault.message) for fault in caught.value.faults]


EVERYTHING: dict[str, Any] = {
    "base_weight": 0.5,
    "trigger_words": False,
    "weighting": "compel",
    "control": [
        {"net": "pose", "image": "photos/grace.png", "scale": 0.5, "start": 0.1, "end": 0.9},
        {"net": "id", "keypoints": "photo"},
        {"net": "id", "keypoints": "photos/alan.jpg"},
    ],
    "inpaint": {"file": "photos/ada.jpg", "mask": "photos/grace.png"},
    "sliders": {"smile": 1.5},
    "detail": {"when": "always", "steps": 5},
    "min_id_similarity": 0.4,
    "outputs": [{"format": "jpeg", "quality": 90}, {"name": "avatar", "crop": "face", "size": 512, "upscale": "x4"}],
}


def test_everything_at_once(folder: Path, settings: Settings) -> None:
    # When a prompt says all there is to say
    found = planned(folder, settings, EVERYTHING)

    # Then its options are those, with pictures by their content and defaults filled in
    grace, alan, ada = (sha(folder, f"photos/{name}") for name in ("grace.png", "alan.jpg", "ada.jpg"))
    pose = {"sha256": grace, "media_type": "image/png"}
    assert found == {
        "base_weight": 0.5,
        "trigger_words": False,
        "weighting": "compel",
        "control": [
            {"net": "pose", "image": pose, "keypoints": None, "scale": 0.5, "start": 0.1, "end": 0.9},
            {"net": "id", "image": None, "keypoints": "photo", "scale": 1.0, "start": 0.0, "end": 1.0},
            {
                "net": "id",
                "image": None,
                "keypoints": {"sha256": alan, "media_type": "image/jpeg"},
                "scale": 1.0,
                "start": 0.0,
                "end": 1.0,
            },
        ],
        "start": {"image": {"sha256": ada, "media_type": "image/jpeg"}, "strength": 0.9, "mask": pose},
        "sliders": [{"name": "smile", "weight": 1.5}],
        "detail": {"when": "always", "strength": 0.5, "steps": 5, "below": 0.2, "faces": 4},
        "gate": {"min_id_similarity": 0.4, "attempts": 4},
        "outputs": [
            {"name": "", "format": "jpeg", "quality": 90, "crop": None, "size": None, "upscale": None},
            {"name": "avatar", "format": "png", "quality": None, "crop": "face", "size": [512, 512], "upscale": "x4"},
        ],
    }
    # And with keys and photo sets they are a row's
    bound = bind(found, lambda sha256, media: f"k/{sha256}/{media}", {"smile": uuid.UUID(int=3)})
    options = RenderOptions.load(json.loads(json.dumps(bound)))
    assert options.control[0].image is not None
    assert options.control[0].image.key == f"k/{grace}/image/png"
    assert options.sliders[0].photo_set == uuid.UUID(int=3)
    assert options.outputs[1].size == (512, 512)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ({}, None),
        ({"base_weight": 0, "trigger_words": True, "weighting": "plain", "control": [], "sliders": {}}, None),
        ({"detail": "auto", "attempts": 1, "outputs": [{}]}, None),
        ({"min_id_similarity": -1, "attempts": 1}, {"gate": {"min_id_similarity": -1.0, "attempts": 1}}),
        ({"attempts": 3}, {"gate": {"min_id_similarity": None, "attempts": 3}}),
        ({"detail": "never"}, {"detail": {"when": "never", "strength": 0.5, "steps": 10, "below": 0.2, "faces": 4}}),
    ],
)
def test_only_what_is_out_of_the_ordinary_is_kept(
    folder: Path, settings: Settings, prompt: dict[str, Any], wanted: Any
) -> None:
    assert planned(folder, settings, prompt, sliders=None) == wanted
    if wanted is None:
        # Saying what goes without saying is the same job
        plain = content_hash(folder, settings, {}, sliders=None)
        assert content_hash(folder, settings, prompt, sliders=None) == plain


def test_every_option_is_part_of_the_content(folder: Path, settings: Settings) -> None:
    # Given each option alone
    hashes = [content_hash(folder, settings, {})]
    hashes += [content_hash(folder, settings, {name: value}) for name, value in EVERYTHING.items()]
    hashes.append(content_hash(folder, settings, {"sliders": {"smile": 1.4}}))

    # Then each makes another job, and so does another picture under the same name
    before = content_hash(folder, settings, {"image": {"file": "photos/grace.png"}})
    (folder / "photos/grace.png").write_bytes((folder / "photos/ada.jpg").read_bytes())
    after = content_hash(folder, settings, {"image": {"file": "photos/grace.png"}})
    assert len({*hashes, before, after}) == len(EVERYTHING) + 4


def test_the_nearest_place_counts(folder: Path, settings: Settings) -> None:
    # Given options in a prompt, in its set's defaults, in the job's and in the profile's
    (folder / "set.yaml").write_text(
        yaml.safe_dump({"defaults": {"attempts": 2, "base_weight": 0.2}, "prompts": [{"text": "a", "attempts": 9}]})
    )
    data = {
        "prompts": [{"set": "set.yaml"}],
        "defaults": {
            "attempts": 3,
            "base_weight": 0.3,
            "min_id_similarity": 0.5,
            "inpaint": {"file": "photos/ada.jpg"},
        },
        "identities": [ADA],
    }
    with parse_manifest(
        data, settings=settings, base=folder, defaults_of=lambda _: {"trigger_words": False, "base_weight": 1}
    ) as manifest:
        manifest.check()
        found: Any = next(next(manifest.people()).renders).options

    # Then each comes from the nearest
    assert found["gate"] == {"min_id_similarity": 0.5, "attempts": 9}
    assert (found["base_weight"], found["trigger_words"], found["start"]["mask"]) == (0.2, False, "face")


def test_a_start_picture_takes_the_place_of_an_inpainted_one(folder: Path, settings: Settings) -> None:
    defaults = {"inpaint": {"file": "photos/ada.jpg"}, "control": [{"net": "a", "keypoints": "photo"}]}
    prompt = {"image": {"file": "photos/alan.jpg", "strength": 0.01}, "control": []}
    found = planned(folder, settings, prompt, defaults=defaults)
    assert found["start"]["mask"] is None
    assert found["start"]["strength"] == 0.01
    assert "control" not in found


def test_given_pictures_are_listed_once(folder: Path, settings: Settings) -> None:
    # Given pictures that are named several times, one that no prompt uses, and one that is a person's photo too
    with opened(
        folder,
        settings,
        {"control": [{"net": "a", "image": "photos/grace.png"}, {"net": "b", "image": "photos/grace.png"}]},
        defaults={"image": {"file": "photos/ada.jpg"}, "control": [{"net": "c", "image": "photos/alan.jpg"}]},
    ) as manifest:
        checked = manifest.check()
        # Then those that are used are there, and can be read again
        assert sorted(picture.source for picture in manifest.pictures()) == ["photos/ada.jpg", "photos/grace.png"]
        for picture in manifest.pictures():
            assert hashlib.sha256(manifest.read_photo(picture)).hexdigest() == picture.sha256
        assert checked.photos == 3


NOT_A_PICTURE = "no file 'nothing.png'"


@pytest.mark.parametrize(
    ("prompt", "field", "message"),
    [
        ({"base_weight": 1.6}, "base_weight", "less than or equal to 1.5"),
        ({"base_weight": float("nan")}, "base_weight", "finite"),
        ({"base_weight": 10**18}, "base_weight", "less than or equal to"),
        ({"base_weight": "0.5"}, "base_weight", "leave the quotes away"),
        ({"trigger_words": 1}, "trigger_words", "wanted true or false"),
        ({"trigger_words": "false"}, "trigger_words", "wanted true or false"),
        ({"weighting": "a1111"}, "weighting", "'plain' or 'compel'"),
        ({"control": {}}, "control", "list"),
        ({"control": [{"net": "a", "keypoints": "photo"}] * 5}, "control", "at most 4 entries, found 5"),
        ({"control": [{"net": "a", "keypoints": "photo"}] * 10_000}, "control", "at most 4 entries"),
        ({"control": ["pose"]}, "control[0]", "wanted a mapping with the fields net, image, keypoints"),
        ({"control": [{"image": "photos/ada.jpg"}]}, "control[0].net", "the field is missing"),
        ({"control": [{"net": "a"}]}, "control[0]", "either `image`"),
        ({"control": [{"net": "a", "image": "photos/ada.jpg", "keypoints": "photo"}]}, "control[0]", "either `image`"),
        ({"control": [{"net": "../a", "keypoints": "photo"}]}, "control[0].net", "pattern"),
        ({"control": [{"net": "a", "keypoints": "photo", "scale": 2.5}]}, "control[0].scale", "less than"),
        ({"control": [{"net": "a", "keypoints": "photo", "start": 0.5, "end": 0.5}]}, "control[0]", "below `end`"),
        ({"control": [{"net": "a", "keypoint": "photo"}]}, "control[0].keypoint", "did you mean 'keypoints'"),
        ({"control": [{"net": "a", "image": "nothing.png"}]}, "control[0].image", NOT_A_PICTURE),
        ({"control": [{"net": "a", "keypoints": "nothing.png"}]}, "control[0].keypoints", NOT_A_PICTURE),
        ({"control": [{"net": "a", "image": "../secret.png"}]}, "control[0].image", "holds '..'"),
        ({"control": [{"net": "a", "image": "/etc/passwd"}]}, "control[0].image", "is no path relative"),
        ({"control": [{"net": "a", "image": "s3://other/pose.png"}]}, "control[0].image", "bucket that is not allowed"),
        ({"control": [{"net": "a", "image": "http://x/pose.png"}]}, "control[0].image", "neither a path nor s3"),
        ({"control": [{"net": "a", "image": ["photos/ada.jpg"]}]}, "control[0].image", "wanted a text"),
        ({"image": "photos/ada.jpg"}, "image", "wanted a mapping with the fields file, strength"),
        ({"image": {"file": "link.png"}}, "image.file", "leaves the folder"),
        ({"image": {"file": "manifest.txt"}}, "image.file", "wanted a JPEG, PNG or WebP"),
        ({"image": {"file": "photos/ada.jpg", "strength": 0}}, "image.strength", "greater than or equal to 0.01"),
        ({"image": {"file": "photos/ada.jpg", "mask": "face"}}, "image.mask", "known fields are file, strength"),
        ({"inpaint": {"file": "../x.png"}}, "inpaint.file", "holds '..'"),
        ({"inpaint": {"file": "photos/ada.jpg", "mask": "~/x.png"}}, "inpaint.mask", "is no path relative"),
        ({"inpaint": {"file": "photos/ada.jpg"}, "image": {"file": "photos/ada.jpg"}}, None, "found both"),
        ({"sliders": {"grin": 1}}, "sliders.grin", "no slider 'grin' is defined, only: smile"),
        ({"sliders": {"smile": 3.1}}, "sliders.smile", "less than or equal to 3"),
        ({"sliders": {"smile": float("inf")}}, "sliders.smile", "finite"),
        ({"sliders": ["smile"]}, "sliders", "wanted a valid dictionary"),
        ({"sliders": {"Grin!": 1}}, "sliders.Grin!", "lower-case"),
        ({"sliders": {f"s{n}": 1 for n in range(10_000)}}, "sliders", "at most 8 entries, found 10000"),
        ({"detail": "often"}, "detail", "'auto', 'always' or 'never'"),
        ({"detail": {"when": "always", "steps": 151}}, "detail.steps", "found 151 steps, at most 150"),
        ({"detail": {"when": "always", "steps": 1001}}, "detail.steps", "less than or equal to 1000"),
        ({"detail": {"faces": 17}}, "detail.faces", "less than or equal to 16"),
        ({"detail": True}, "detail", "wanted a mapping"),
        ({"min_id_similarity": 1.1}, "min_id_similarity", "less than or equal to 1"),
        ({"attempts": 17}, "attempts", "less than or equal to 16"),
        ({"attempts": 1.5}, "attempts", "valid integer"),
        ({"outputs": []}, "outputs", "the list is empty"),
        ({"outputs": [{}] * 5}, "outputs", "at most 4 entries, found 5"),
        ({"outputs": [{}, {}]}, "outputs", "output 2 has no `name`"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "outputs", "a name stands twice"),
        ({"outputs": [{"quality": 90}]}, "outputs[0]", "PNG keeps every pixel"),
        ({"outputs": [{"format": "jpeg", "quality": 101}]}, "outputs[0].quality", "less than or equal to 100"),
        ({"outputs": [{"format": "gif"}]}, "outputs[0].format", "'png', 'jpeg' or 'webp'"),
        ({"outputs": [{"name": "../a"}]}, "outputs[0].name", "lower-case"),
        ({"outputs": [{"size": 8}]}, "outputs[0].size", "wanted sides of 16 to 16384 pixels"),
        ({"outputs": [{"size": "5000x16"}]}, "outputs[0].size", "5000 pixels on the longest side, at most 4096"),
        ({"outputs": [{"size": 16_384}]}, "outputs[0].size", "16384 pixels on the longest side, at most 4096"),
        ({"outputs": [{"size": 10**18}]}, "outputs[0].size", "wanted sides of 16 to 16384 pixels"),
        ({"outputs": [{"crop": "head"}]}, "outputs[0].crop", "'face'"),
        ({"outputs": [{"upscale": "a/b"}]}, "outputs[0].upscale", "pattern"),
    ],
)
def test_faults_of_the_options(
    folder: Path, settings: Settings, prompt: dict[str, Any], field: str | None, message: str
) -> None:
    # Given files that must not be read
    (folder.parent / "secret.png").write_bytes((folder / "photos/grace.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "manifest.txt").write_text("prompts")

    # When a prompt, or the defaults, say what cannot be
    of_prompt = faults(folder, settings, prompt)
    of_defaults = faults(folder, settings, {}, defaults=prompt)

    # Then the fault names the field
    wanted = f"prompts[0].{field}" if field else "prompts[0]"
    assert [place for place, told in of_prompt if message in told] == [wanted], of_prompt
    wanted = f"defaults.{field}" if field else "defaults"
    assert [place for place, told in of_defaults if message in told] == [wanted], of_defaults


def test_faults_stand_on_their_lines(folder: Path, settings: Settings) -> None:
    (folder / "people.yaml").write_text(
        "prompts:\n"
        "  - text: a portrait\n"
        "    control:\n"
        "      - net: pose\n"
        "        image: nothing.png\n"
        "    sliders:\n"
        "      grin: 1\n"
        "    outputs:\n"
        "      - {}\n"
        "      - name: b\n"
        "        size: 9999\n"
        "identities:\n"
        "  - {id: ada, photos: [photos/ada.jpg]}\n"
        "sliders:\n"
        "  smile:\n"
        "    edited: ada\n"
        "    original: nobody\n"
    )
    with open_manifest(folder / "people.yaml", settings=settings) as manifest, pytest.raises(ManifestInvalid) as caught:
        manifest.check()
    assert sorted((fault.line or 0, fault.field) for fault in caught.value.faults) == [
        (5, "prompts[0].control[0].image"),
        (7, "prompts[0].sliders.grin"),
        (11, "prompts[0].outputs[1].size"),
        (17, "sliders.smile.original"),
    ]
    assert {fault.source for fault in caught.value.faults} == {"people.yaml"}


def test_a_profile_names_no_files(folder: Path, settings: Settings) -> None:
    data = {"prompts": [{"text": "x"}], "identities": [ADA]}
    asked = {"image": {"file": "photos/ada.jpg"}}
    with (
        parse_manifest(data, settings=settings, base=folder, defaults_of=lambda _: asked) as manifest,
        pytest.raises(ManifestInvalid, match=r"defaults.image.file: a profile's defaults cannot name files"),
    ):
        manifest.check()


def test_a_profile_that_is_not_known_is_still_a_fault(folder: Path, settings: Settings) -> None:
    def unknown(_: str) -> dict[str, Any]:
        raise SettingsInvalid("cannot be read")

    data = {"prompts": [{"text": "x"}], "identities": [ADA]}
    with (
        parse_manifest(data, settings=settings, base=folder, defaults_of=unknown) as manifest,
        pytest.raises(ManifestInvalid, match="cannot be read"),
    ):
        manifest.check()


def test_a_key_that_looks_like_the_validators_own_is_a_fault_like_any_other(folder: Path, settings: Settings) -> None:
    """Such a key once ended in an error of ours."""
    found = faults(folder, settings, {"function-x": 1, "control": [{"net": "a", "keypoints": "photo", "[key]": 1}]})
    assert [field for field, _ in found] == ["prompts[0].control[0].[key]", "prompts[0].function-x"]
