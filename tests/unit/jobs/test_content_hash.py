"""What is enqueued again after an upgrade is the same job: the hashes of version 0.1.0 stand here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jobs.manifest import open_manifest, parse_manifest
from jobs.planned import CheckedPhoto
from jobs.settings import Settings

# Computed by version 0.1.0, before a manifest could say anything about controls, sliders or outputs.
PLAIN = "0de54624c551eaaf212d2a15f09be08bb608d57046acb4b804f0f4354d228dbd"
WHOLE = "7278101fe50e44633c27ff927268774d789cc494e3a30795d797140a91891a9d"
TABLE = "df5cb193f711a21a1f7475566125e4892bfd775be3a98e0f723f0caf8b130e7f"
LINES = "fac78cedbfb2777f44a33cfaf4a358c79d29039973db2d0300aae1c46b0a2592"

PEOPLE: list[dict[str, Any]] = [{"id": "ada", "photos": ["b.jpg", "a.jpg"]}, {"id": "alan", "photos": ["c.jpg"]}]
SIMPLE: dict[str, Any] = {"prompts": [{"text": "a portrait"}], "identities": PEOPLE}
FULL: dict[str, Any] = {
    "tenant": "acme",
    "key": "spring",
    "name": "Spring pictures",
    "profile": "realvis",
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
            "fields": {"role": "pilot", "identity": "secret", "draw": "lots"},
            "consent": "ref-123",
            "purpose": "team page",
            "photos": ["a.jpg", "b.jpg"],
        },
        {
            "id": 7,
            "subject": "a man",
            "age": "40",
            "fields": {"role": True},
            "photos": ["c.jpg"],
            "prompts": [{"name": "own", "text": "only {subject}", "size": 512, "steps": 4, "guidance": 0}],
        },
    ],
}


class Named:
    """Photos whose content is their name, so that no encoder's version decides a hash."""

    def check(self, source: str) -> CheckedPhoto:
        """A photo of 64 x 48 pixels."""
        return CheckedPhoto(hashlib.sha256(source.encode()).hexdigest(), source, len(source), 64, 48, "image/jpeg")

    def read(self, photo: CheckedPhoto) -> bytes:
        """Its name."""
        return photo.source.encode()


def hash_of(data: dict[str, Any], settings: Settings) -> str:
    with parse_manifest(data, settings=settings, base=Path()) as manifest:
        return manifest.check(Named()).content_hash


def hash_of_file(path: Path, settings: Settings, job: Path | None = None, photos: Named | None = None) -> str:
    with open_manifest(path, settings=settings, job_file=job) as manifest:
        return manifest.check(photos).content_hash


def test_a_plain_manifest(settings: Settings) -> None:
    assert hash_of(SIMPLE, settings) == PLAIN


def test_everything_that_0_1_0_knew(settings: Settings) -> None:
    assert hash_of(FULL, settings) == WHOLE


def test_a_table_with_columns_that_are_keys_today(settings: Settings, tmp_path: Path) -> None:
    # Given a table whose columns `identity` and `draw` were plain fields when it was written
    (tmp_path / "job.yaml").write_text("prompts: [{text: '{subject}, {identity}, {draw}', seeds: 2}]")
    rows = "id,photos,subject,identity,draw\nada,a.jpg|b.jpg,a woman,x,yes\neve,c.jpg,a man,y,z\n"
    (tmp_path / "people.csv").write_text(rows)
    # Then it is still the same job
    assert hash_of_file(tmp_path / "people.csv", settings, tmp_path / "job.yaml", Named()) == TABLE


def test_json_lines(settings: Settings, tmp_path: Path) -> None:
    job = '{"job": {"profile": "mini", "prompts": [{"text": "{subject} by the sea", "lora_weight": 1}]}}\n'
    people = '{"id": "eve", "subject": "a nurse", "photos": ["a.jpg"]}\n{"id": "bo", "subject": "x", "photos": ["b"]}\n'
    (tmp_path / "people.jsonl").write_text(job + people)
    assert hash_of_file(tmp_path / "people.jsonl", settings, None, Named()) == LINES
