"""Manifests: what comes out of a good one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.errors import ManifestInvalid, PhotoRefused, SettingsInvalid
from jobs.manifest import Manifest, open_manifest, parse_manifest
from jobs.planned import Checked, PlannedIdentity, PlannedRender, derived_seed, seed_base
from jobs.profiles import drawing_defaults
from jobs.settings import Settings

DATA: dict[str, Any] = {
    "tenant": "acme",
    "key": "spring",
    "name": "Spring pictures",
    "profile": "mini",
    "priority": 5,
    "defaults": {"size": "128x192", "steps": 8, "guidance": 4.5, "negative_prompt": "blurry {role}", "seeds": 2},
    "prompts": [
        {"name": "office", "text": "{subject}, a {role}, {age}", "seeds": [11, 2**63 - 1]},
        {"text": "Watercolour of {subject}!", "scheduler": "euler", "size": [64, 128], "lora_weight": 0.5},
    ],
    "identities": [
        {
            "id": "ada",
            "subject": "a young woman",
            "age": 31,
            "fields": {"role": "pilot"},
            "consent": "ref-123",
            "purpose": "team page",
            "photos": ["photos/ada.jpg", "photos/grace.png"],
        },
        {
            "id": 7,
            "subject": "a man",
            "age": "40",
            "fields": {"role": True},
            "photos": ["photos/alan.jpg"],
            "prompts": [{"name": "own", "text": "only {subject}", "size": 512, "steps": 4, "guidance": 0, "seeds": 1}],
        },
    ],
}


def opened(data: Any, folder: Path, settings: Settings, **more: Any) -> Manifest:
    return parse_manifest(data, settings=settings, base=folder, **more)


def read(data: Any, folder: Path, settings: Settings, **more: Any) -> tuple[Checked, list[PlannedIdentity]]:
    """Everything of a manifest; the renders as lists."""
    with opened(data, folder, settings, **more) as manifest:
        return manifest.check(), list(manifest.people())


def changed(**more: Any) -> dict[str, Any]:
    return {**DATA, **more}


def test_the_whole_plan(folder: Path, settings: Settings) -> None:
    # When a manifest with two people is read
    with opened(DATA, folder, settings) as manifest:
        checked = manifest.check()
        ada, seven = manifest.people()
        renders = list(ada.renders), list(seven.renders)
    # Then the job is what it says
    assert vars(manifest.job) == {
        "tenant": "acme",
        "key": "spring",
        "name": "Spring pictures",
        "profile": "mini",
        "priority": 5,
    }
    assert manifest.key == "spring"
    # And the counts are 2 prompts x 2 seeds for each, and one more for the second
    sizes = [(folder / "photos" / name).stat().st_size for name in ("ada.jpg", "grace.png", "alan.jpg")]
    assert (checked.identities, checked.renders, checked.photos, checked.photo_bytes) == (2, 9, 3, sum(sizes))
    assert [checked.units(each) for each in (1, 2, 4, 5, 64)] == [9, 5, 3, 2, 2]  # ceil(4/n) + ceil(5/n)
    # And the people are whole
    assert (ada.external_id, ada.subject, ada.fields) == ("ada", "a young woman", {"age": "31", "role": "pilot"})
    assert (ada.consent, ada.purpose, ada.renders_count) == ("ref-123", "team page", 4)
    assert (seven.external_id, seven.fields) == ("7", {"age": "40", "role": "true"})
    assert [photo.source for photo in ada.photos] == ["photos/ada.jpg", "photos/grace.png"]
    assert ada.photos[1].sha256 == hashlib.sha256((folder / "photos/grace.png").read_bytes()).hexdigest()
    # And the pictures are what the nearest setting says
    assert [render.ordinal for render in renders[1]] == [0, 1, 2, 3, 4]
    assert renders[0][1] == PlannedRender(
        ordinal=1,
        prompt_name="office",
        prompt="a young woman, a pilot, 31",
        negative_prompt="blurry pilot",
        seed=2**63 - 1,
        seed_index=1,
        width=128,
        height=192,
        steps=8,
        guidance=4.5,
        scheduler="dpmpp_2m_karras",
        lora_weight=0.8,
    )
    second = renders[0][2]
    assert (second.prompt_name, second.prompt) == ("watercolour-of-subject", "Watercolour of a young woman!")
    assert (second.width, second.height, second.scheduler, second.lora_weight) == (64, 128, "euler", 0.5)
    own = renders[1][4]
    assert (own.prompt_name, own.prompt, own.width, own.height, own.guidance) == ("own", "only a man", 512, 512, 0.0)


def test_people_can_be_walked_again_and_need_a_check_first(folder: Path, settings: Settings) -> None:
    with opened(DATA, folder, settings) as manifest:
        with pytest.raises(RuntimeError, match="check"):
            next(manifest.people())
        assert manifest.check() is manifest.check()
        first = [[*person.renders] for person in manifest.people()]
        assert [[*person.renders] for person in manifest.people()] == first
        spool = Path(manifest._spool._folder.name)
        assert spool.is_dir()
    # Then nothing of it is left on the disk
    assert not spool.exists()
    manifest.close()


def test_photos_are_read_again_and_verified(folder: Path, settings: Settings, make_photo: Callable[..., bytes]) -> None:
    with opened(DATA, folder, settings) as manifest:
        manifest.check()
        photo = next(manifest.people()).photos[0]
        assert manifest.read_photo(photo) == (folder / "photos/ada.jpg").read_bytes()
        (folder / "photos/ada.jpg").write_bytes(make_photo(colour="red"))
        with pytest.raises(PhotoRefused, match="changed"):
            manifest.read_photo(photo)


def write_as(form: str, data: dict[str, Any], folder: Path) -> tuple[Path, Path | None]:
    """The manifest as a file of this format, and a job file where the format needs one."""
    path = folder / f"people.{form}"
    if form == "json":
        path.write_text(json.dumps(data, indent=1))
    elif form == "yaml":
        path.write_text(yaml.safe_dump(data, sort_keys=True))
    elif form == "jsonl":
        job = {name: value for name, value in data.items() if name != "identities"}
        path.write_text("\n".join(json.dumps(line) for line in [{"job": job}, *data["identities"]]))
    else:
        job_file = folder / "job.yaml"
        job_file.write_text(yaml.safe_dump({name: value for name, value in data.items() if name != "identities"}))
        rows = ["role,photos,id,subject,age,consent,purpose"]
        for one in data["identities"]:
            photos = "|".join(one["photos"])
            cells = [one["fields"]["role"], photos, one["id"], one["subject"], one["age"]]
            rows.append(",".join(map(str, [*cells, one.get("consent", ""), one.get("purpose", "")])))
        path.write_text("\r\n".join(rows))
        return path, job_file
    return path, None


def test_the_same_content_is_the_same_in_every_format(folder: Path, settings: Settings) -> None:
    # Given one manifest in five forms (a table cannot hold prompts of one person, so nobody has them)
    simple = [{**one, "fields": {"role": "pilot"}} for one in DATA["identities"]]
    for one in simple:
        one.pop("prompts", None)
    data = changed(identities=simple)
    found = [read(data, folder, settings)]
    # When each is read
    for form in ("yaml", "json", "jsonl", "csv"):
        path, job_file = write_as(form, data, folder)
        with open_manifest(path, settings=settings, job_file=job_file) as manifest:
            found.append((manifest.check(), [*manifest.people()]))
            assert manifest.key == "spring"
    # Then all are the same, down to the content's hash
    for checked, people in found[1:]:
        assert checked == found[0][0]
        assert [person.fields for person in people] == [person.fields for person in found[0][1]]
        assert [list(person.renders) for person in people] == [
            list(person.renders) for person in read(data, folder, settings)[1]
        ]


def test_what_the_hash_depends_on(folder: Path, settings: Settings, make_photo: Callable[..., bytes]) -> None:
    ada, seven = DATA["identities"]
    original = read(DATA, folder, settings)[0].content_hash
    (folder / "copy.jpg").write_bytes((folder / "photos/ada.jpg").read_bytes())
    same = {
        "order of people": changed(identities=[seven, ada]),
        "order of photos": changed(identities=[{**ada, "photos": ada["photos"][::-1]}, seven]),
        "name of a photo": changed(identities=[{**ada, "photos": ["copy.jpg", "photos/grace.png"]}, seven]),
        "size as a list": changed(defaults={**DATA["defaults"], "size": [128, 192]}),
        "number as a float": changed(defaults={**DATA["defaults"], "steps": 8.0}),
        "white space": changed(identities=[{**ada, "subject": " a young woman "}, seven]),
        "key, name, priority, tenant": changed(key="other", name="other", priority=-3, tenant="other"),
        "default said aloud": changed(defaults={**DATA["defaults"], "scheduler": "dpmpp_2m_karras"}),
    }
    for what, data in same.items():
        assert read(data, folder, settings)[0].content_hash == original, what
    (folder / "other.jpg").write_bytes(make_photo(colour="red"))
    other = {
        "profile": changed(profile="sdxl"),
        "steps": changed(defaults={**DATA["defaults"], "steps": 9}),
        "seeds": changed(defaults={**DATA["defaults"], "seeds": 3}),
        "prompt's text": changed(prompts=[{**DATA["prompts"][0], "text": "{subject}"}, DATA["prompts"][1]]),
        "prompt's name": changed(prompts=[{**DATA["prompts"][0], "name": "home"}, DATA["prompts"][1]]),
        "own prompt": changed(identities=[ada, {**seven, "prompts": [{"name": "own", "text": "x"}]}]),
        "consent": changed(identities=[{**ada, "consent": "ref-124"}, seven]),
        "field": changed(identities=[{**ada, "fields": {"role": "chef"}}, seven]),
        "person": changed(identities=[ada]),
        "photo": changed(identities=[{**ada, "photos": ["other.jpg", "photos/grace.png"]}, seven]),
    }
    hashes = {what: read(data, folder, settings)[0].content_hash for what, data in other.items()}
    assert len({original, *hashes.values()}) == len(other) + 1


def test_a_manifest_without_a_key_is_called_after_its_content(folder: Path, settings: Settings) -> None:
    data = {name: value for name, value in DATA.items() if name != "key"}
    keys = []
    for again in (False, False, True, True):
        with opened(data, folder, settings, again=again) as manifest:
            checked = manifest.check()
            keys.append(manifest.key)
    assert keys[0] == keys[1] == checked.content_hash
    assert len(set(keys)) == 3
    assert all(key.startswith(f"{checked.content_hash}-") for key in keys[2:])
    with opened(changed(key="k" * 200), folder, settings, again=True) as manifest:
        manifest.check()
        assert len(manifest.key) == 200


def test_derived_seeds_follow_their_definition(folder: Path, settings: Settings) -> None:
    # Given the definition, written out once more
    def wanted(key: str, identity: str, prompt: str, index: int) -> int:
        parts = [part.encode() for part in ("portraits-seed-1", key, identity, prompt)]
        mark = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
        return int.from_bytes(mark[:4], "big") ^ (index * 2654435761 % 2**32)

    # Then the pictures have these seeds
    _, people = read(DATA, folder, settings)
    derived = [render for render in people[1].renders if render.prompt_name == "watercolour-of-subject"]
    assert [render.seed for render in derived] == [wanted("spring", "7", "watercolour-of-subject", n) for n in (0, 1)]
    # And another key, person or prompt has others
    assert (
        len({wanted(*names, 0) for names in [("a", "b", "c"), ("a", "bc", ""), ("ab", "", "c"), ("", "ab", "c")]}) == 4
    )


def test_derived_seeds_of_one_prompt_never_collide() -> None:
    base = seed_base("key", "ada", "office")
    seeds = {derived_seed(base, index) for index in range(100_000)}
    assert len(seeds) == 100_000
    assert min(seeds) >= 0
    assert max(seeds) < 2**32


def test_settings_and_overrides(folder: Path, settings: Settings) -> None:
    # Given a manifest that names neither tenant nor profile
    data = {name: value for name, value in DATA.items() if name not in ("tenant", "profile", "key")}
    with opened(data, folder, settings.model_copy(update={"tenant": "house"})) as manifest:
        manifest.check()
        assert (manifest.job.tenant, manifest.job.profile, manifest.job.key) == ("house", "mini", None)
    # When all is overridden, and what is None is not
    overrides = {"tenant": "t2", "key": "k2", "profile": None, "priority": -100}
    with opened(DATA, folder, settings, overrides=overrides) as manifest:
        manifest.check()
        assert (manifest.job.tenant, manifest.key, manifest.job.profile, manifest.job.priority) == (
            "t2",
            "k2",
            "mini",
            -100,
        )


def test_what_a_profile_draws_by_default(folder: Path, settings: Settings) -> None:
    def defaults_of(profile: str) -> dict[str, Any]:
        if profile != "mini":
            raise SettingsInvalid(f"no profile {profile!r}")
        return {"size": 256, "steps": 3}

    data = changed(defaults={"steps": 9})
    with opened(data, folder, settings, defaults_of=defaults_of) as manifest:
        manifest.check()
        render = next(next(manifest.people()).renders)
    assert (render.width, render.height, render.steps, render.guidance) == (256, 256, 9, 5.0)
    other = opened(changed(profile="other"), folder, settings, defaults_of=defaults_of)
    with other as manifest, pytest.raises(ManifestInvalid) as caught:
        manifest.check()
    assert [fault.field for fault in caught.value.faults] == ["profile"]


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_prompt_sets(form: str, folder: Path, settings: Settings) -> None:
    # Given a set with its own defaults in a file of its own, and a bare list
    (folder / "sets").mkdir()
    tree = {
        "name": "s",
        "defaults": {"steps": 3},
        "prompts": [{"name": "one", "text": "1"}, {"name": "two", "text": "2", "steps": 5}],
    }
    (folder / f"sets/a.{form}").write_text(json.dumps(tree))
    (folder / "sets/b.yaml").write_text("- {name: three, text: '3'}\n")
    entries = [{"set": f"sets/a.{form}"}, {"name": "inline", "text": "0"}, {"set": "sets/b.yaml"}]
    # Then prompts come in the order of the list, each with the nearest defaults
    _, people = read(changed(prompts=entries, defaults={"steps": 7}), folder, settings)
    steps = {render.prompt_name: render.steps for render in people[0].renders}
    assert list(steps.items()) == [("one", 3), ("two", 5), ("inline", 7), ("three", 7)]


def test_job_file_and_prompts_file(folder: Path, settings: Settings, tmp_path: Path) -> None:
    # Given a manifest, a job file elsewhere with a set beside it, and a prompts file
    path, _ = write_as("yaml", DATA, folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "set.yaml").write_text("[{name: from-set, text: x}]")
    (elsewhere / "job.yaml").write_text("key: other\ndefaults: {steps: 2}\nprompts: [{set: set.yaml}]\n")
    (elsewhere / "prompts.json").write_text('{"prompts": [{"name": "from-file", "text": "y"}]}')

    def look(**more: Any) -> tuple[str, str, list[tuple[str, int]]]:
        with open_manifest(path, settings=settings, **more) as manifest:
            manifest.check()
            found = dict.fromkeys((render.prompt_name, render.steps) for render in next(manifest.people()).renders)
            return manifest.key, manifest.job.tenant, list(found)

    # Then a job file replaces key by key, and a prompts file the prompts
    assert look(job_file=elsewhere / "job.yaml") == ("other", "acme", [("from-set", 2)])
    assert look(prompts_file=elsewhere / "prompts.json") == ("spring", "acme", [("from-file", 8)])
    both = look(job_file=elsewhere / "job.yaml", prompts_file=elsewhere / "prompts.json", overrides={"key": "mine"})
    assert both == ("mine", "acme", [("from-file", 2)])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("portrait of {subject} in a navy suit", "portrait-of-subject-in-a-navy-suit"),
        ("ONE, two & 3!", "one-two-3"),
        ("word " * 30, f"{'-'.join(['word'] * 9)}-{hashlib.sha256(' '.join(['word'] * 30).encode()).hexdigest()[:6]}"),
        ("портрет", f"prompt-{hashlib.sha256('портрет'.encode()).hexdigest()[:6]}"),
        ("café", f"cafe-{hashlib.sha256('café'.encode()).hexdigest()[:6]}"),
        ("x" * 60, f"{'x' * 48}-{hashlib.sha256(b'x' * 60).hexdigest()[:6]}"),
    ],
)
def test_names_from_texts(text: str, name: str, folder: Path, settings: Settings) -> None:
    _, people = read(changed(prompts=[{"text": text}]), folder, settings)
    assert next(people[0].renders).prompt_name == name


def test_the_examples_are_good(settings: Settings) -> None:
    examples = Path(__file__).parents[3] / "examples"
    for name, job_file, identities, pictures in [
        ("people.yaml", None, 8, 8 * 4 + 3),
        ("people.csv", examples / "prompts/headshots.yaml", 3, 3 * 3),
        ("people.jsonl", None, 2, 2 * 2 + 1),
    ]:
        defaults = drawing_defaults(settings)
        with open_manifest(examples / name, settings=settings, job_file=job_file, defaults_of=defaults) as manifest:
            checked = manifest.check()
            sizes = {
                (render.width, render.height, render.steps) for person in manifest.people() for render in person.renders
            }
        assert (checked.identities, checked.renders) == (identities, pictures)
        assert sizes == {(64, 64, 20)}
        assert manifest.job.profile == "mini"
