"""The first pass over the people of a manifest: form, ids, photos, prompts, limits.

People are taken by the chunk, so that their photos can be decoded by a few threads at a time. What is good goes to the
spool with its digest; what is wrong becomes a fault, and reading goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import fsum
from typing import Any

from jobs.errors import Fault, PhotoRefused
from jobs.located import MAX_FAULTS, Faults, Mapped, Unreadable, line_of
from jobs.manifest_pictures import GivenPictures, Photos
from jobs.manifest_prompts import Prompt, PromptReader
from jobs.manifest_reader import ManifestReader
from jobs.manifest_schema import IdentityEntry, Reading, dotted
from jobs.planned import CheckedPhoto, PlannedMember
from jobs.spool import Spool

# Each thread may hold one decoded photo, and the largest have 150 MB.
_PHOTO_THREADS = min(4, os.cpu_count() or 1)
_PEOPLE_PER_CHUNK = 256
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_DOCUMENT = json.JSONEncoder()


_MADE = {"mix": "a mix", "together": "several people", "weights": "a stored weight set"}


class PeopleCheck:
    """The first pass over the people: form, ids, photos, prompts, limits."""

    def __init__(
        self,
        reader: ManifestReader,
        spool: Spool,
        photos: Photos,
        pictures: GivenPictures,
        reading: Reading,
        prompt_reader: PromptReader,
        prompts: list[Prompt],
    ) -> None:
        self._reader, self._spool, self._photos, self._pictures = reader, spool, photos, pictures
        self._reading, self._prompt_reader, self._prompts = reading, prompt_reader, prompts
        self._faults, self._settings = reading.faults, reading.settings
        self._needed = frozenset[str]().union(*(prompt.fields for prompt in prompts))
        self._names = frozenset(prompt.name for prompt in prompts)
        self._job_renders = sum(prompt.drawing.seeds.count for prompt in prompts)
        self._promptless = bool(prompts) or bool(self._faults.total)  # said already, or nothing to say
        self._counts: Counter[int] = Counter()
        # Kept apart, as only the database knows whether the tenant requires consent.
        self.without_consent = self._faults if self._settings.require_consent else Faults()
        self._unread: set[str] = set()

    def run(self) -> Counter[int]:
        """How many people have how many renders each; what is wrong is noted as faults."""
        source, most = self._reader.source, self._settings.max_identities_per_job
        records = self._reader.people()
        seen = 0
        with ThreadPoolExecutor(_PHOTO_THREADS, thread_name_prefix="photos") as pool:
            while chunk := list(islice(records, min(_PEOPLE_PER_CHUNK, most + 1 - seen))):
                seen += len(chunk)
                if seen > most:
                    message = f"more than {most} identities; divide the job, or raise PORTRAITS_MAX_IDENTITIES_PER_JOB"
                    self._faults.add(message, field="identities", source=source)
                    chunk.pop()
                self._check_chunk(chunk, pool)
                if seen > most:
                    break
        if not seen:
            self._faults.add("there are no identities; add one", source=source)
        elif not self._counts and not self._faults.total:
            self._faults.add("nobody is drawn; every identity says `draw: false`", source=source)
        self._check_members()
        renders = sum(each * many for each, many in self._counts.items())
        if renders > self._settings.max_renders_per_job:
            self._faults.add(
                f"the job asks for {renders} pictures, at most {self._settings.max_renders_per_job} are allowed; "
                "divide it, or raise PORTRAITS_MAX_RENDERS_PER_JOB",
                source=source,
            )
        return self._counts

    def _check_chunk(self, chunk: list[tuple[str, Mapped | Unreadable]], pool: ThreadPoolExecutor) -> None:
        entries: list[tuple[str, Mapped, IdentityEntry]] = []
        for path, record in chunk:
            if isinstance(record, Unreadable):
                self._faults.add(str(record), line=record.line, field=path or None, source=self._reader.source)
                continue
            entry = self._reading.entry(IdentityEntry, record, source=self._reader.source, field=path)
            if entry is not None:
                entries.append((path, record, entry))
            elif len(self._unread) < MAX_FAULTS:
                self._unread.add(str(record.get("id")).strip())
        most = self._settings.max_photos_per_identity
        asked = dict.fromkeys(source for _, _, entry in entries for source in entry.sources[:most])
        fresh = [source for source in asked if self._spool.photo(source) is None]
        for source, found in zip(fresh, pool.map(self._look, fresh), strict=True):
            self._spool.add_photo(source, found)
        for path, record, entry in entries:
            self._check_person(path, record, entry)

    def _look(self, source: str) -> CheckedPhoto | str:
        try:
            return self._photos.check(source)
        except PhotoRefused as error:
            return str(error)

    def _check_person(self, path: str, record: Mapped, entry: IdentityEntry) -> None:
        def place(*steps: str | int) -> Fault:
            return Fault("", line_of(record, steps), dotted(path, steps), self._reader.source)

        def fault(message: str, *steps: str | int) -> None:
            where = place(*steps)
            self._faults.add(message, line=where.line, field=where.field, source=where.source)

        self._check_form(entry, fault)
        self._check_consent(entry, place)
        marks = self._check_photos(entry, fault)
        members = self._members(entry, fault, place)
        own: list[Prompt] = []
        if entry.prompts is not None:
            own = self._prompt_reader.prompts(
                record["prompts"],
                source=self._reader.source,
                folder=self._reader.folder,
                field=f"{path}.prompts".lstrip("."),
                line=line_of(record, ["prompts"]),
            )
        elif not self._promptless and entry.draw:
            self._promptless = True
            fault(f"there is nothing to draw: neither the job nor {entry.id!r} has prompts; add `prompts`")
        if entry.draw:
            self._check_prompts(entry, own, fault)
            self._counts[self._job_renders + sum(prompt.drawing.seeds.count for prompt in own)] += 1
        known = [entry.id, entry.subject, _fields_of(entry), entry.consent, entry.purpose]
        prompts = [prompt.canonical() for prompt in own]
        made = _made(entry, members)
        # What is made of it stands at the end, if it is there: so the others keep the digest they always had.
        digest = hashlib.sha256(canonical([*known, sorted(marks), prompts, *([made] if made else [])])).digest()
        photos = [[photo.file, photo.face] for photo in entry.photos or ()]
        document = _DOCUMENT.encode([*known, photos, prompts, [_member_row(member) for member in members], made])
        kind = entry.identity.kind if entry.identity else "photos"
        if not self._spool.add_person(entry.id, record.line, digest, document, kind):
            first = self._spool.first_line(entry.id)
            where = f", first on line {first}" if first else ""
            fault(f"the identity {entry.id!r} stands twice{where}; put all photos and prompts into one", "id")

    def _check_form(self, entry: IdentityEntry, fault: Callable[..., None]) -> None:
        """An identity is given in one way, and what is left undrawn is there for others."""
        if entry.identity is not None and entry.photos is not None:
            fault("wanted either `photos` or `identity`, found both; a mix is made of other identities", "identity")
        elif entry.identity is None and entry.photos is None:
            fault("the field is missing; add it", "photos")
        if entry.draw:
            return
        if entry.identity is not None:
            fault("only an identity with photos can be left undrawn, since others are made of it; leave it out", "draw")
        if entry.prompts is not None:
            fault("`draw: false` leaves nothing to draw; leave the prompts out, or `draw`", "prompts")

    def _check_consent(self, entry: IdentityEntry, place: Callable[..., Fault]) -> None:
        """Whose face it is: a person with photos, or with a weight set that was made of some. Who is made of others of
        the manifest is covered by theirs.
        """
        if entry.identity is not None and entry.identity.weight_set is None:
            return
        for name in ("consent", "purpose"):
            if not getattr(entry, name):
                where = place(name)
                message = f"{entry.id!r} has no {name}, which is required here; add `{name}`"
                self.without_consent.add(message, line=where.line, field=where.field, source=where.source)

    def _check_photos(self, entry: IdentityEntry, fault: Callable[..., None]) -> list[str]:
        """The SHA-256 of each photo that is good, and which face is meant if that is said."""
        most, photos = self._settings.max_photos_per_identity, entry.photos or []
        if len(photos) > most:
            fault(f"{entry.id!r} has {len(photos)} photos, at most {most} are allowed; keep the best", "photos")
        seen: dict[str, int] = {}
        marks = []
        for index, photo in enumerate(photos[:most]):
            found = self._spool.photo(photo.file)
            if isinstance(found, str):
                fault(found, "photos", index)
            elif found is not None and (first := seen.setdefault(found.sha256, index)) != index:
                fault(f"{photo.file!r} is the same photo as {photos[first].file!r}; name it once", "photos", index)
            elif found is not None:
                marks.append(photo_mark(found.sha256, photo.face))
        return marks

    def _members(
        self, entry: IdentityEntry, fault: Callable[..., None], place: Callable[..., Fault]
    ) -> list[PlannedMember]:
        """Who this identity is made of; that they are there is looked at when everybody was read."""
        made = entry.identity
        if made is None:
            return []
        way = "mix" if made.mix else "together"
        for name in made.members():
            if name == entry.id:
                fault(f"{entry.id!r} cannot be made of itself; name identities with photos", "identity", way, name)
            else:
                self._spool.add_member(repr(entry.id), name, place("identity", way, name))
        if made.weight_set is not None:
            at = place("identity", "weight_set")
            self._spool.add_weight_set(made.weight_set, at.line, at.field or "")
        if made.mix:
            whole = fsum(made.mix.values())
            # The one with most of it first: the key points of a mix are taken from that one's photo.
            return sorted(
                (PlannedMember(name, weight / whole) for name, weight in made.mix.items()),
                key=lambda member: (-member.weight, member.external_id),
            )
        members = []
        for name, asked in sorted((made.together or {}).items()):
            region: tuple[float, ...] | CheckedPhoto | None = asked.region.box
            if asked.region.mask is not None:
                try:
                    region = self._pictures.use(asked.region.mask)
                except PhotoRefused as error:
                    fault(str(error), "identity", way, name)
            members.append(PlannedMember(name, 1.0, region, asked.prompt))
        return members

    def _check_members(self) -> None:
        """Everybody that something is made of is an identity with photos."""
        for what, member, kind, place in self._spool.wrong_members():
            if kind is None and member in self._unread:
                continue  # it is there, with faults of its own
            if kind is None:
                message = (
                    f"{what} is made of {member!r}, which is no identity of this manifest; add it with its photos, and "
                    "with `draw: false` if no pictures of it are wanted"
                )
            else:
                message = f"{what} is made of {member!r}, which is itself {_MADE[kind]}; name identities with photos"
            self._faults.add(message, line=place.line, field=place.field, source=place.source)

    def _check_prompts(self, entry: IdentityEntry, own: list[Prompt], fault: Callable[..., None]) -> None:
        """Every field a prompt uses is there, names are free, nothing grows too long."""
        values = entry.known()
        needed = self._needed.union(*(prompt.fields for prompt in own)) if own else self._needed
        for name in sorted(needed - values.keys()):
            prompt = next(prompt for prompt in (*self._prompts, *own) if name in prompt.fields)
            having = ", ".join(sorted(values)) or "none"
            fault(
                f"the prompt {prompt.name!r} uses {{{name}}}, which {entry.id!r} does not have; its fields: {having}",
                *((name,) if name in IdentityEntry.model_fields else ("fields", name)),
            )
        if entry.identity is not None and not entry.identity.mix:
            for prompt in (*self._prompts, *own):
                if prompt.needs_photo:
                    fault(
                        f"the prompt {prompt.name!r} takes its key points from the person's photo, and {entry.id!r} is "
                        f"{_MADE[entry.identity.kind]}; name a file as `keypoints`",
                        "identity",
                    )
        if entry.identity is not None and entry.identity.weight_set:
            for prompt in (*self._prompts, *own):
                if prompt.base_weight:
                    fault(
                        f"the prompt {prompt.name!r} has a base_weight of {prompt.base_weight:g}, and {entry.id!r} is "
                        f"{_MADE['weights']}, which holds no Base-LoRA; write `base_weight: 0`, or give this identity "
                        "a manifest of its own",
                        "identity",
                    )
        for prompt in own:
            if prompt.name in self._names:
                fault(f"the job has a prompt named {prompt.name!r} too; give this one another `name`", "prompts")
        if needed <= values.keys():
            for prompt in (*self._prompts, *own):
                if prompt.too_long(values):
                    fault(f"the prompt {prompt.name!r} becomes too long with the fields of {entry.id!r}", "fields")


def _fields_of(entry: IdentityEntry) -> dict[str, str]:
    return {"age": entry.age, **entry.fields} if entry.age else entry.fields


def photo_mark(sha256: str, face: str | None) -> str:
    """A photo in fingerprints and hashes: its hash alone unless another face than the clearest is meant."""
    return sha256 if face is None else f"{sha256} {face}"


def _made(entry: IdentityEntry, members: list[PlannedMember]) -> dict[str, Any]:
    """What an identity is besides its photos, as it enters the hash; empty for a person by photos who is drawn."""
    if not entry.draw:
        return {"draw": False}
    if entry.identity is None:
        return {}
    if entry.identity.weight_set:
        return {"weight_set": entry.identity.weight_set}
    plain = [
        [
            one.external_id,
            one.weight,
            one.region.sha256 if isinstance(one.region, CheckedPhoto) else one.region,
            one.prompt,
        ]
        for one in members
    ]
    return {entry.identity.kind: plain}


def _member_row(member: PlannedMember) -> list[Any]:
    """A member as JSON; a mask by its name, which the spool knows."""
    region = member.region.source if isinstance(member.region, CheckedPhoto) else member.region
    return [member.external_id, member.weight, region, member.prompt]


def canonical(data: Any) -> bytes:
    """Plain data as bytes that depend on its content alone."""
    return _CANONICAL.encode(data).encode()
