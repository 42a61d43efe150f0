"""Fuzzing of the manifest reader: every input ends as a job or as an error that is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzz_guard import run_fuzzer
from fuzz_world import BASE, PATHS, lay_out

from jobs.database import Database
from jobs.errors import ManifestInvalid
from jobs.manifest import open_manifest, parse_manifest
from jobs.settings import Settings

CASES = {"sqlite": 160, "postgresql+psycopg": 80}
MOST_SECONDS, MOST_BYTES = 10.0, 256 * 2**20


def test_every_document_ends_as_a_job_or_a_told_error(
    database: Database, database_url: str, tmp_path: Path, record_property: Any
) -> None:
    # Given an installation, and a folder with links out of it, a pipe, devices and a bomb
    home = tmp_path / "fuzz"
    cases = CASES[database_url.partition(":")[0]]

    # When hostile documents, tables and mappings are read there, and what is accepted is enqueued
    found = run_fuzzer("fuzz_manifest.py", home, database_url, str(cases), seconds=240)

    # Then none crashed, hung, or opened a file outside, and both endings were reached
    assert sum(found["outcomes"].values()) >= cases
    assert found["outcomes"].keys() >= {"accepted", "manifest_invalid"}
    # And each was done in bounded time and memory
    assert found["slowest_seconds"] < MOST_SECONDS
    assert found["grown_bytes"] < MOST_BYTES
    record_property("measured", f"fuzzed manifests: {found}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lay_out(tmp_path)


@pytest.fixture
def limits(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_the_manifest_that_is_spoilt_is_a_good_one(folder: Path, limits: Settings) -> None:
    with parse_manifest(BASE, settings=limits, base=folder) as manifest:
        assert manifest.check().renders == 18


# Only these are what they look like; every other path leads out, or to something that is no photo.
GOOD = {"a.jpg", "a.jpg/", "b.png", "sub/c.webp", "./a.jpg", "inside.png", "mask.png", "sub/é.png"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:40])
def test_a_path_leads_to_a_photo_of_the_folder_or_to_a_fault(folder: Path, limits: Settings, path: str) -> None:
    people = [{"id": "ada", "photos": [path]}]
    data = {"prompts": [{"text": "a portrait"}], "defaults": {"size": 64}, "identities": people}
    with parse_manifest(data, settings=limits, base=folder) as manifest:
        if path in GOOD:
            assert manifest.check().photos == 1
        else:
            with pytest.raises(ManifestInvalid) as told:
                manifest.check()
            assert [fault.field for fault in told.value.faults] == ["identities[0].photos[0]"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        # Python refuses to print so many digits; found by the fuzzer, where the fault was to be told
        ({"tenant": 10**5_000}, "tenant"),
        ({"identities": 10**5_000}, "identities"),
        ({10**5_000: 1}, None),
        ({"priority": -(2**64)}, "priority"),
    ],
)
def test_whole_numbers_that_only_python_can_hold_are_faults(
    folder: Path, limits: Settings, changed: dict[Any, Any], field: str | None
) -> None:
    with pytest.raises(ManifestInvalid) as told, parse_manifest({**BASE, **changed}, settings=limits, base=folder):
        pass
    assert [fault.field for fault in told.value.faults] == [field]
    assert "64 bits" in str(told.value) or "wanted a text" in str(told.value)


MIB = 2**20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "bomb.yaml",
            b"a: &a [x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c]\n" % (n + 1, n + 1, *[n] * 4) for n in range(97, 121)),
        ),
        ("deep.yaml", b"[" * 4 * MIB),
        ("deep.json", b"[" * 4 * MIB),
        ("deep.jsonl", b'{"a":' * 50_000 + b"\n"),
        ("long.json", b'{"a": "' + b"x" * 4 * MIB),
        ("long.csv", b'id,photos\n"' + b"x" * 4 * MIB),
        ("line.jsonl", b'{"id": "' + b"x" * 4 * MIB),
        ("digits.yaml", b"priority: " + b"9" * 4 * MIB),
        ("digits.json", b'{"priority": ' + b"9" * 4 * MIB + b"}"),
        ("keys.json", b"{" + b",".join(b'"%d":1' % n for n in range(300_000)) + b"}"),
        ("tag.yaml", b"!!python/object/apply:os.system ['touch stray']\n"),
        ("nul.csv", b"id,photos\n\0,\0\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_documents_that_are_bombs_are_told_in_seconds(
    folder: Path, limits: Settings, name: str, content: bytes
) -> None:
    # Given a document that would cost a naive reader minutes, gigabytes, or its stack
    (folder / name).write_bytes(content)
    # When it is read, then it is refused with a message that a person can read
    with (
        pytest.raises(ManifestInvalid) as told,
        open_manifest(folder / name, settings=limits, job_file=folder / "job.yaml") as manifest,
    ):
        manifest.check()
    assert len(str(told.value)) < 4_000
    assert not (folder / "stray").exists()
    json.dumps([fault.field for fault in told.value.faults])
