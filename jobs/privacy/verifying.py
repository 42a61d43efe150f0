"""Looking for what is left of somebody who was forgotten: in every table, in the store, on this machine's disk.

The rows are gone, so whoever looks must know for whom: by external id, by photos that are at hand, or best by the
receipt of the erasure, which has every id and key. Everything of the tenant is read, whatever table it is in: it takes
as long as reading all of it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.database import Database
from jobs.privacy.clearing import everything_under
from jobs.privacy.receipts import Receipt
from jobs.privacy.words import Words
from jobs.reports import opened
from jobs.repository import forgettings, whole_tenant
from jobs.repository.sight import require_sight
from jobs.settings import Settings
from jobs.storage import Storage, open_storage

READ_TOO = (".html", ".js", ".json", ".css", ".svg", ".txt", ".webmanifest")
"""Objects whose content is searched, too: what galleries write. Pictures are known by their keys."""


@dataclass(frozen=True)
class Remain:
    """One thing that is left: of what kind, and where. It does not repeat what was found there."""

    kind: str
    where: str


@dataclass(frozen=True)
class Sought:
    """Whom to look for: names, ids and hashes, and keys of objects; `whole` means everything of the tenant."""

    tenant: str
    words: Words
    keys: frozenset[str]
    whole: bool = False

    @classmethod
    def of(
        cls, tenant: str, *, names: Iterable[str] = (), photos: Iterable[Path] = (), receipt: Receipt | None = None
    ) -> Sought:
        """By names and photos that are at hand, and by a receipt."""
        marks = [hashlib.sha256(photo.read_bytes()).hexdigest() for photo in photos]
        every = [*names, *(receipt.names if receipt else ())]
        if receipt is not None:
            marks += [*map(str, receipt.ids), *receipt.photos, *receipt.weight_sets]
        return cls(tenant, Words(every, marks), frozenset(receipt.keys if receipt else ()))

    @classmethod
    def everything_of(cls, tenant: str) -> Sought:
        """Everything of a tenant, whoever it is about."""
        return cls(tenant, Words((), ()), frozenset(), whole=True)


def remains(sought: Sought, *, settings: Settings | None = None) -> Iterator[Remain]:
    """What is left, as it is found. Raises: SettingsInvalid for a login that does not see the tenant's rows."""
    with opened(settings) as (chosen, database):
        with database.reading() as tx:
            require_sight(tx)
        storage = open_storage(chosen.storage_url, chosen)
        yield from _in_tables(database, sought)
        yield from _in_store(storage, sought)
        yield from _on_disk(chosen, sought)
        yield from _at_work(database, sought)


def _in_tables(database: Database, sought: Sought) -> Iterator[Remain]:
    """Rows of the tenant, and of the fleet, that speak of whom is sought."""
    with database.reading() as tx:
        for table, row in whole_tenant.rows(tx, sought.tenant):
            own = row._mapping
            if sought.whole and sought.tenant in (own.get("tenant_id"), own.get("id")):
                yield Remain("row", f"{table.name} {_name_of(own)}".strip())
                continue
            for column, value in own.items():
                for what in sought.words.found_in(_text(value)):
                    yield Remain(what, f"{table.name}.{column} of {_name_of(own)}")


def _name_of(row: Any) -> str:
    return str(row.get("id") or row.get("job_id") or row.get("name") or "")


def _text(value: Any) -> str:
    """A value as words can be found in it; JSON with its texts as they are."""
    if isinstance(value, dict | list):
        return "\n".join(_texts(value))
    return value.hex() if isinstance(value, bytes) else str(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    else:
        yield str(value)


def _in_store(storage: Storage, sought: Sought) -> Iterator[Remain]:
    """Objects, and versions of removed ones, whose key or content speaks of whom is sought."""
    for key in everything_under(storage, f"{sought.tenant}/"):
        if sought.whole or key in sought.keys or any(sought.words.found_in(key)):
            yield Remain("object", key)
        elif key.endswith(READ_TOO):
            text = storage.get(key).decode(errors="replace")
            yield from (Remain(f"{what} in an object", key) for what in sought.words.found_in(text))


def _on_disk(settings: Settings, sought: Sought) -> Iterator[Remain]:
    """Finished pictures in this home's spool, whose files are named by their units."""
    folder = settings.spool or settings.home / "spool"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if any(sought.words.found_in(path.name)):
            yield Remain("file", str(path))


def _at_work(database: Database, sought: Sought) -> Iterator[Remain]:
    """What is under way still: objects that are to be removed, workers that have not said that they dropped all."""
    with database.reading() as tx:
        left = sum(len(row.keys or ()) for row in forgettings.to_clear(tx, limit=1_000) if row.tenant == sought.tenant)
        behind = forgettings.behind(tx)
    if left:
        yield Remain("under way", f"{left} objects of tenant {sought.tenant} that are noted to be removed")
    for name in behind:
        yield Remain("under way", f"worker {name}, which has not said yet that it dropped everything")
