"""Who an identity is: faces in photos, mixes, several people together, stored weight sets, sliders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ManifestInvalid
from jobs.manifest import Manifest, open_manifest, parse_manifest
from jobs.planned import CheckedPhoto, PlannedIdentity
from jobs.settings import Settings

FINGERPRINT = "0123456789abcdef" * 4
PEOPLE: list[dict[str, Any]] = [
    {"id": "ada", "photos": ["photos/ada.jpg"]},
    {"id": "alan", "photos": ["photos/alan.jpg"]},
    {"id": "grace", "photos": ["photos/grace.png"], "draw": False},
]


def opened(folder: Path, settings: Settings, *more: dict[str, Any], **job: Any) -> Manifest:
    data = {"prompts": [{"text": "x"}], "identities": [*PEOPLE, *more], **job}
    return parse_manifest(data, settings=settings, base=folder)


def last(folder: Path, settings: Settings, *more: dict[str, Any]) -> PlannedIdentity:
    with opened(folder, settings, *more) as manifest:
        manifest.check()
        return list(manifest.people())[-1]


def content_hash(folder: Path, settings: Settings, *more: dict[str, Any], **job: Any) -> str:
    with opened(folder, settings, *more, **job) as manifest:
        return manifest.check().content_hash


def faults(folder: Path, settings: Settings, *more: dict[str, Any], **job: Any) -> list[tuple[str | None, str]]:
    with opened(folder, settings, *more, **job) as manifest, pytest.raises(ManifestInvalid) as caught:
        manifest.check()
    return [(fault.field, fault.message) for fault in caught.value.faults]


def made(**identity: Any) -> dict[str, Any]:
    return {"id": "new", "identity": identity}


def test_a_mix_is_its_proportions(folder: Path, settings: Settings) -> None:
    # When two people are mixed
    new = last(folder, settings, made(mix={"alan": 1, "ada": 3}))

    # Then the heavier stands first, the weights add up to one, and it has no photos of its own
    assert (new.kind, new.photos, new.draw) == ("mix", [], True)
    assert [(one.external_id, one.weight, one.region, one.prompt) for one in new.members] == [
        ("ada", 0.75, None, None),
        ("alan", 0.25, None, None),
    ]
    # And the same proportions, however they are written, are the same content
    same = content_hash(folder, settings, made(mix={"ada": 0.75, "alan": 0.25}))
    assert content_hash(folder, settings, made(mix={"alan": 1, "ada": 3})) == same
    assert content_hash(folder, settings, made(mix={"alan": 1, "ada": 2})) != same


def test_several_people_have_their_places(folder: Path, settings: Settings) -> None:
    # When three stand together: by a word, by shares, by a mask
    together = {
        "grace": {"region": {"mask": "photos/grace.png"}},
        "alan": {"region": [0.5, 0, 1, 1], "prompt": "a man  in a suit"},
        "ada": "left",
    }
    with opened(folder, settings, made(together=together)) as manifest:
        manifest.check()
        new = list(manifest.people())[-1]
        pictures = [picture.source for picture in manifest.pictures()]

    # Then each has its place, and the mask is a given picture
    ada, alan, grace = new.members
    assert (new.kind, ada.region, ada.prompt) == ("together", (0.0, 0.0, 0.5, 1.0), None)
    assert (alan.region, alan.prompt) == ((0.5, 0.0, 1.0, 1.0), "a man in a suit")
    assert isinstance(grace.region, CheckedPhoto)
    assert grace.region.sha256 == hashlib.sha256((folder / "photos/grace.png").read_bytes()).hexdigest()
    assert pictures == ["photos/grace.png"]
    # And a mask alone may be written shorter, and words and places are content
    short = made(together={**together, "grace": {"mask": "photos/grace.png"}})
    whole = content_hash(folder, settings, made(together=together))
    assert content_hash(folder, settings, short) == whole
    assert content_hash(folder, settings, made(together={**together, "ada": "top"})) != whole
    assert content_hash(folder, settings, made(together={**together, "alan": [0.5, 0, 1, 1]})) != whole


def test_a_stored_weight_set(folder: Path, settings: Settings) -> None:
    with opened(folder, settings, made(weight_set=FINGERPRINT)) as manifest:
        manifest.check()
        new = list(manifest.people())[-1]
        named = list(manifest.weight_sets())
    assert (new.kind, new.weight_set, new.photos, new.members) == ("weights", FINGERPRINT, [], [])
    assert [(fingerprint, place.field) for fingerprint, place in named] == [
        (FINGERPRINT, "identities[3].identity.weight_set")
    ]


def test_which_face_is_meant(folder: Path, settings: Settings) -> None:
    # Given photos of which some say which face is meant
    photos = ["photos/ada.jpg", {"file": "photos/alan.jpg", "face": 2}, {"file": "photos/grace.png", "face": "largest"}]
    new = last(folder, settings, {"id": "new", "photos": photos})

    # Then it is known beside the photo
    assert [photo.source for photo in new.photos] == ["photos/ada.jpg", "photos/alan.jpg", "photos/grace.png"]
    assert new.faces == [None, "2", "largest"]
    # And the clearest goes without saying
    plain = content_hash(folder, settings, {"id": "new", "photos": ["photos/ada.jpg"]})
    said = {"file": "photos/ada.jpg", "face": "clearest"}
    other = {"file": "photos/ada.jpg", "face": "central"}
    assert content_hash(folder, settings, {"id": "new", "photos": [said]}) == plain
    assert content_hash(folder, settings, {"id": "new", "photos": [other]}) != plain


def test_who_is_not_drawn(folder: Path, settings: Settings) -> None:
    # Given three people of whom one is only a source, and has no subject
    data = {"prompts": [{"text": "{subject}", "seeds": 3}], "identities": PEOPLE}
    data["identities"] = [{**one, "subject": "x"} for one in PEOPLE[:2]] + PEOPLE[2:]
    with parse_manifest(data, settings=settings, base=folder) as manifest:
        checked = manifest.check()
        people = list(manifest.people())

    # Then it is planned without pictures, and not counted
    assert (checked.identities, checked.renders, checked.units(2)) == (2, 6, 4)
    assert [(one.draw, one.renders_count, len(list(one.renders))) for one in people] == [
        (True, 3, 3),
        (True, 3, 3),
        (False, 0, 0),
    ]
    drawn = [*PEOPLE[:2], {**PEOPLE[2], "draw": True}]
    hashes = {content_hash(folder, settings, prompts=[{"text": "x"}], identities=who) for who in (PEOPLE, drawn)}
    assert len(hashes) == 2


def test_sliders_are_content_and_may_stand_in_the_job_file(folder: Path, settings: Settings) -> None:
    smile = {"smile": {"edited": "ada", "original": "grace"}}
    turned = {"smile": {"edited": "grace", "original": "ada"}}
    hashes = {content_hash(folder, settings, sliders=sliders) for sliders in (None, smile, turned)}
    assert len(hashes) == 3
    assert content_hash(folder, settings, sliders={}) == content_hash(folder, settings)

    # Given a table of people, whose job file defines the slider
    (folder / "people.csv").write_text("id,photos\nada,photos/ada.jpg\ngrace,photos/grace.png\n")
    job = {"prompts": [{"text": "x", "sliders": {"smile": -1}}], "sliders": smile}
    (folder / "job.json").write_text(json.dumps(job))
    with open_manifest(folder / "people.csv", settings=settings, job_file=folder / "job.json") as manifest:
        manifest.check()
        assert manifest.sliders == {"smile": ("ada", "grace")}
        assert next(next(manifest.people()).renders).options == {"sliders": [{"name": "smile", "weight": -1.0}]}


def test_all_formats_give_the_same_content(folder: Path, settings: Settings) -> None:
    # Given the same people and sliders in a mapping, YAML, JSON and JSON Lines, members after those made of them
    job = {"prompts": [{"text": "x"}], "sliders": {"smile": {"edited": "ada", "original": "grace"}}}
    people = [made(mix={"ada": 0.5, "alan": 0.5}), *PEOPLE]
    people.append({"id": "two", "identity": {"together": {"ada": "top", "alan": "bottom"}}})
    whole = json.dumps({**job, "identities": people})
    (folder / "a.json").write_text(whole)
    (folder / "a.yaml").write_text(whole)  # JSON is YAML too
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, [{"job": job}, *people])))

    # When each is read
    hashes = set()
    for name in ("a.json", "a.yaml", "a.jsonl"):
        with open_manifest(folder / name, settings=settings) as manifest:
            hashes.add(manifest.check().content_hash)
    with parse_manifest({**job, "identities": people}, settings=settings, base=folder) as manifest:
        hashes.add(manifest.check().content_hash)

    # Then they are one and the same
    assert len(hashes) == 1


MIX = "identities[3].identity.mix"
TOGETHER = "identities[3].identity.together"


@pytest.mark.parametrize(
    ("identity", "field", "message"),
    [
        ({}, "identities[3].identity", "wanted one of `mix`, `together` and `weight_set`, found nothing"),
        ({"mix": {"ada": 1, "alan": 1}, "weight_set": FINGERPRINT}, "identities[3].identity", "mix and weight_set"),
        ({"blend": {}}, "identities[3].identity.blend", "known fields are mix, together, weight_set"),
        ({"mix": {}}, MIX, "at least 2 entries, found 0"),
        ({"mix": {"ada": 1}}, MIX, "at least 2 entries, found 1"),
        ({"mix": {f"p{n}": 1 for n in range(10_000)}}, MIX, "at most 8 entries, found 10000"),
        ({"mix": ["ada", "alan"]}, MIX, "wanted a valid dictionary"),
        ({"mix": {"ada": 0, "alan": 1}}, f"{MIX}.ada", "greater than 0"),
        ({"mix": {"ada": -1, "alan": 1}}, f"{MIX}.ada", "greater than 0"),
        ({"mix": {"ada": float("nan"), "alan": 1}}, f"{MIX}.ada", "found nan"),
        ({"mix": {"ada": float("inf"), "alan": 1}}, f"{MIX}.ada", "found inf"),
        ({"mix": {"ada": 10**18, "alan": 1}}, f"{MIX}.ada", "less than or equal to 1000"),
        ({"mix": {"ada": "0.5", "alan": 1}}, f"{MIX}.ada", "leave the quotes away"),
        ({"mix": {"ada": True, "alan": 1}}, f"{MIX}.ada", "wanted a number"),
        ({"mix": {"ada": 1, "new": 1}}, f"{MIX}.new", "'new' cannot be made of itself"),
        ({"mix": {"ada": 1, "nobody": 1}}, f"{MIX}.nobody", "no identity of this manifest"),
        ({"mix": {"ada": 1, "other": 1}}, f"{MIX}.other", "'other', which is itself a mix"),
        ({"mix": {"ada": 1, "stored": 1}}, f"{MIX}.stored", "which is itself a stored weight set"),
        ({"together": {"ada": "left"}}, TOGETHER, "at least 2 entries"),
        ({"together": {"ada": "left", "other": "right"}}, f"{TOGETHER}.other", "itself a mix"),
        ({"together": {"ada": "left", "new": "right"}}, f"{TOGETHER}.new", "made of itself"),
        ({"together": {f"p{n}": "left" for n in range(5)}}, TOGETHER, "at most 4 entries"),
        ({"together": {"ada": "left", "alan": "left"}}, "identities[3].identity", "the same place"),
        ({"together": {"ada": "left", "alan": "middle"}}, f"{TOGETHER}.alan", "wanted left, right, top"),
        ({"together": {"ada": "left", "alan": None}}, f"{TOGETHER}.alan", "wanted left, right, top"),
        ({"together": {"ada": "left", "alan": {}}}, f"{TOGETHER}.alan", "wanted left, right, top"),
        ({"together": {"ada": "left", "alan": {"prompt": "x"}}}, f"{TOGETHER}.alan.region", "the field is missing"),
        ({"together": {"ada": "left", "alan": [0, 0, 1]}}, f"{TOGETHER}.alan", "four shares"),
        ({"together": {"ada": "left", "alan": [0, 0, 1.1, 1]}}, f"{TOGETHER}.alan", "from 0 to 1"),
        ({"together": {"ada": "left", "alan": [0, 0, float("nan"), 1]}}, f"{TOGETHER}.alan", "from 0 to 1"),
        ({"together": {"ada": "left", "alan": [1, 0, 0, 1]}}, f"{TOGETHER}.alan", "at least 0.05"),
        ({"together": {"ada": "left", "alan": [0, 0, True, 1]}}, f"{TOGETHER}.alan", "from 0 to 1"),
        (
            {"together": {"ada": "left", "alan": {"region": "right", "prompt": "{subject}"}}},
            f"{TOGETHER}.alan.prompt",
            "no fields are filled in here",
        ),
        ({"together": {"ada": "left", "alan": {"mask": "../m.png"}}}, f"{TOGETHER}.alan", "holds '..'"),
        ({"together": {"ada": "left", "alan": {"mask": "/etc/passwd"}}}, f"{TOGETHER}.alan", "is no path relative"),
        ({"together": {"ada": "left", "alan": {"mask": "no.png"}}}, f"{TOGETHER}.alan", "no file 'no.png'"),
        ({"weight_set": "abc"}, "identities[3].identity.weight_set", "pattern"),
        ({"weight_set": FINGERPRINT.upper()}, "identities[3].identity.weight_set", "pattern"),
        ({"weight_set": 5}, "identities[3].identity.weight_set", "pattern"),
    ],
)
def test_faults_of_who_is_made_of_whom(
    folder: Path, settings: Settings, identity: dict[str, Any], field: str, message: str
) -> None:
    other = {"id": "other", "identity": {"mix": {"ada": 1, "alan": 1}}}
    stored = {"id": "stored", "identity": {"weight_set": FINGERPRINT}}
    found = faults(folder, settings, made(**identity), other, stored)
    assert [place for place, told in found if message in told] == [field], found


def test_a_circle_is_told_at_both_ends(folder: Path, settings: Settings) -> None:
    a = {"id": "a", "identity": {"mix": {"ada": 1, "b": 1}}}
    b = {"id": "b", "identity": {"mix": {"ada": 1, "a": 1}}}
    assert [field for field, told in faults(folder, settings, a, b) if "itself a mix" in told] == [
        "identities[3].identity.mix.b",
        "identities[4].identity.mix.a",
    ]


@pytest.mark.parametrize(
    ("person", "field", "message"),
    [
        ({"id": "x"}, "identities[3].photos", "the field is missing"),
        ({"id": "x", "photos": []}, "identities[3].photos", "the list is empty"),
        (
            {"id": "x", "photos": ["photos/ada.jpg"], **made(mix={"ada": 1, "alan": 1})},
            "identities[3].identity",
            "both",
        ),
        ({**made(mix={"ada": 1, "alan": 1}), "draw": False}, "identities[3].draw", "left undrawn"),
        ({"id": "x", "photos": ["photos/ada.jpg"], "draw": "no"}, "identities[3].draw", "wanted true or false"),
        (
            {"id": "x", "photos": ["photos/ada.jpg"], "draw": False, "prompts": [{"text": "y"}]},
            "identities[3].prompts",
            "nothing to draw",
        ),
        ({"id": "x", "photos": [{"file": "photos/ada.jpg", "face": 10}]}, "identities[3].photos[0].face", "0 to 9"),
        ({"id": "x", "photos": [{"file": "photos/ada.jpg", "face": -1}]}, "identities[3].photos[0].face", "0 to 9"),
        ({"id": "x", "photos": [{"file": "photos/ada.jpg", "face": True}]}, "identities[3].photos[0].face", "0 to 9"),
        ({"id": "x", "photos": [{"file": "photos/ada.jpg", "face": []}]}, "identities[3].photos[0].face", "0 to 9"),
        ({"id": "x", "photos": [{"face": 1}]}, "identities[3].photos[0].file", "the field is missing"),
        ({"id": "x", "photos": [{"file": "../a.jpg", "face": 1}]}, "identities[3].photos[0]", "holds '..'"),
        (
            {"id": "x", "photos": ["photos/ada.jpg", {"file": "photos/ada.jpg", "face": 1}]},
            "identities[3].photos[1]",
            "the same photo",
        ),
        (
            {
                **made(weight_set=FINGERPRINT),
                "prompts": [{"text": "y", "control": [{"net": "a", "keypoints": "photo"}]}],
            },
            "identities[3].identity",
            "takes its key points from the person's photo",
        ),
        (
            {
                **made(together={"ada": "left", "alan": "right"}),
                "prompts": [{"text": "y", "control": [{"net": "a", "keypoints": "photo"}]}],
            },
            "identities[3].identity",
            "'new' is several people",
        ),
    ],
)
def test_faults_of_a_person(folder: Path, settings: Settings, person: dict[str, Any], field: str, message: str) -> None:
    found = faults(folder, settings, person)
    assert [place for place, told in found if message in told] == [field], found


@pytest.mark.parametrize(
    ("sliders", "field", "message"),
    [
        ([], "sliders", "wanted a valid dictionary"),
        ({"smile": "ada"}, "sliders.smile", "wanted a mapping with the fields edited, original"),
        ({"smile": {"edited": "ada"}}, "sliders.smile.original", "the field is missing"),
        ({"smile": {"edited": "ada", "original": "ada"}}, "sliders.smile", "would change nothing"),
        ({"smile": {"edited": "ada", "original": "eve"}}, "sliders.smile.original", "no identity of this manifest"),
        ({"smile": {"edited": "two", "original": "ada"}}, "sliders.smile.edited", "itself several people"),
        ({"Smile!": {"edited": "ada", "original": "alan"}}, "sliders.Smile!", "lower-case"),
        (
            {f"s{n}": {"edited": "ada", "original": "alan"} for n in range(10_000)},
            "sliders",
            "at most 100 entries, found 10000",
        ),
    ],
)
def test_faults_of_sliders(folder: Path, settings: Settings, sliders: Any, field: str, message: str) -> None:
    two = {"id": "two", "identity": {"together": {"ada": "left", "alan": "right"}}}
    found = faults(folder, settings, two, sliders=sliders)
    assert [place for place, told in found if message in told] == [field], found


def test_nobody_drawn_is_a_fault(folder: Path, settings: Settings) -> None:
    found = faults(folder, settings, identities=[{**one, "draw": False} for one in PEOPLE])
    assert found == [(None, "nobody is drawn; every identity says `draw: false`")]


def test_a_member_with_faults_of_its_own_is_not_called_missing(folder: Path, settings: Settings) -> None:
    found = faults(folder, settings, {"id": "bad", "photos": 7}, made(mix={"ada": 1, "bad": 1}))
    assert [field for field, _ in found] == ["identities[3].photos"]


def test_a_member_named_twice_in_a_file(folder: Path, settings: Settings) -> None:
    text = (
        'prompts: [{text: x}]\nidentities:\n  - id: new\n    identity:\n      mix:\n        ada: 1\n        "ada": 2\n'
    )
    (folder / "people.yaml").write_text(text)
    with pytest.raises(ManifestInvalid, match=r"line 7.*the key 'ada' stands twice"):
        open_manifest(folder / "people.yaml", settings=settings)


def test_faults_of_members_stand_on_their_lines(folder: Path, settings: Settings) -> None:
    lines = [{"job": {"prompts": [{"text": "x"}]}}, *PEOPLE[:1], made(mix={"ada": 1, "eve": 1})]
    (folder / "people.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with (
        open_manifest(folder / "people.jsonl", settings=settings) as manifest,
        pytest.raises(ManifestInvalid) as caught,
    ):
        manifest.check()
    assert [(fault.line, fault.field) for fault in caught.value.faults] == [(3, "identity.mix.eve")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,identity\nnew,mix\n", "people made of others are written in YAML, JSON or JSON Lines"),
        ("id,photos,identity\nnew,,ada+alan\n", "people made of others (`identity`) are written in YAML"),
    ],
)
def test_a_table_says_that_it_is_too_flat(folder: Path, settings: Settings, text: str, message: str) -> None:
    (folder / "people.csv").write_text(text)
    (folder / "job.yaml").write_text("prompts: [{text: x}]")
    with (
        pytest.raises(ManifestInvalid) as caught,
        open_manifest(folder / "people.csv", settings=settings, job_file=folder / "job.yaml") as manifest,
    ):
        manifest.check()
    assert message in caught.value.faults[0].message


def test_a_stored_weight_set_holds_no_base_lora(folder: Path, settings: Settings) -> None:
    # Given prompts of the job and of a person, all with a Base-LoRA, and defaults that have one too
    stored = {**made(weight_set=FINGERPRINT), "prompts": [{"text": "mine", "base_weight": -0.5}, {"text": "inherits"}]}
    prompts = [{"text": "shared", "base_weight": 0.5}, {"text": "without", "base_weight": 0}]

    # When a stored weight set is among the people
    found = faults(folder, settings, stored, prompts=prompts, defaults={"base_weight": 0.25})

    # Then each prompt that cannot be drawn with it is told, and the people with photos are no part of it
    assert [field for field, _ in found] == ["identities[3].identity"] * 3
    assert [message.split(",")[0] for _, message in found] == [
        "the prompt 'shared' has a base_weight of 0.5",
        "the prompt 'mine' has a base_weight of -0.5",
        "the prompt 'inherits' has a base_weight of 0.25",
    ]
    # And a mix, which is made of photos, may have one
    assert content_hash(folder, settings, made(mix={"ada": 1, "alan": 1}), prompts=prompts)
