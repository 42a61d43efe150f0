"""Manifests: every fault is found at once, with its place, and hostile input stays cheap."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs.errors import ManifestInvalid, StorageFull, StorageUnavailable
from jobs.located import MAX_FAULTS
from jobs.manifest import open_manifest, parse_manifest
from jobs.photos import PhotoSource
from jobs.planned import CheckedPhoto
from jobs.settings import Settings

PERSON = "{id: ada, subject: x, photos: [photos/ada.jpg]}"
GOOD = f"prompts: [{{text: x}}]\nidentities: [{PERSON}]\n"


def faults_of(
    folder: Path, settings: Settings, text: str | bytes, name: str = "people.yaml", **more: Any
) -> ManifestInvalid:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestInvalid) as caught, open_manifest(path, settings=settings, **more) as manifest:
        manifest.check()
    return caught.value


def with_job(job: str) -> str:
    """A manifest that is good but for this job part."""
    prompts = "" if "prompts:" in job else "prompts: [{text: x}]\n"
    return f"{job}\n{prompts}identities: [{PERSON}]\n"


def with_people(*people: str, prompts: str = "[{text: x}]") -> str:
    """A manifest whose people stand on line 3 and after."""
    return f"prompts: {prompts}\nidentities:\n" + "".join(f"  - {person}\n" for person in people)


@pytest.mark.parametrize(
    ("job", "line", "field", "message"),
    [
        ("sead: 1", 1, "sead", "unknown field 'sead'"),
        ("key: a\nprofil: x", 2, "profil", "did you mean 'profile'"),
        ("tenant: Acme Corp", 1, "tenant", "lower-case"),
        ("tenant: " + "a" * 65, 1, "tenant", "the text has 65 characters; at most 64 are allowed"),
        ("key: ''", 1, "key", "the text is empty"),
        ("name: '  '", 1, "name", "the text is empty"),
        ("key: " + "k" * 201, 1, "key", "the text has 201 characters; at most 200 are allowed"),
        ('key: "a\\u0007b"', 1, "key", "control character U+0007"),
        ('key: "a\\nb"', 1, "key", "several lines"),
        ("priority: 101", 1, "priority", "less than or equal to 100"),
        ("priority: high", 1, "priority", "wanted a number; found 'high'"),
        ("priority: true", 1, "priority", "wanted a number; found True"),
        ("priority: '5'", 1, "priority", "leave the quotes away; found '5'"),
        ("profile: ../x", 1, "profile", "pattern"),
        ("defaults: 5", 1, "defaults", "wanted a mapping"),
        ("defaults:\n  stepz: 5", 2, "defaults.stepz", "did you mean 'steps'"),
        ("defaults:\n  steps: 0", 2, "defaults.steps", "greater than or equal to 1"),
        ("defaults:\n  steps: true", 2, "defaults.steps", "wanted a number; found True"),
        ("defaults:\n  steps: ' 5 '", 2, "defaults.steps", "found a text; leave the quotes away"),
        ("defaults:\n  steps: 2.5", 2, "defaults.steps", "valid integer"),
        ("defaults:\n  steps: 151", 2, "defaults.steps", "at most 150"),
        ("defaults:\n  guidance: .nan", 2, "defaults.guidance", "number"),
        ("defaults:\n  guidance: -1", 2, "defaults.guidance", "greater than or equal to 0"),
        ("defaults:\n  guidance: false", 2, "defaults.guidance", "wanted a number; found False"),
        ("defaults:\n  guidance: '5.5'", 2, "defaults.guidance", "leave the quotes away"),
        ("defaults:\n  lora_weight: 1.51", 2, "defaults.lora_weight", "less than or equal to 1.5"),
        ("defaults:\n  lora_weight: -1.51", 2, "defaults.lora_weight", "greater than or equal to -1.5"),
        ("defaults:\n  lora_weight: true", 2, "defaults.lora_weight", "wanted a number"),
        ("defaults:\n  size: true", 2, "defaults.size", "wanted 1024x768"),
        ("defaults:\n  size: [64, true]", 2, "defaults.size", "wanted 1024x768"),
        ("defaults:\n  seeds: true", 2, "defaults.seeds", "list of seeds"),
        ("defaults:\n  seeds: [true]", 2, "defaults.seeds", "list of seeds"),
        ("defaults:\n  seeds: '3'", 2, "defaults.seeds", "list of seeds"),
        ("defaults:\n  scheduler: ddim", 2, "defaults.scheduler", "'dpmpp_2m_karras', 'euler'"),
        ("defaults:\n  size: 100x100", 2, "defaults.size", "multiples of 8"),
        ("defaults:\n  size: 32", 2, "defaults.size", "at least 64"),
        ("defaults:\n  size: 4096x64", 2, "defaults.size", "at most 2048"),
        ("defaults:\n  size: large", 2, "defaults.size", "wanted 1024x768"),
        ("defaults:\n  size: [64, 64, 64]", 2, "defaults.size", "wanted 1024x768"),
        ("defaults:\n  seeds: 0", 2, "defaults.seeds", "counts the seeds"),
        ("defaults:\n  seeds: 12345", 2, "defaults.seeds", "is written [12345]"),
        ("defaults:\n  seeds: []", 2, "defaults.seeds", "list of seeds"),
        ("defaults:\n  seeds: [1, 2, 1]", 2, "defaults.seeds", "twice"),
        ("defaults:\n  seeds: [-1]", 2, "defaults.seeds", "from 0"),
        ("defaults:\n  seeds: [1.5]", 2, "defaults.seeds", "list of seeds"),
        ("defaults:\n  negative_prompt: '{'", 3, "prompts[0].negative_prompt", "lone '{'"),
        ("prompts: []", 1, "prompts", "empty"),
        ("prompts: office", 1, "prompts", "list of prompts"),
        ("prompts:\n  - office", 2, "prompts[0]", "wanted a prompt"),
        ("prompts:\n  - name: a", 2, "prompts[0].text", "missing"),
        ("prompts:\n  - text: ''", 2, "prompts[0].text", "the text is empty"),
        ("prompts:\n  - text: x\n    name: a/b", 3, "prompts[0].name", "lower-case"),
        ("prompts:\n  - text: x\n    name: nul", 3, "prompts[0].name", "lower-case"),
        ("prompts:\n  - text: x\n\n    seed: 3", 4, "prompts[0].seed", "did you mean 'seeds'"),
        ("prompts:\n  - text: 'x {subject.y}'", 2, "prompts[0].text", "not a field"),
        ("prompts:\n  - text: " + "x" * 5000, 2, "prompts[0].text", "5000 characters"),
        ("prompts:\n  - {text: x, name: a}\n  - {text: y, name: a}", 3, "prompts[1]", "'a' stands twice"),
        ("prompts:\n  - {text: x}\n  - {text: x}", 3, "prompts[1]", "'x' stands twice"),
        ("prompts:\n  - text: '{role}'", 3, "identities[0].fields.role", "which 'ada' does not have"),
        ("prompts:\n  - set: none.yaml", 2, "prompts[0].set", "no file 'none.yaml'"),
        ("prompts:\n  - set: ../x.yaml", 2, "prompts[0].set", "'..'"),
        ("prompts:\n  - set: photos/ada.jpg", 2, "prompts[0].set", ".yaml or .json"),
        ("prompts:\n  - set: a.yaml\n    steps: 3", 3, "prompts[0].steps", "unknown field"),
    ],
)
def test_faults_of_the_job(job: str, line: int, field: str, message: str, folder: Path, settings: Settings) -> None:
    found = faults_of(folder, settings, with_job(job))
    assert found.total == 1
    (fault,) = found.faults
    assert (fault.source, fault.field) == ("people.yaml", field)
    assert message in fault.message
    assert fault.line == line


@pytest.mark.parametrize(
    ("person", "field", "message"),
    [
        ("ada", "", "wanted an identity"),
        ("{photos: [photos/ada.jpg]}", ".id", "missing"),
        ("{id: '', photos: [photos/ada.jpg]}", ".id", "the text is empty"),
        ("{id: true, photos: [photos/ada.jpg]}", ".id", "wanted a text"),
        ("{id: ' ', photos: [photos/ada.jpg]}", ".id", "the text is empty"),
        ("{id: ' " + "a" * 201 + " ', photos: [photos/ada.jpg]}", ".id", "has 201 characters; at most 200 are allowed"),
        ("{id: a, photos: ['']}", ".photos[0]", "the text is empty"),
        ("{id: a}", ".photos", "missing"),
        ("{id: a, photos: []}", ".photos", "the list is empty"),
        ("{id: a, photos: photos/ada.jpg}", ".photos", "valid list"),
        ("{id: a, photos: [3.5]}", ".photos[0]", "wanted a text"),
        ("{id: a, photos: [photos/none.jpg]}", ".photos[0]", "no file 'photos/none.jpg'"),
        ("{id: a, photos: [photos/ada.jpg, photos/ada.jpg]}", ".photos[1]", "same photo as 'photos/ada.jpg'"),
        ("{id: a, photos: [photos/ada.jpg, copy.jpg]}", ".photos[1]", "same photo as 'photos/ada.jpg'"),
        ("{id: a, photos: [text.jpg]}", ".photos[0]", "wanted a JPEG, PNG or WebP photo, found other content"),
        ("{id: a, photos: [../secret.jpg]}", ".photos[0]", "'..'"),
        ("{id: a, photos: [door/secret.jpg]}", ".photos[0]", "leaves the folder"),
        ("{id: a, photos: ['s3://b-1/x.jpg']}", ".photos[0]", "not allowed"),
        ("{id: a, photos: [photos/ada.jpg], role: x}", ".role", "unknown field 'role'"),
        ("{id: a, photos: [photos/ada.jpg], fields: {a.b: x}}", ".fields", "'a.b' cannot be a field"),
        ("{id: a, photos: [photos/ada.jpg], fields: {age: 3}}", ".fields", "key of its own"),
        ("{id: a, photos: [photos/ada.jpg], fields: {x: [1]}}", ".fields", "'x': wanted a text"),
        ("{id: a, photos: [photos/ada.jpg], fields: [1]}", ".fields", "wanted a mapping"),
        ("{id: a, photos: [photos/ada.jpg], consent: " + "c" * 501 + "}", ".consent", "at most 500"),
        ("{id: a, photos: [photos/ada.jpg], prompts: []}", ".prompts", "empty"),
        (
            "{id: a, photos: [photos/ada.jpg], prompts: [{text: x, name: x}]}",
            ".prompts",
            "the job has a prompt named 'x'",
        ),
        ("{id: a, photos: [photos/ada.jpg], prompts: [{text: '{age}'}]}", ".age", "'a' does not have"),
        ("{id: a, photos: [photos/ada.jpg], prompts: [{text: y, steps: 999}]}", ".prompts[0].steps", "at most 150"),
    ],
)
def test_faults_of_a_person(
    person: str, field: str, message: str, folder: Path, settings: Settings, make_photo: Callable[..., bytes]
) -> None:
    # Given things that must not be taken for photos, and a person on line 4 behind a good one
    (folder / "text.jpg").write_text("I am a text")
    (folder / "copy.jpg").write_bytes((folder / "photos/ada.jpg").read_bytes())
    (folder.parent / "secret.jpg").write_bytes(make_photo())
    (folder / "door").symlink_to(folder.parent)
    found = faults_of(folder, settings, with_people("{id: good, photos: [photos/alan.jpg]}", person))
    assert [fault.message for fault in found.faults if message not in fault.message] == []
    assert found.total == 1
    assert (found.faults[0].line, found.faults[0].field) == (4, f"identities[1]{field}")


def test_all_faults_come_together_and_the_message_shows_them(folder: Path, settings: Settings) -> None:
    # Given faults in the job, in a set, and in people
    (folder / "set.yaml").write_text("prompts:\n  - text: '{'\n")
    text = (
        "keyy: x\n"
        "prompts: [{set: set.yaml}, {text: '{role}'}]\n"
        "identities:\n"
        "  - {id: a, photos: [photos/none.jpg]}\n"
        "  - {id: a, photos: [photos/ada.jpg], fields: {role: x}}\n"
        "  - {id: a, photos: [photos/alan.jpg], fields: {role: x}}\n"
    )
    found = faults_of(folder, settings, text)
    # Then each has its place
    assert [(fault.source, fault.line, fault.field) for fault in found.faults] == [
        ("people.yaml", 1, "keyy"),
        ("set.yaml", 2, "prompts[0].text"),
        ("people.yaml", 4, "identities[0].photos[0]"),
        ("people.yaml", 4, "identities[0].fields.role"),
        ("people.yaml", 5, "identities[1].id"),
        ("people.yaml", 6, "identities[2].id"),
    ]
    assert "the manifest has 6 faults" in str(found)
    assert "people.yaml, line 5, identities[1].id: the identity 'a' stands twice, first on line 4" in str(found)


@pytest.mark.parametrize("second", ["photos/ada.jpg", "photos/alan.jpg"])
def test_a_person_who_stands_twice_is_a_fault_with_the_same_or_other_photos(
    second: str, folder: Path, settings: Settings
) -> None:
    for name, text in [
        ("p.yaml", with_people("{id: ada, photos: [photos/ada.jpg]}", f"{{id: ' ada ', photos: [{second}]}}")),
        ("p.jsonl", '{"job": {"prompts": [{"text": "x"}]}}\n\n{"id": "ada", "photos": ["photos/ada.jpg"]}\n'
                    f'{{"id": "ada", "photos": ["{second}"]}}'),
    ]:  # fmt: skip
        found = faults_of(folder, settings, text, name)
        assert [(fault.line, fault.message[:51]) for fault in found.faults] == [
            (4, "the identity 'ada' stands twice, first on line 3; p")
        ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("people.txt", GOOD, "named .yaml, .json, .jsonl or .csv"),
        ("people.yaml", "", "empty"),
        ("people.yaml", "- a\n", "mapping with prompts and identities"),
        ("people.yaml", "prompts: [{text: x}]\n", "at least one identity, found nothing"),
        ("people.yaml", "prompts: [{text: x}]\nidentities: []\n", "an empty list"),
        ("people.yaml", "identities: 5\n", "found 5"),
        ("people.yaml", "identities: [{id: a, photos: [photos/ada.jpg]}]\n", "nothing to draw"),
        ("people.json", GOOD, "not JSON"),
        ("people.csv", "id,photos\nada,photos/ada.jpg\n", "job file"),
        ("people.jsonl", '{"id": "ada", "photos": ["photos/ada.jpg"]}\n', "job file"),
        ("people.jsonl", '{"job": {"prompts": [{"text": "x"}]}}\n', "no identities"),
        ("people.jsonl", '{"job": {"prompts": [{"text": "x"}], "identities": []}}\n', "no identities; they stand"),
        ("people.jsonl", '{"job": 3}\n', "job file"),
        ("people.jsonl", '{"id": "a", "photos": ["p"]}\n{"job": {}}\n', "the job line must be the first"),
        ("people.csv", "Id,Photos,Subject,a\n", "'id'; write Id, Photos, Subject in lower case: id, photos, subject"),
        ("people.csv", "id,Photos\n", "'photos'; write Photos in lower case: photos"),
        ("people.csv", "who,Photos\n", "no column 'id'; the headings are who, Photos"),
    ],
)
def test_manifests_that_are_none(name: str, text: str, message: str, folder: Path, settings: Settings) -> None:
    assert message in faults_of(folder, settings, text, name).faults[0].message


def test_a_job_line_further_down_is_named_with_its_line(folder: Path, settings: Settings) -> None:
    person = '{"id": "ada", "photos": ["photos/ada.jpg"]}\n'
    job = '{"job": {"prompts": [{"text": "x"}]}}\n'
    # Given the job line after a person, and once more after a good one
    for text, line in [(f"{person}\n{job}", 3), (f"{job}{person}{job}", 3)]:
        found = faults_of(folder, settings, text, "people.jsonl")
        assert [(fault.line, fault.message[:35]) for fault in found.faults] == [
            (line, "the job line must be the first of t")
        ]
    # And with a job file, where a stream may do without one
    (folder / "job.yaml").write_text("prompts: [{text: x}]")
    (fault,) = faults_of(folder, settings, person + job, "people.jsonl", job_file=folder / "job.yaml").faults
    assert (fault.line, fault.message[:20]) == (2, "the job line must be")


def test_files_that_are_missing_or_none(folder: Path, settings: Settings) -> None:
    (folder / "good.yaml").write_text(GOOD)
    (folder / "people.csv").write_text("id,photos\n")
    (folder / "folder.yaml").mkdir()
    (folder / "folder.csv").mkdir()
    for path, more in [
        (folder / "none.yaml", {}),
        (folder / "none.csv", {}),
        (folder / "folder.yaml", {}),
        (folder / "folder.csv", {}),
        (folder / "good.yaml", {"job_file": folder / "none.yaml"}),
        (folder / "good.yaml", {"job_file": folder / "good.yaml"}),
        (folder / "good.yaml", {"prompts_file": folder / "none.json"}),
        (folder / "good.yaml", {"prompts_file": folder / "people.csv"}),
        (folder / "people.csv", {"job_file": folder / "none.yaml"}),
    ]:
        with pytest.raises(ManifestInvalid):
            open_manifest(path, settings=settings, **more)


def test_a_file_that_is_too_large_is_refused(folder: Path, settings: Settings) -> None:
    small = settings.model_copy(update={"max_manifest_bytes": len(GOOD) - 1})
    assert "use CSV or JSON Lines" in faults_of(folder, small, GOOD).faults[0].message


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_identities_per_job": 2}, "more than 2 identities"),
        ({"max_renders_per_job": 5}, "asks for 6 pictures, at most 5"),
        ({"max_photos_per_identity": 1}, "has 2 photos, at most 1"),
        ({"max_photo_bytes": 100}, "at most 100 are allowed"),
        ({"max_photo_pixels": 64 * 48 - 1}, "3072 pixels"),
    ],
)
def test_limits_are_settings(limit: dict[str, int], message: str, folder: Path, settings: Settings) -> None:
    text = with_people(
        "{id: a, photos: [photos/ada.jpg, photos/alan.jpg]}",
        "{id: b, photos: [photos/ada.jpg]}",
        "{id: c, photos: [photos/alan.jpg]}",
        prompts="[{text: x, seeds: 2}]",
    )
    assert message in faults_of(folder, settings.model_copy(update=limit), text).faults[0].message


def test_faults_of_a_set_file_are_placed_in_it(folder: Path, settings: Settings) -> None:
    for text, line, field, message in [
        ("a: [", 2, None, "not YAML"),
        ("prompts: []\n", 1, "prompts", "empty"),
        ("name: x\n", 1, "prompts", "list of prompts"),
        ("5\n", 1, "prompts", "list of prompts"),
        ("prompts: [{text: x}]\nother: 1\n", 2, "other", "unknown field"),
        ("defaults:\n  steps: 999\nprompts: [{text: x}]\n", 2, "defaults.steps", "at most 150"),
        ("- {text: x}\n- {set: other.yaml}\n", 2, "prompts[1].text", "missing"),
        ("[" + ",".join("{text: a}" for _ in range(1001)) + "]", 1, "prompts", "1001 prompts, at most 1000"),
    ]:
        (folder / "set.yaml").write_text(text)
        fault = faults_of(folder, settings, with_job("prompts: [{set: set.yaml}]")).faults[0]
        assert (fault.source, fault.line, fault.field) == ("set.yaml", line, field)
        assert message in fault.message


def test_prompts_that_grow_too_long_are_faults(folder: Path, settings: Settings) -> None:
    person = "{id: a, photos: [photos/ada.jpg], fields: {long: " + "x" * 2000 + "}}"
    found = faults_of(folder, settings, with_people(person, prompts="[{name: p, text: '{long} {long} {long}'}]"))
    assert [fault.message for fault in found.faults] == ["the prompt 'p' becomes too long with the fields of 'a'"]


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"tenant": "A B"}, "tenant"),
        ({"priority": 500}, "priority"),
        ({"keys": "x"}, "keys"),
        ({"key": object()}, "key"),
    ],
)
def test_overrides_are_checked_too(overrides: dict[str, Any], field: str, folder: Path, settings: Settings) -> None:
    found = faults_of(folder, settings, GOOD, overrides=overrides)
    assert [(fault.source, fault.field) for fault in found.faults] == [("overrides", field)]


def test_a_full_disk_under_the_spool_is_named(folder: Path, settings: Settings) -> None:
    # Given a spool that may not grow
    path = long_table(folder, 2_000)
    with open_manifest(path, settings=settings, job_file=folder / "job.yaml") as manifest:
        manifest._spool._database.execute("PRAGMA max_page_count = 10")
        # Then the reason and the place are told
        with pytest.raises(StorageFull, match="TMPDIR"):
            manifest.check()
        spool = Path(manifest._spool._folder.name)
    assert not spool.exists()


def test_what_no_column_can_fill_is_one_fault_not_one_for_each_row(folder: Path, settings: Settings) -> None:
    # Given a table without the column `role`, and one row without a subject
    (folder / "job.yaml").write_text(
        "prompts:\n  - text: x\n  - name: a\n    text: '{subject}, a {role}'\n  - text: '{subject}'\n"
    )
    rows = "".join(f"p{n},photos/ada.jpg,{'' if n == 5 else 'x'}\n" for n in range(50))
    found = faults_of(folder, settings, f"id,photos,subject\n{rows}", "people.csv", job_file=folder / "job.yaml")
    assert [(fault.source, fault.line, fault.field) for fault in found.faults] == [
        ("job.yaml", 3, "prompts[1]"),
        ("people.csv", 7, "subject"),
    ]
    assert "no such column; the columns are subject" in found.faults[0].message


def test_a_thousand_faults_are_listed_and_all_are_counted(folder: Path, settings: Settings) -> None:
    (folder / "job.yaml").write_text("prompts: [{text: x}]")
    rows = "".join(f"p{n},photos/none.jpg\n" for n in range(2500))
    found = faults_of(folder, settings, f"id,photos\n{rows}", "people.csv", job_file=folder / "job.yaml")
    assert (len(found.faults), found.total) == (MAX_FAULTS, 2500)
    assert found.faults[-1].line == 1001
    assert "and 2480 more" in str(found)


class Counting:
    """Photos that are counted as they are looked at."""

    def __init__(self, real: PhotoSource) -> None:
        self.real = real
        self.looked: list[str] = []

    def check(self, source: str) -> CheckedPhoto:
        self.looked.append(source)
        return self.real.check(source)

    def read(self, photo: CheckedPhoto) -> bytes:
        return self.real.read(photo)


def long_table(folder: Path, rows: int, bad: int | None = None) -> Path:
    """People who share two photos; the one with the number `bad` lacks a value that the prompt needs."""
    (folder / "job.yaml").write_text("prompts: [{name: a, text: 'portrait of {subject}, a {role}', seeds: 2}]")
    with (folder / "people.csv").open("w") as file:
        file.write("id,photos,subject,role\n")
        for number in range(rows):
            role = "" if number == bad else "pilot"
            file.write(f"p{number},photos/ada.jpg|photos/alan.jpg,a person,{role}\n")
    return folder / "people.csv"


def test_a_long_table_with_one_bad_row(folder: Path, settings: Settings) -> None:
    # Given 20,000 people, and one of them without a role
    path, photos = long_table(folder, 20_000, bad=12_345), Counting(PhotoSource(folder, settings))
    # When they are checked
    opened = open_manifest(path, settings=settings, job_file=folder / "job.yaml")
    with opened as manifest, pytest.raises(ManifestInvalid) as caught:
        manifest.check(photos)
    # Then that row alone is named, and each photo was decoded once
    assert [(fault.line, fault.field) for fault in caught.value.faults] == [(12_345 + 2, "fields.role")]
    assert sorted(photos.looked) == ["photos/ada.jpg", "photos/alan.jpg"]


def test_memory_does_not_grow_with_the_rows(folder: Path, settings: Settings) -> None:
    def peak(rows: int) -> int:
        path = long_table(folder, rows)
        tracemalloc.start()
        try:
            with open_manifest(path, settings=settings, job_file=folder / "job.yaml") as manifest:
                assert manifest.check().renders == rows * 2
                assert sum(1 for person in manifest.people() for _ in person.renders) == rows * 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000)  # what is made once: imports, caches
    few, many = peak(1_000), peak(8_000)
    assert many < few * 1.2


def test_a_bucket_that_does_not_answer_is_no_fault_of_the_manifest(folder: Path, settings: Settings) -> None:
    class Away(Counting):
        def check(self, source: str) -> CheckedPhoto:
            raise StorageUnavailable("away")

    (folder / "people.yaml").write_text(GOOD)
    with open_manifest(folder / "people.yaml", settings=settings) as manifest, pytest.raises(StorageUnavailable):
        manifest.check(Away(PhotoSource(folder, settings)))


@pytest.mark.parametrize("data", [{}, {"identities": {}}, {"identities": [1]}, {"identities": [{}], "prompts": [{}]}])
def test_python_callers_get_the_same_faults(data: dict[str, Any], folder: Path, settings: Settings) -> None:
    with pytest.raises(ManifestInvalid) as caught, parse_manifest(data, settings=settings, base=folder) as manifest:
        manifest.check()
    assert caught.value.faults[0].source is None


INNER_KEYS = ["text", "set", "name", "id", "file", "face", "mix", "together", "weight_set", "region", "mask", "edited"]
INNER_KEYS += ["control", "net", "image", "inpaint", "keypoints", "scale", "sliders", "detail", "attempts", "outputs"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["photos/ada.jpg", "{x}", "photo", "face", "left", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER_KEYS), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["tenant", "key", "name", "profile", "priority", "defaults", "prompts", "identities", "sliders"]
PERSON_KEYS = ["id", "subject", "age", "fields", "consent", "purpose", "photos", "prompts", "identity", "draw"]
PEOPLE = st.lists(st.dictionaries(st.sampled_from(PERSON_KEYS), VALUES, max_size=8), max_size=3)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8), PEOPLE)
def test_any_data_is_a_manifest_or_its_faults(
    folder: Path, settings: Settings, data: dict[str, Any], people: Any
) -> None:
    try:
        with parse_manifest({**data, "identities": people}, settings=settings, base=folder) as manifest:
            manifest.check()
            assert all(list(person.renders) or not person.draw for person in manifest.people())
    except ManifestInvalid as error:
        assert error.total >= 1


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(alphabet="idphotsrmx:-[]{},'\"|\n 019.{}", max_size=60), st.sampled_from(["yaml", "json", "jsonl", "csv"])
)
def test_any_file_is_a_manifest_or_its_faults(folder: Path, settings: Settings, text: str, form: str) -> None:
    heads = {"yaml": GOOD, "json": "{", "jsonl": '{"job": {"prompts": [{"text": "x"}]}}\n', "csv": "id,photos,x\n"}
    path = folder / f"fuzz.{form}"
    path.write_bytes((heads[form] + text).encode())
    (folder / "fuzz-job.yaml").write_text("prompts: [{text: x}]")
    try:
        with open_manifest(
            path, settings=settings, job_file=folder / "fuzz-job.yaml" if form == "csv" else None
        ) as manifest:
            manifest.check()
    except ManifestInvalid as error:
        assert error.total >= 1
