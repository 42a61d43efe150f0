"""The manifest: who is to be drawn, and how. The door to everything about it.

    with open_manifest(path, settings=settings) as manifest:
        checked = manifest.check()             # every fault at once, or the counts and the content's hash
        for person in manifest.people():       # lazily: identities x prompts x seeds
            for render in person.renders: ...

What a manifest may say stands in `manifest_schema`, the file formats in `manifest_reader`, `yaml_format`, `json_format`
and `streams`. Memory is constant in the number of people for CSV and JSON Lines; what must be remembered lies in a
temporary spool on the disk, which leaving the `with` block removes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.errors import Fault, ManifestInvalid, SettingsInvalid
from jobs.located import Faults, Mapped, Unreadable, from_python, line_of
from jobs.manifest_identity import Sliders
from jobs.manifest_people import PeopleCheck, canonical
from jobs.manifest_pictures import GivenPictures, Photos
from jobs.manifest_prompts import Prompt, PromptReader, parts_of, renders
from jobs.manifest_reader import ManifestReader, Part, read_document, read_manifest, read_mapping, read_sent
from jobs.manifest_schema import Drawing, JobEntry, Reading, dotted
from jobs.photos import PhotoSource
from jobs.planned import Checked, CheckedPhoto, JobSpec, PlannedIdentity, PlannedMember, PlannedRender
from jobs.sent_photos import SentPhotos
from jobs.settings import Settings
from jobs.spool import Spool

__all__ = [
    "Checked",
    "CheckedPhoto",
    "JobSpec",
    "Manifest",
    "PlannedIdentity",
    "PlannedMember",
    "PlannedRender",
    "open_manifest",
    "parse_manifest",
    "receive_manifest",
]

MAX_KEY_CHARACTERS = 200

_KIND_OF = {"mix": "mix", "together": "together", "weight_set": "weights"}

DefaultsOf = Callable[[str], Mapping[str, Any]]


def open_manifest(
    path: Path,
    *,
    settings: Settings,
    job_file: Path | None = None,
    prompts_file: Path | None = None,
    again: bool = False,
    overrides: Mapping[str, Any] | None = None,
    defaults_of: DefaultsOf | None = None,
) -> Manifest:
    """Open a manifest file (.yaml, .json, .jsonl, .csv).

    `job_file` and `prompts_file` replace what the manifest says (see `manifest_reader`); `overrides` may hold tenant,
    key, profile and priority and win over both; None in it means not given. `again` makes the key new, so that the same
    content is drawn again with other derived seeds. `defaults_of` tells what a profile draws by default (size, steps
    and so on); if it raises `SettingsInvalid`, that is a fault of the field `profile`.

    Raises `ManifestInvalid` when a file cannot be read at all; all other faults come from `Manifest.check`.
    """
    prompts = Part(read_document(prompts_file, settings), prompts_file.name, Path()) if prompts_file else None
    reader = read_manifest(path, job_file, settings)
    return Manifest(reader, settings, prompts=prompts, again=again, overrides=overrides, defaults_of=defaults_of)


def parse_manifest(
    data: Mapping[str, Any],
    *,
    settings: Settings,
    base: Path,
    again: bool = False,
    overrides: Mapping[str, Any] | None = None,
    defaults_of: DefaultsOf | None = None,
) -> Manifest:
    """The same for a mapping of the same form; photo paths and prompt sets are relative to the folder `base`."""
    reader = read_mapping(data, base)
    return Manifest(reader, settings, again=again, overrides=overrides, defaults_of=defaults_of)


def receive_manifest(
    data: bytes,
    ending: str,
    *,
    settings: Settings,
    again: bool = False,
    overrides: Mapping[str, Any] | None = None,
    defaults_of: DefaultsOf | None = None,
) -> Manifest:
    """The same for a document that somebody has sent, `.json` or `.yaml`.

    It may name photos that were sent (`sha256:...`), and others in the buckets that `PORTRAITS_PHOTO_BUCKETS` names,
    but no file of this machine and nothing of the store.
    """
    reader = read_sent(data, ending)
    return Manifest(reader, settings, again=again, overrides=overrides, defaults_of=defaults_of)


class Manifest:
    """One manifest, opened; used as a context manager. `job`, `key` and `sliders` are there after `check`.

    `sliders` are the job's sliders by name: (edited identity, original identity).
    """

    job: JobSpec
    key: str
    sliders: Mapping[str, tuple[str, str]]

    def __init__(
        self,
        reader: ManifestReader,
        settings: Settings,
        *,
        prompts: Part | None = None,
        again: bool = False,
        overrides: Mapping[str, Any] | None = None,
        defaults_of: DefaultsOf | None = None,
    ) -> None:
        self._reader = reader
        self._settings = settings
        self._prompts_part = prompts
        self._again = again
        self._overrides = {name: value for name, value in (overrides or {}).items() if value is not None}
        self._defaults_of = defaults_of
        self._faults = Faults()
        self._reading = Reading(self._faults, settings)
        self._prompts: list[Prompt] = []
        self._checked: Checked | None = None
        self._without_consent = Faults()
        self.sent = SentPhotos(settings)
        self._photos: Photos = PhotoSource(reader.folder, settings, sent=self.sent)
        self._spool = Spool()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and remove the spool. Closing twice is harmless."""
        self._reader.close()
        self._spool.close()
        self.sent.close()

    def check(self, photos: Photos | None = None) -> Checked:
        """The first pass: read and check everything, write nothing.

        Raises `ManifestInvalid` with every fault (the first 1000 of them, and how many there are), a `StorageError` if
        a bucket with photos does not answer. A second call returns the first one's answer.
        """
        if self._checked is not None:
            return self._checked
        self._photos = photos or self._photos
        self.sent.tenant = self._tenant()
        pictures = GivenPictures(self._spool, self._photos)
        self.sliders = self._read_sliders()
        job, drawings = self._read_job(pictures)
        reader = PromptReader(self._reading, pictures, drawings, self.sliders)
        self._prompts = self._read_prompts(reader)
        people = PeopleCheck(self._reader, self._spool, self._photos, pictures, self._reading, reader, self._prompts)
        counts = people.run()
        self._without_consent = people.without_consent
        self._faults.raise_any()
        if job is None:  # every way to this has noted a fault
            raise ManifestInvalid([])
        head: list[Any] = [job.profile, [prompt.canonical() for prompt in self._prompts]]
        if self.sliders:
            head.append(self.sliders)
        digest = self._spool.content_hash(canonical(head))
        number, size = self._spool.photo_totals()
        self.job = job
        self.key = self._key_of(job.key or digest)
        self._checked = Checked(
            content_hash=digest,
            identities=counts.total(),
            renders=sum(each * many for each, many in counts.items()),
            photos=number,
            photo_bytes=size,
            renders_histogram=counts,
        )
        return self._checked

    def require_consent(self) -> None:
        """Raise `ManifestInvalid` if `check` found people without consent or purpose, with line and field of each."""
        self._without_consent.raise_any()

    def people(self, *, composed: bool | None = None) -> Iterator[PlannedIdentity]:
        """The people that `check` found, in the manifest's order; may be walked any number of times.

        `composed` keeps only those that are made of others (True), or only the rest (False).
        """
        if self._checked is None:
            raise RuntimeError("check() comes before people()")
        for document in self._spool.documents(composed=composed):
            yield self._person(document)

    def person(self, external_id: str) -> PlannedIdentity:
        """One of the people that `check` found. Raises KeyError."""
        return self._person(self._spool.document(external_id))

    def pictures(self) -> Iterator[CheckedPhoto]:
        """The pictures that are given beside photos of people (poses, start pictures, masks), each once."""
        return self._spool.pictures()

    def parts(self) -> list[tuple[str, str]]:
        """("ControlNet" or "upscaler", name) of everything that the job's prompts ask of the profile."""
        return parts_of(self._prompts)

    def weight_sets(self) -> Iterator[tuple[str, Fault]]:
        """The stored weight sets that identities name, each with a fault that says where, and no message yet."""
        for fingerprint, line, field in self._spool.weight_sets():
            yield fingerprint, Fault("", line, field, self._reader.source)

    def _person(self, document: str) -> PlannedIdentity:
        external_id, subject, fields, consent, purpose, named, own, made_of, made = json.loads(document)
        kind = _KIND_OF.get(next(iter(made), ""), "photos")
        draw = made.get("draw", True)
        photos, faces = [], []
        for source, face in named:
            found = self._spool.photo(source)
            if isinstance(found, CheckedPhoto):
                photos.append(found)
                faces.append(face)
        prompts = [*self._prompts, *map(Prompt.from_canonical, own)] if draw else []
        values = {"subject": subject, **fields} if subject else fields
        return PlannedIdentity(
            external_id=external_id,
            subject=subject,
            fields=fields,
            consent=consent,
            purpose=purpose,
            photos=photos,
            renders=renders(prompts, values, self.key, external_id),
            renders_count=sum(prompt.drawing.seeds.count for prompt in prompts),
            kind=kind,
            faces=faces,
            members=[self._member(*member) for member in made_of],
            weight_set=made.get("weight_set"),
            draw=draw,
        )

    def _member(self, external_id: str, weight: float, region: Any, prompt: str | None) -> PlannedMember:
        if isinstance(region, str):
            found = self._spool.photo(region)
            return PlannedMember(external_id, weight, found if isinstance(found, CheckedPhoto) else None, prompt)
        return PlannedMember(external_id, weight, tuple(region) if region else None, prompt)

    def read_photo(self, photo: CheckedPhoto) -> bytes:
        """Read a photo again; `PhotoRefused` if its SHA-256 is another than `check` found. Thread-safe."""
        return self._photos.read(photo)

    @property
    def named_tenant(self) -> str | None:
        """Whose job the manifest itself says it is, whatever was overridden; what is no text has a fault later."""
        given = [part.record.get("tenant") for part in self._reader.parts if isinstance(part.record, Mapped)]
        return next((name for name in reversed(given) if isinstance(name, str) and name), None)

    def _tenant(self) -> str:
        """Whose job it will be, as photos are looked for before the job part is read."""
        return self._overrides.get("tenant") or self.named_tenant or self._settings.tenant

    def _read_sliders(self) -> dict[str, tuple[str, str]]:
        """The job's sliders, from the last part that gives any."""
        given = [part for part in self._reader.parts if isinstance(part.record, Mapped) and "sliders" in part.record]
        if not given or given[-1].record["sliders"] is None:
            return {}
        part = given[-1]
        alone = Mapped(part.record.line)
        alone.add("sliders", part.record["sliders"], part.record.lines.get("sliders"))
        read = self._reading.entry(Sliders, alone, source=part.source)
        found = {}
        for name, asked in (read.sliders if read else {}).items():
            found[name] = (asked.edited, asked.original)
            for role, member in (("edited", asked.edited), ("original", asked.original)):
                path = ("sliders", name, role)
                place = Fault("", line_of(part.record, path), dotted("", path), part.source)
                self._spool.add_member(f"the slider {name!r}", member, place)
        return found

    def _read_job(self, pictures: GivenPictures) -> tuple[JobSpec | None, list[Drawing]]:
        """The job, and the defaults of prompts, nearest first."""
        values: dict[str, Any] = {}
        drawings: list[Drawing] = []
        of_settings = from_python({"tenant": self._settings.tenant, "profile": self._settings.profile})
        last = Part(self._python(self._overrides, "overrides"), "overrides", Path())
        prompt_reader = PromptReader(self._reading, pictures, [], self.sliders)
        for part in (Part(of_settings, "settings", Path()), *self._reader.parts, last):
            entry = self._reading.entry(JobEntry, part.record, source=part.source)
            if entry is None:
                continue
            if entry.defaults is not None:
                line = line_of(part.record, ["defaults"])
                given = prompt_reader.defaults(entry.defaults, source=part.source, field="defaults", line=line)
                drawings = [given] if given else []
            values |= entry.model_dump(include={"tenant", "key", "name", "profile", "priority"}, exclude_unset=True)
            values = {name: value for name, value in values.items() if value is not None}
        if "tenant" not in values or "profile" not in values:
            return None, drawings
        drawings += self._profile_drawing(values["profile"], prompt_reader)
        return JobSpec(**{"key": None, "name": None, "priority": 0, **values}), drawings

    def _profile_drawing(self, profile: str, reader: PromptReader) -> list[Drawing]:
        if self._defaults_of is None:
            return []
        try:
            given = self._defaults_of(profile)
        except SettingsInvalid as error:
            self._faults.add(str(error), field="profile", source=self._reader.source)
            return []
        source = f"profile {profile}"
        drawing = reader.defaults(self._python(given, source), source=source, field="defaults")
        if drawing is None:
            return []
        for path, file in drawing.files():
            message = f"a profile's defaults cannot name files, found {file!r}; name it in the manifest"
            self._faults.add(message, field=dotted("defaults", path), source=source)
        return [drawing]

    def _python(self, data: Mapping[str, Any], source: str) -> Any:
        try:
            return from_python(data)
        except Unreadable as error:
            self._faults.add(str(error), field=error.field, source=source)
            return Mapped()

    def _read_prompts(self, reader: PromptReader) -> list[Prompt]:
        """The job's prompts, from the last part that gives any; prompts that no row could fill are faults already."""
        prompts: list[Prompt] = []
        if self._prompts_part is not None:
            prompts = reader.set_prompts(self._prompts_part.record, source=self._prompts_part.source or "prompts")
        else:
            for part in reversed(self._reader.parts):
                if isinstance(part.record, Mapped) and "prompts" in part.record:
                    line, entries = line_of(part.record, ["prompts"]), part.record["prompts"]
                    prompts = reader.prompts(
                        entries, source=part.source, folder=part.folder, field="prompts", line=line
                    )
                    break
        offered = self._reader.fields
        if offered is None:
            return prompts
        for prompt in prompts:
            for name in sorted(prompt.fields - offered):
                self._faults.add(
                    f"the prompt {prompt.name!r} uses {{{name}}}, and there is no such column; the columns are "
                    f"{', '.join(sorted(offered)) or 'none'}",
                    line=prompt.line,
                    field=prompt.field,
                    source=prompt.source,
                )
        return [prompt for prompt in prompts if prompt.fields <= offered]

    def _key_of(self, key: str) -> str:
        if not self._again:
            return key
        suffix = f"-{secrets.token_hex(4)}"
        return key[: MAX_KEY_CHARACTERS - len(suffix)] + suffix
