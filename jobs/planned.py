"""What a checked manifest plans: the job, its people, their pictures. Plain values, no behaviour but the seeds.

Seeds that a manifest leaves out are derived, so that the same job always draws the same pictures: the first 32 bits of
SHA-256 over (job key, identity, prompt name) give a base, and index i of the prompt gets ``base ^ (i * 0x9E3779B1 mod
2^32)``. The multiplier is odd, so the product runs through all 2^32 values before it repeats: the seeds of one prompt
never collide. 32 unsigned bits fit an SQL BIGINT, a torch generator, JavaScript numbers and the seed box of every tool.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_GOLDEN = 0x9E3779B1
_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class JobSpec:
    """The job itself, after settings and overrides; `key` is what the manifest says, None if it says nothing."""

    tenant: str
    key: str | None
    name: str | None
    profile: str
    priority: int


@dataclass(frozen=True)
class CheckedPhoto:
    """A photo that was read, measured and fully decoded. `width` and `height` are those of the upright picture."""

    sha256: str
    source: str
    bytes_size: int
    width: int
    height: int
    media_type: str


@dataclass(frozen=True)
class PlannedRender:
    """One picture to draw. `ordinal` counts from 0 within the identity, `seed_index` within the prompt."""

    ordinal: int
    prompt_name: str
    prompt: str
    negative_prompt: str
    seed: int
    seed_index: int
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    lora_weight: float
    options: Mapping[str, Any] | None = None  # planned options, see `manifest_options`


@dataclass(frozen=True)
class PlannedMember:
    """One of the people that an identity is made of.

    `region` is a box in shares of the picture (left, top, right, bottom), or a mask; None in a mix.
    """

    external_id: str
    weight: float = 1.0
    region: tuple[float, ...] | CheckedPhoto | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class PlannedIdentity:
    """One person of the job. `renders` is lazy and can be walked once; `fields` are texts, `age` among them.

    `kind` is photos, mix, together or weights; only the first has photos, and `faces` says for each of them which face
    is meant (None for the clearest). Without `draw` a person is only there for others to be made of.
    """

    external_id: str
    subject: str | None
    fields: Mapping[str, str]
    consent: str | None
    purpose: str | None
    photos: list[CheckedPhoto]
    renders: Iterator[PlannedRender]
    renders_count: int
    kind: str = "photos"
    faces: Sequence[str | None] = ()
    members: Sequence[PlannedMember] = ()
    weight_set: str | None = None
    draw: bool = True


@dataclass(frozen=True)
class Checked:
    """What the first pass found.

    `identities` counts those that are drawn; `photos` and `photo_bytes` count each photo and each given picture once,
    however many share it. `content_hash` is 64 hex digits over everything that decides the people and their pictures:
    profile, prompts and their settings, identities with fields, consent and purpose, photos by SHA-256. Not in it: file
    format, order of keys and of identities, file names, tenant, key, name and priority.
    """

    content_hash: str
    identities: int
    renders: int
    photos: int
    photo_bytes: int
    renders_histogram: Mapping[int, int] = field(default_factory=Counter, repr=False)

    def units(self, renders_per_unit: int) -> int:
        """How many units the job has when one unit holds at most so many renders of one identity."""
        return sum(people * -(-renders // renders_per_unit) for renders, people in self.renders_histogram.items())


def seed_base(job_key: str, external_id: str, prompt_name: str) -> int:
    """The 32 bits from which the seeds of one prompt of one identity derive."""
    hashed = hashlib.sha256()
    for part in ("portraits-seed-1", job_key, external_id, prompt_name):
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(8, "big") + encoded)
    return int.from_bytes(hashed.digest()[:4], "big")


def derived_seed(base: int, index: int) -> int:
    """Seed number `index` from `seed_base`: 0 <= seed < 2^32, distinct for every index below 2^32."""
    return base ^ ((index * _GOLDEN) & _UINT32)


def candidate_seed(seed: int, attempt: int) -> int:
    """The seed of try number `attempt`: the render's own first, then 32 bits of SHA-256 over both numbers each."""
    if attempt == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"portraits-candidate-1\n{seed}\n{attempt}".encode()).digest()[:4], "big")
