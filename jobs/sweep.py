"""Removing objects that no row names: what a worker had stored when it was killed, or when it was fenced out.

The order of writing is object, then row. So an object without a row is either left over, or its row is about to come.
Left alone is therefore what is young; what carries the token of the last claim of a unit whose render still waits, as
a worker may hold that claim, or keep the picture in its spool; and what has a name that nothing here gives. Tenants
are those of the database: a store holds the objects of one database only.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection

from jobs import uploads
from jobs.database import Database
from jobs.gallery import keys as gallery_keys
from jobs.repository import galleries
from jobs.repository import sweep as rows
from jobs.repository.parts import parts
from jobs.repository.sight import require_sight
from jobs.settings import Settings, get_settings
from jobs.storage import Entry, Storage, open_storage

GRACE_SECONDS = 3600.0
PAGE = 500
EXAMPLES = 20
_TOKEN = re.compile(r"(\d{1,19})[-.].+")
_WEIGHTS = re.compile(r"weights/([0-9a-f]{1,64})-(\d{1,19}|refined)\.safetensors")
_PHOTO = re.compile(r"photos/(?:[0-9a-f]{2}/)?[0-9a-f]{64}(?:\.[a-z0-9]{1,8})?")
_UPLOAD = re.compile(r"uploads/[0-9a-f]{64}")
_CHECK = re.compile(r"check/[0-9a-f]{24}")


@dataclass
class Swept:
    """What lies in the store, in objects: named by rows, possibly to be named soon, young, of unknown names, orphans.

    `removed` of the orphans are gone; `unfinished` files that killed writers had left in a folder are gone too;
    `examples` are the first orphans' keys.
    """

    named: int = 0
    expected: int = 0
    young: int = 0
    unknown: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    removed: int = 0
    unfinished: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """All objects that were looked at."""
        return self.named + self.expected + self.young + self.unknown + self.orphans


@dataclass(frozen=True)
class _Object:
    """An object, and what its key says: of which render, weight set or job's gallery, under which token; None where it
    does not.
    """

    entry: Entry
    token: int | None = None
    render_id: uuid.UUID | None = None
    fingerprint: str | None = None
    gallery: uuid.UUID | None = None
    is_shared: bool = False
    """Whether somebody may come to rely on the object although another has written it: photos, refined sets."""


def sweep(
    settings: Settings | None = None,
    *,
    tenant: str | None = None,
    older_than_seconds: float = GRACE_SECONDS,
    delete: bool = False,
) -> Swept:
    """Find the orphans of a tenant, or of all; `delete` removes them. Memory does not grow with the store.

    `older_than_seconds` counts from an object's last write and must be more than storing a job's photos takes.
    Raises: SettingsInvalid for a login that does not see every tenant, StorageError, DatabaseUnavailable; what was
    removed before stays removed, and the next call goes on.
    """
    chosen = settings or get_settings()
    storage, database = open_storage(chosen.storage_url, chosen), Database.from_settings(chosen)
    report = Swept()
    try:
        with database.reading() as tx:
            require_sight(tx)  # whoever sees no row would take every object for an orphan
            known = rows.tenants(tx)
        for name in known if tenant is None else [tenant] if tenant in known else []:
            while delete and uploads.remove_expired(database, storage, tenant=name):
                continue
            _sweep_tenant(database, storage, name, report, older_than_seconds, delete=delete)
    finally:
        database.dispose()
    if tenant is None:
        _sweep_checks(storage, report, older_than_seconds, delete=delete)
        # Never younger than the ordinary grace: no row says whose they are, and a writer may be at work.
        report.unfinished = storage.remove_unfinished(max(older_than_seconds, GRACE_SECONDS)) if delete else 0
    return report


def unnamed(database: Database, tenant: str, keys: Iterable[str]) -> list[str]:
    """Those of these keys that no row of the tenant names, and that no worker at work may be about to record."""
    found: list[str] = []
    for page in parts(keys, PAGE):
        known = [entry for entry in (Entry(key, 0, 0.0) for key in page) if _parse(tenant, entry) is not None]
        orphans = {one.entry.key for one in _orphans(database, tenant, known, Swept(), 0.0)}
        forms = {entry.key for entry in known}
        found += [key for key in page if key in orphans or key not in forms]
    return found


def _sweep_tenant(
    database: Database, storage: Storage, tenant: str, report: Swept, grace: float, *, delete: bool
) -> None:
    found = storage.entries(f"{tenant}/")
    while page := list(islice(found, PAGE)):
        for orphan in _orphans(database, tenant, page, report, grace):
            if delete and (not orphan.is_shared or _is_still_one(database, storage, tenant, orphan, grace)):
                storage.purge(orphan.entry.key)
                report.removed += 1


def _orphans(database: Database, tenant: str, page: list[Entry], report: Swept, grace: float) -> Iterator[_Object]:
    """The orphans among these objects; counts all of them."""
    objects = []
    for entry in page:
        parsed = _parse(tenant, entry)
        if parsed is None:
            report.unknown += 1
        elif _is_young(entry, grace):
            report.young += 1
        else:
            objects.append(parsed)
    with database.reading() as tx:
        # Tokens before names: who stops being expected between the two has been named by then, or never will be.
        in_force, being_built = _of_galleries(tx, tenant, objects)
        expected = _expected(tx, tenant, objects) | being_built
        ids = [one.render_id for one in objects if one.render_id is not None]
        named = rows.named(tx, tenant, ids, [one.entry.key for one in objects]) if objects else set()
        named |= in_force
    for one in objects:
        if one.entry.key in named:
            report.named += 1
        elif one.entry.key in expected:
            report.expected += 1
        else:
            _count(report, one.entry)
            yield one


def _expected(tx: Connection, tenant: str, objects: list[_Object]) -> set[str]:
    """The keys of those that carry the token of a claim under which they may yet be recorded."""
    renders = rows.tokens_of_waiting(tx, tenant, [one.render_id for one in objects if one.render_id is not None])
    made = rows.tokens_of_made(tx, tenant, [one.fingerprint for one in objects if one.fingerprint is not None])
    return {
        one.entry.key
        for one in objects
        if one.token is not None
        and one.token == (renders.get(one.render_id) if one.render_id else made.get(one.fingerprint or ""))
    }


def _of_galleries(tx: Connection, tenant: str, objects: list[_Object]) -> tuple[set[str], set[str]]:
    """The keys of those that belong to a job's gallery in force, and to one that somebody builds."""
    tokens = galleries.tokens(tx, tenant, sorted({one.gallery for one in objects if one.gallery is not None}))
    keys: tuple[set[str], set[str]] = (set(), set())
    for one in objects:
        for found, token in zip(keys, tokens.get(one.gallery, ()) if one.gallery else (), strict=False):
            if token is not None and token == one.token:
                found.add(one.entry.key)
    return keys


def _is_still_one(database: Database, storage: Storage, tenant: str, orphan: _Object, grace: float) -> bool:
    """A last look at an object that somebody may have written again, or named, since the listing."""
    now = next((one for one in storage.entries(orphan.entry.key) if one.key == orphan.entry.key), None)
    if now is None or now.modified_at != orphan.entry.modified_at:
        return False
    return bool(list(_orphans(database, tenant, [now], Swept(), grace)))


def _parse(tenant: str, entry: Entry) -> _Object | None:
    """What the key says; None for one that nothing here writes."""
    name = entry.key.removeprefix(f"{tenant}/")
    if _PHOTO.fullmatch(name) or _UPLOAD.fullmatch(name):
        return _Object(entry, is_shared=True)
    if weights := _WEIGHTS.fullmatch(name):
        is_refined = weights[2] == "refined"
        token = None if is_refined else int(weights[2])
        return _Object(entry, token, fingerprint=weights[1], is_shared=is_refined)
    if gallery := gallery_keys.parse(name):
        return _Object(entry, gallery[1], gallery=gallery[0])
    parts = name.split("/")
    token_of = _TOKEN.fullmatch(parts[-1])
    if len(parts) != 3 or token_of is None:
        return None
    try:
        uuid.UUID(parts[0])
        return _Object(entry, int(token_of[1]), render_id=uuid.UUID(parts[1]))
    except ValueError:
        return None


def _is_young(entry: Entry, grace: float) -> bool:
    return grace > 0 and entry.modified_at > time.time() - grace


def _count(report: Swept, entry: Entry) -> None:
    report.orphans += 1
    report.orphan_bytes += entry.size_bytes
    if len(report.examples) < EXAMPLES:
        report.examples.append(entry.key)


def _sweep_checks(storage: Storage, report: Swept, grace: float, *, delete: bool) -> None:
    """What `Storage.check` leaves when it is killed half-way."""
    for entry in storage.entries("check/"):
        if not _CHECK.fullmatch(entry.key):
            report.unknown += 1
        elif _is_young(entry, grace):
            report.young += 1
        else:
            _count(report, entry)
            if delete:
                storage.delete(entry.key)
                report.removed += 1
