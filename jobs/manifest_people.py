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
from typing import Any, Protocol

from jobs.errors import PhotoRefused
from jobs.located import Mapped, Unreadable, line_of
from jobs.manifest_prompts import Prompt, PromptReader
from jobs.manifest_reader import ManifestReader
from jobs.manifest_schema import IdentityEntry, Reading
from jobs.planned import CheckedPhoto
from jobs.spool import Spool

# Each thread may hold one decoded photo, and the largest have 150 MB.
_PHOTO_THREADS = min(4, os.cpu_count() or 1)
_PEOPLE_PER_CHUNK = 256
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_DOCUMENT = json.JSONEncoder()


class Photos(Protocol):
    """Where photos come from; `PhotoSource` is the real one."""

    def check(self, source: str) -> CheckedPhoto:
        """Measure a photo, or raise `PhotoRefused`."""

    def read(self, photo: CheckedPhoto) -> bytes:
        """The photo's bytes, or `PhotoRefused` if they are not those that were checked."""


class PeopleCheck:
    """The first pass over the people: form, ids, photos, prompts, limits."""

    def __init__(
        self,
        reader: ManifestReader,
        spool: Spool,
        photos: Photos,
        reading: Reading,
        prompt_reader: PromptReader,
        prompts: list[Prompt],
    ) -> None:
        self._reader, self._spool, self._photos = reader, spool, photos
        self._reading, self._prompt_reader, self._prompts = reading, prompt_reader, prompts
        self._faults, self._settings = reading.faults, reading.settings
        self._needed = frozenset[str]().union(*(prompt.fields for prompt in prompts))
        self._names = frozenset(prompt.name for prompt in prompts)
        self._job_renders = sum(prompt.drawing.seeds.count for prompt in prompts)
        self._promptless = bool(prompts) or bool(self._faults.total)  # said already, or nothing to say
        self._counts: Counter[int] = Counter()

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
        most = self._settings.max_photos_per_identity
        asked = dict.fromkeys(source for _, _, entry in entries for source in entry.photos[:most])
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
        def fault(message: str, *steps: str | int) -> None:
            field = path
            for step in steps:
                field = f"{field}[{step}]" if isinstance(step, int) else f"{field}.{step}".lstrip(".")
            self._faults.add(message, line=line_of(record, steps), field=field or None, source=self._reader.source)

        marks = self._check_photos(entry, fault)
        own: list[Prompt] = []
        if entry.prompts is not None:
            own = self._prompt_reader.prompts(
                record["prompts"],
                source=self._reader.source,
                folder=self._reader.folder,
                field=f"{path}.prompts".lstrip("."),
                line=line_of(record, ["prompts"]),
            )
        elif not self._promptless:
            self._promptless = True
            fault(f"there is nothing to draw: neither the job nor {entry.id!r} has prompts; add `prompts`")
        self._check_prompts(entry, own, fault)
        self._counts[self._job_renders + sum(prompt.drawing.seeds.count for prompt in own)] += 1
        known = [entry.id, entry.subject, _fields_of(entry), entry.consent, entry.purpose]
        prompts = [prompt.canonical() for prompt in own]
        digest = hashlib.sha256(canonical([*known, sorted(marks), prompts])).digest()
        document = _DOCUMENT.encode([*known, entry.photos, prompts])
        if not self._spool.add_person(entry.id, record.line, digest, document):
            first = self._spool.first_line(entry.id)
            where = f", first on line {first}" if first else ""
            fault(f"the identity {entry.id!r} stands twice{where}; put all photos and prompts into one", "id")

    def _check_photos(self, entry: IdentityEntry, fault: Callable[..., None]) -> list[str]:
        """The SHA-256 of each photo that is good."""
        most = self._settings.max_photos_per_identity
        if len(entry.photos) > most:
            fault(f"{entry.id!r} has {len(entry.photos)} photos, at most {most} are allowed; keep the best", "photos")
        marks: dict[str, int] = {}
        for index, source in enumerate(entry.photos[:most]):
            found = self._spool.photo(source)
            if isinstance(found, str):
                fault(found, "photos", index)
            elif found is not None and (first := marks.setdefault(found.sha256, index)) != index:
                fault(f"{source!r} is the same photo as {entry.photos[first]!r}; name it once", "photos", index)
        return list(marks)

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
        for prompt in own:
            if prompt.name in self._names:
                fault(f"the job has a prompt named {prompt.name!r} too; give this one another `name`", "prompts")
        if needed <= values.keys():
            for prompt in (*self._prompts, *own):
                if prompt.too_long(values):
                    fault(f"the prompt {prompt.name!r} becomes too long with the fields of {entry.id!r}", "fields")


def _fields_of(entry: IdentityEntry) -> dict[str, str]:
    return {"age": entry.age, **entry.fields} if entry.age else entry.fields


def canonical(data: Any) -> bytes:
    """Plain data as bytes that depend on its content alone."""
    return _CANONICAL.encode(data).encode()
