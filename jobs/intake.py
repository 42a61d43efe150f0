"""Enqueueing: a manifest becomes rows, photos in storage, and messages.

The order is what makes it safe: everything is checked before anything is written; photos and given pictures lie in
storage before a row names them, and those whose rows are new are looked for once more behind them; people are
registered, those with photos before those that are made of them and the sliders; then job, units and renders come in
one transaction; messages follow the commit. If the broker is away the rows stay, and the reaper of any worker sends the
messages later.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

from jobs import quotas, tracing, uploads
from jobs.broker import Broker
from jobs.database import Database
from jobs.errors import BrokerUnavailable, KeyConflict, ManifestInvalid, PersonErased
from jobs.manifest import Manifest, open_manifest, parse_manifest
from jobs.manifest_options import bind
from jobs.photo_sets import PhotoSets, photo_key, photo_row
from jobs.planned import Checked, CheckedPhoto, PlannedIdentity, PlannedRender
from jobs.profiles import drawing_defaults, load_profiles
from jobs.repository import jobs as job_rows
from jobs.repository import people, planner, sweep, units, weight_sets
from jobs.repository.weight_sets import WeightSetRow
from jobs.repository.writer import JobWriter, PersonRows
from jobs.settings import Settings, get_settings
from jobs.storage import Storage, open_storage

PEOPLE_PER_CHUNK = 200
BOUND_OPTIONS_KEPT = 1_000
MESSAGES_PER_CHUNK, MOST_CHUNKS = 500, 2
# The kinds of stored weight sets that stand for a person; a slider is a difference between two.
PERSON_KINDS = ("photos", "mix", "refined")


@dataclass(frozen=True)
class Enqueued:
    """What `enqueue` did. `created` is False when the same manifest had been enqueued before."""

    tenant: str
    job_id: uuid.UUID
    key: str
    created: bool
    identities: int
    units: int
    renders: int
    messages_sent: int
    warnings: list[str] = field(default_factory=list)


def enqueue(
    manifest: Path | str | Mapping[str, Any],
    *,
    settings: Settings | None = None,
    base: Path | None = None,
    job_file: Path | None = None,
    prompts_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    again: bool = False,
) -> Enqueued:
    """Enqueue a manifest: a file (YAML, JSON, JSON Lines, CSV) or a mapping of the same form.

    `base` is the folder that relative photo paths of a mapping start from (default: the working folder); `again`
    makes a new job although the same content was enqueued before; `overrides` are tenant, key, profile, priority.

    Raises: ManifestInvalid with every fault; KeyConflict; QuotaExceeded, RateLimited; PersonErased; StorageError,
    DatabaseUnavailable. A broker that is away is not an error: the result carries a warning and the messages are sent
    later.
    """
    settings = settings or get_settings()
    common: dict[str, Any] = {"settings": settings, "again": again, "overrides": overrides or {}}
    common["defaults_of"] = drawing_defaults(settings)
    if isinstance(manifest, Mapping):
        opened = parse_manifest(manifest, base=base or Path.cwd(), **common)
    else:
        opened = open_manifest(Path(manifest), job_file=job_file, prompts_file=prompts_file, **common)
    with opened as open_one:
        return enqueue_manifest(open_one, settings)


def enqueue_manifest(manifest: Manifest, settings: Settings) -> Enqueued:
    """Enqueue a manifest that was opened, within a span where traces are asked for."""
    with tracing.span(tracing.tracer(settings, "enqueue"), "enqueue") as note:
        enqueued = _enqueue(manifest, settings)
        counts = {name: getattr(enqueued, name) for name in ("created", "identities", "units", "renders")}
        note({"tenant": enqueued.tenant, "job": enqueued.job_id, **counts})
        return enqueued


def _enqueue(manifest: Manifest, settings: Settings) -> Enqueued:
    """The recipe: check, look for the same job, store photos, write rows, send messages."""
    broker = Broker(settings)  # made first: a broker setting that cannot be used is told before anything is written
    checked = manifest.check()
    database = Database.from_settings(settings)
    try:
        known = _known(database, manifest, checked)
        if known is None:
            _check_weight_sets(database, manifest)
            quotas.check_before_writing(database, manifest, checked)
        # Also for a known job: a photo that was lost from storage is put back, and `retry` then finds it; not one of
        # somebody who was erased since, whose row is gone.
        storage = open_storage(settings.storage_url, settings)
        _store_photos(database, manifest, storage, only_named=known is not None)
        if known is not None:
            _let_go_of_uploads(database, manifest, storage)
            return known
        try:
            job_id, writer = _register_and_write(database, manifest, checked, settings, storage)
        except (IntegrityError, PersonErased):
            # Somebody enqueued the same key between the look and the write; theirs is the job, if it is the same.
            known = _known(database, manifest, checked)
            if known is not None:
                return known
            # Or somebody was erased, whose rows are made anew.
            job_id, writer = _write_again(database, manifest, checked, settings, storage)
        _let_go_of_uploads(database, manifest, storage)
        sent, warnings = send_messages(database, broker, manifest.job.tenant, job_id)
        warnings += profile_warnings(settings, manifest)
        return Enqueued(
            tenant=manifest.job.tenant,
            job_id=job_id,
            key=manifest.key,
            created=True,
            identities=writer.identities,
            units=writer.units,
            renders=writer.renders,
            messages_sent=sent,
            warnings=warnings,
        )
    finally:
        broker.close()
        database.dispose()


def _known(database: Database, manifest: Manifest, checked: Checked) -> Enqueued | None:
    """The job that was enqueued under this key before, if its content is the same."""
    with database.reading(manifest.job.tenant) as tx:
        row = job_rows.find_by_key(tx, manifest.job.tenant, manifest.key)
    if row is None:
        return None
    if row.content_hash != checked.content_hash:
        raise KeyConflict(
            f"the key {manifest.key!r} belongs to job {row.id}, whose content differs "
            f"({row.renders_total} renders of {row.identities_total} people; this one asks for {checked.renders} of "
            f"{checked.identities}); choose another key, or leave it out"
        )
    return Enqueued(
        tenant=row.tenant_id,
        job_id=row.id,
        key=row.key,
        created=False,
        identities=row.identities_total,
        units=row.units_total,
        renders=row.renders_total,
        messages_sent=0,
    )


def _check_weight_sets(database: Database, manifest: Manifest) -> None:
    """Raises ManifestInvalid for each stored weight set that the tenant does not have, or that is no person."""
    faults, named = [], manifest.weight_sets()
    while chunk := list(islice(named, PEOPLE_PER_CHUNK)):
        with database.reading(manifest.job.tenant) as tx:
            stored = weight_sets.known(tx, manifest.job.tenant, [fingerprint for fingerprint, _ in chunk])
        for fingerprint, place in chunk:
            wrong = _not_a_person(stored.get(fingerprint))
            if wrong is not None:
                told = f"tenant {manifest.job.tenant!r} has no weight set {fingerprint} to draw with; it {wrong}"
                faults.append(dataclasses.replace(place, message=f"{told}; `portraits lora refine` makes such sets"))
    if faults:
        raise ManifestInvalid(faults)


def _not_a_person(row: WeightSetRow | None) -> str | None:
    """Why nobody can be drawn with a stored weight set; None when it is good."""
    if row is None:
        return "is not there"
    if row.kind not in PERSON_KINDS:
        return f"is of kind {row.kind}, which changes a face and is none; wanted {', '.join(PERSON_KINDS)}"
    if row.branch != "id":
        return f"is of the branch {row.branch}, which holds no identity; wanted the branch id"
    return None if row.state == "ready" else f"is {row.state}"


def _store_photos(database: Database, manifest: Manifest, storage: Storage, *, only_named: bool) -> None:
    """Put every photo and given picture where the rows will say it is; those that rows name and that lie there are left
    alone. What no row names yet is written even if it is there: so it is young, and no sweep takes it before its row.
    With `only_named` no rows will follow, and what none names stays away.
    """
    tenant = manifest.job.tenant

    def store(photo: CheckedPhoto, named: bool) -> None:
        key = photo_key(tenant, photo.sha256, photo.media_type)
        if not (storage.exists(key) if named else only_named):
            storage.put(key, manifest.read_photo(photo), content_type=photo.media_type)

    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="photos") as pool:
        for part in chain([manifest.pictures()], (_photos_of(chunk) for chunk in _chunks(manifest.people()))):
            photos = list({photo.sha256: photo for photo in part}.values())
            with database.reading(tenant) as tx:
                named = sweep.named_photos(tx, tenant, [photo.sha256 for photo in photos])
            for _ in pool.map(store, photos, (photo.sha256 in named for photo in photos)):
                continue


def _photos_of(chunk: Iterable[PlannedIdentity]) -> Iterator[CheckedPhoto]:
    for person in chunk:
        yield from person.photos


def _put_missing(manifest: Manifest, storage: Storage, photos: Iterable[CheckedPhoto], new: set[str]) -> None:
    """Put those of these photos whose rows are new that are no longer there: stored long ago, they may have been swept,
    or belonged to somebody who was erased. From now on their rows keep them.
    """

    def put(photo: CheckedPhoto) -> None:
        key = photo_key(manifest.job.tenant, photo.sha256, photo.media_type)
        if not storage.exists(key):
            storage.put(key, manifest.read_photo(photo), content_type=photo.media_type)

    wanted = list({photo.sha256: photo for photo in photos if photo.sha256 in new}.values())
    if wanted:
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="photos") as pool:
            for _ in pool.map(put, wanted):
                continue


def _let_go_of_uploads(database: Database, manifest: Manifest, storage: Storage) -> None:
    """Remove what was sent for this job, now that it lies under its photos' own keys and rows name it there."""
    if not manifest.sent.used:
        return
    tenant = manifest.job.tenant
    for part in chain([manifest.pictures()], (_photos_of(chunk) for chunk in _chunks(manifest.people()))):
        uploads.let_go(database, storage, tenant, sorted({photo.sha256 for photo in part}))


def _register_and_write(
    database: Database, manifest: Manifest, checked: Checked, settings: Settings, storage: Storage
) -> tuple[uuid.UUID, JobWriter]:
    sliders = _register_people(database, manifest, storage)
    return _write_rows(database, manifest, checked, settings, sliders)


def _write_again(
    database: Database, manifest: Manifest, checked: Checked, settings: Settings, storage: Storage
) -> tuple[uuid.UUID, JobWriter]:
    """Register and write once more. Raises PersonErased when somebody is erased once more."""
    try:
        return _register_and_write(database, manifest, checked, settings, storage)
    except IntegrityError as error:
        if "foreign key" not in str(error.orig).lower():
            raise
        raise PersonErased(
            f"people of tenant {manifest.job.tenant!r} were erased twice while the job {manifest.key!r} was enqueued; "
            "enqueue it again"
        ) from error


def _register_people(database: Database, manifest: Manifest, storage: Storage) -> dict[str, uuid.UUID]:
    """Make the rows of people who are new, a chunk at a time; the same people of another job may be made meanwhile.

    Returns the photo set of each of the job's sliders.
    """
    tenant, sets = manifest.job.tenant, PhotoSets(manifest)
    registered = 0
    for composed in (False, True):
        for chunk in _chunks(manifest.people(composed=composed)):
            photos = list(_photos_of(chunk))
            with database.transaction(tenant) as tx:
                files = {photo.sha256: photo.bytes_size for photo in photos}
                quotas.check_while_registering(tx, tenant, (person.external_id for person in chunk), files)
                members = people.find(tx, tenant, sets.members_of(chunk)) if composed else None
                new = people.register(tx, tenant, [sets.rows(person, members=members) for person in chunk])
                registered += len(chunk)
                planner.told(tx, "identities", registered)
                planner.told(tx, "photo_sets", registered)
            _put_missing(manifest, storage, photos, new)
    pictures = list(manifest.pictures())
    with database.transaction(tenant) as tx:
        quotas.check_while_registering(tx, tenant, (), {picture.sha256: picture.bytes_size for picture in pictures})
        new = people.register_pictures(tx, tenant, [photo_row(tenant, picture) for picture in pictures])
    _put_missing(manifest, storage, pictures, new)
    if not manifest.sliders:
        return {}
    with database.transaction(tenant) as tx:
        sliders = sets.sliders(people.find(tx, tenant, sets.slider_people()))
        people.register(tx, tenant, list(sliders.values()))
        # One at a time: several sliders may belong to the same person.
        return {name: people.find(tx, tenant, [row])[row.external_id][1] for name, row in sliders.items()}


def _write_rows(
    database: Database,
    manifest: Manifest,
    checked: Checked,
    settings: Settings,
    sliders: Mapping[str, uuid.UUID],
) -> tuple[uuid.UUID, JobWriter]:
    """Job, units and renders in one transaction: a job is there whole, or not at all."""
    job, sets, numbers = manifest.job, PhotoSets(manifest), count()
    options = _Options(job.tenant, sliders)

    def in_units(person: PlannedIdentity) -> Iterator[list[dict[str, Any]]]:
        renders = iter(person.renders)
        while part := list(islice(renders, settings.renders_per_unit)):
            yield [_render_row(render, next(numbers), options) for render in part]

    with database.transaction(job.tenant) as tx:
        quotas.check_while_writing(tx, job.tenant, checked.renders)
        job_id = job_rows.add(
            tx,
            job.tenant,
            key=manifest.key,
            content_hash=checked.content_hash,
            name=job.name,
            profile=job.profile,
            priority=job.priority,
            traceparent=tracing.traceparent(),
        )
        people.name_pictures(tx, job.tenant, job_id, [picture.sha256 for picture in manifest.pictures()])
        writer = JobWriter(tx, job.tenant, job_id, job.profile, job.priority, age_seconds=settings.priority_age_seconds)
        for chunk in _chunks(manifest.people()):
            rows: list[PersonRows] = [sets.rows(person, in_units(person)) for person in chunk if person.draw]
            writer.add(rows, people.find(tx, job.tenant, rows))
        writer.finish()
        job_rows.accept(
            tx, job.tenant, job_id, identities=writer.identities, units=writer.units, renders=writer.renders
        )
    return job_id, writer


def _chunks(people: Iterator[PlannedIdentity]) -> Iterator[list[PlannedIdentity]]:
    """People by the hundred, so that memory stays bounded whatever the job's size."""
    while chunk := list(islice(people, PEOPLE_PER_CHUNK)):
        yield chunk


class _Options:
    """The column `options` of each render; those of one prompt, which many people share, are made once."""

    def __init__(self, tenant: str, sliders: Mapping[str, uuid.UUID]) -> None:
        self._tenant, self._sliders = tenant, sliders
        # By the identity of the planned mapping, which is kept so that nothing else takes its place.
        self._bound: dict[int, tuple[Mapping[str, Any], dict[str, Any] | None]] = {}

    def of(self, planned: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the row holds; None when nothing is out of the ordinary."""
        if planned is None:
            return None
        known = self._bound.get(id(planned))
        if known is None:
            if len(self._bound) >= BOUND_OPTIONS_KEPT:
                self._bound.clear()
            known = planned, bind(planned, self._key, self._sliders)
            self._bound[id(planned)] = known
        return known[1]

    def _key(self, sha256: str, media_type: str) -> str:
        return photo_key(self._tenant, sha256, media_type)


def _render_row(render: PlannedRender, ordinal: int, options: _Options) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "prompt_name": render.prompt_name,
        "prompt": render.prompt,
        "negative_prompt": render.negative_prompt,
        "seed": render.seed,
        "width": render.width,
        "height": render.height,
        "steps": render.steps,
        "guidance": render.guidance,
        "scheduler": render.scheduler,
        "lora_weight": render.lora_weight,
        "options": options.of(render.options),
    }


def send_messages(database: Database, broker: Broker, tenant: str, job_id: uuid.UUID) -> tuple[int, list[str]]:
    """Wake workers for the job's first waiting units; returns what `announce` returns.

    A message only wakes a worker, which then claims whatever waits: a thousand keep any fleet busy for a shift, and the
    reaper sends more while units wait. One for each unit would take as long as writing the rows.
    """
    with database.reading(tenant) as tx:
        chunks = list(islice(job_rows.unit_ids(tx, tenant, job_id, chunk=MESSAGES_PER_CHUNK), MOST_CHUNKS))
    return announce(database, broker, chunks, tenant)


def announce(
    database: Database, broker: Broker, chunks: Iterable[Sequence[uuid.UUID]], tenant: str | None = None
) -> tuple[int, list[str]]:
    """Wake workers for these units, of one tenant or of any.

    Returns how many messages were taken, and a warning if not all.
    """
    sent = 0
    try:
        for ids in chunks:
            sent += broker.send(ids)
            with database.transaction(tenant) as tx:
                units.mark_sent(tx, ids, tenant)
    except BrokerUnavailable as error:
        return sent, [f"{error}; the rows are stored, and a worker's reaper will send the messages when it is back"]
    return sent, []


def profile_warnings(settings: Settings, manifest: Manifest) -> list[str]:
    """A word about a profile, or a part of one, that is not known here.

    Warnings, not faults: the workers' profiles may be others than this machine's.
    """
    profiles, name = load_profiles(settings), manifest.job.profile
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        return [f"no profile {name!r} is known here (only {known}); the job waits until a worker has it"]
    warnings = []
    there = {"ControlNet": profiles[name].controlnets, "upscaler": profiles[name].upscalers}
    for what, part in manifest.parts():
        if part not in there[what]:
            warnings.append(
                f"the profile {name!r} has no {what} {part!r} here (only {', '.join(sorted(there[what])) or 'none'}); "
                "pictures that ask for it fail unless the workers' profile has it"
            )
    return warnings
