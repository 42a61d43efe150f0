"""The rows of people, pictures and sliders, from what a manifest plans.

A photo set is named by what it is made of: the same photos in any order are the same set, and so are the same people
in the same proportions. The names of people are part of it where a set is made of people: erasing one of them must
reach exactly the sets that were made of that one.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.manifest import Manifest
from jobs.manifest_people import photo_mark
from jobs.planned import CheckedPhoto, PlannedIdentity, PlannedMember
from jobs.repository.writer import MemberRow, PersonRows

_EXTENSIONS = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}

Ids = Mapping[str, tuple[uuid.UUID, uuid.UUID]]


def photo_key(tenant: str, sha256: str, media_type: str) -> str:
    """Where a photo lies: under its content's hash, so the same photo is stored once per tenant."""
    return f"{tenant}/photos/{sha256[:2]}/{sha256}{_EXTENSIONS.get(media_type, '')}"


def photo_row(tenant: str, photo: CheckedPhoto) -> dict[str, Any]:
    """A photo's row but for its id."""
    return {
        "sha256": photo.sha256,
        "storage_key": photo_key(tenant, photo.sha256, photo.media_type),
        "media_type": photo.media_type,
        "size_bytes": photo.bytes_size,
        "width": photo.width,
        "height": photo.height,
    }


def photo_set_fingerprint(photos: Sequence[CheckedPhoto], faces: Sequence[str | None] = ()) -> str:
    """A photo set's name: the same photos in any order are the same set, if the same faces in them are meant."""
    chosen = faces or [None] * len(photos)
    marks = {photo_mark(photo.sha256, face) for photo, face in zip(photos, chosen, strict=True)}
    return hashlib.sha256("\n".join(sorted(marks)).encode()).hexdigest()


class PhotoSets:
    """Makes the rows of one manifest's people; looks up the people that others are made of."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self._tenant = manifest, manifest.job.tenant

    def fingerprint(self, person: PlannedIdentity) -> str:
        """The name of the photo set that this person is."""
        if person.kind == "photos":
            return photo_set_fingerprint(person.photos, person.faces)
        if person.kind == "weights":
            return _digest("weights", [person.weight_set])
        return self._composed(person.kind, person.members)

    def rows(
        self, person: PlannedIdentity, units: Iterable[Sequence[dict[str, Any]]] = (), members: Ids | None = None
    ) -> PersonRows:
        """The rows of one person; `members` are the ids of those it is made of, where they are to be written."""
        photos = {photo.sha256: photo_row(self._tenant, photo) for photo in person.photos}
        return PersonRows(
            external_id=person.external_id,
            consent_reference=person.consent,
            purpose=person.purpose,
            photos=list(photos.values()),
            photo_set_fingerprint=self.fingerprint(person),
            units=units,
            kind=person.kind,
            weight_set_fingerprint=person.weight_set,
            faces=person.faces,
            members=[self._member_row(member, members) for member in person.members] if members else (),
        )

    def sliders(self, ids: Ids) -> dict[str, PersonRows]:
        """The rows of each of the job's sliders: sets of two members that belong to the edited identity."""
        found = {}
        for name, (edited, original) in self._manifest.sliders.items():
            members = [PlannedMember(edited, 1.0), PlannedMember(original, -1.0)]
            found[name] = PersonRows(
                external_id=edited,
                consent_reference=None,
                purpose=None,
                photos=(),
                photo_set_fingerprint=self._composed("slider", members),
                units=(),
                kind="slider",
                members=[self._member_row(member, ids) for member in members],
            )
        return found

    def members_of(self, people: Iterable[PlannedIdentity]) -> list[PersonRows]:
        """The rows of everybody that these people are made of, each once."""
        names = dict.fromkeys(member.external_id for person in people for member in person.members)
        return [self.rows(self._manifest.person(name)) for name in names]

    def slider_people(self) -> list[PersonRows]:
        """The rows of everybody that a slider is made of, each once."""
        names = dict.fromkeys(name for pair in self._manifest.sliders.values() for name in pair)
        return [self.rows(self._manifest.person(name)) for name in names]

    def _member_row(self, member: PlannedMember, ids: Ids) -> MemberRow:
        region: list[float] | dict[str, Any] | None = None
        if isinstance(member.region, CheckedPhoto):
            mask = member.region
            key = photo_key(self._tenant, mask.sha256, mask.media_type)
            region = {"mask": {"sha256": mask.sha256, "key": key, "media_type": mask.media_type}}
        elif member.region is not None:
            region = list(member.region)
        return MemberRow(ids[member.external_id][1], member.weight, region, member.prompt)

    def _composed(self, kind: str, members: Sequence[PlannedMember]) -> str:
        plain = []
        for member in members:
            of_member = self.fingerprint(self._manifest.person(member.external_id))
            region = member.region.sha256 if isinstance(member.region, CheckedPhoto) else member.region
            plain.append([member.external_id, of_member, member.weight, region, member.prompt])
        return _digest(kind, plain)


def _digest(kind: str, content: Any) -> str:
    plain = json.dumps([f"photo-set-{kind}-1", content], separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
