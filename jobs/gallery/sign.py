"""A stored gallery with signed addresses: what somebody without keys to the store can open for a while.

Each page is made anew from its data with addresses that expire, and says in words when they do. It signs its sheets,
the page before and the page after, 20 addresses at most; full pictures are left to `portraits serve`, which asks who
wants them.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import GalleryOutdated, ObjectMissing
from jobs.gallery import data, keys, page
from jobs.gallery.files import write_whole
from jobs.orm import utcnow
from jobs.settings import Settings
from jobs.storage import Storage


@dataclass(frozen=True)
class Signed:
    """Where the first page can be opened, how many pages there are, and until when; None: for ever."""

    address: str
    pages: int
    expires_at: dt.datetime | None


@dataclass(frozen=True)
class StoredGallery:
    """A gallery that lies in the store: of which job, under which token. `key` is the job's name in commands."""

    tenant: str
    job_id: uuid.UUID
    token: int
    key: str

    @property
    def prefix(self) -> str:
        """Of all its files."""
        return keys.prefix(self.tenant, self.job_id, self.token)


def page_data(storage: Storage, gallery: StoredGallery, number: int) -> dict[str, Any]:
    """What a stored page shows. Raises GalleryOutdated for a page of another version, or one that is no more."""
    anew = f"`portraits gallery {gallery.job_id} --build` makes it anew"
    try:
        found = json.loads(storage.get(gallery.prefix + keys.data_name(number)))
    except ObjectMissing as error:
        raise GalleryOutdated(f"page {number} of the gallery of job {gallery.job_id} is not there; {anew}") from error
    except (ValueError, RecursionError) as error:
        raise GalleryOutdated(f"page {number} of the gallery of job {gallery.job_id} is damaged; {anew}") from error
    if not isinstance(found, dict) or found.get("format") != data.FORMAT:
        raise GalleryOutdated(f"the gallery of job {gallery.job_id} was made by another version; {anew}")
    return found


def sign_stored(storage: Storage, settings: Settings, gallery: StoredGallery, *, expires_seconds: int) -> Signed:
    """Store the pages again with addresses that live so long, and sign the first one's.

    Raises: GalleryOutdated, StorageError.
    """
    expires_at = utcnow() + dt.timedelta(seconds=expires_seconds)
    count = 0
    for told in _pages(storage, gallery):
        count += 1
        around = {name: keys.signed_name(number) for name, number in _around(told)}
        signed = {name: storage.url(gallery.prefix + file, expires_seconds) for name, file in around.items()}
        links = _links(storage, settings, gallery, told, expires_seconds, expires_at, signed)
        name = gallery.prefix + keys.signed_name(count)
        storage.put(name, page.render(told, links), content_type=page.CONTENT_TYPE)
    first = storage.url(gallery.prefix + keys.signed_name(1), expires_seconds)
    return Signed(first, count, expires_at)


def sign_to_folder(
    storage: Storage, settings: Settings, gallery: StoredGallery, folder: Path, *, expires_seconds: int
) -> Signed:
    """Write the pages into a local folder; their thumbnails stay in the store, under signed addresses.

    Of a folder store the addresses are of files, and do not expire. Raises: GalleryOutdated, StorageError, OSError.
    """
    is_folder = settings.storage_url.startswith("file://")
    expires_at = None if is_folder else utcnow() + dt.timedelta(seconds=expires_seconds)
    count = 0
    for told in _pages(storage, gallery):
        count += 1
        around = {name: keys.page_name(number) for name, number in _around(told)}
        links = _links(storage, settings, gallery, told, expires_seconds, expires_at, around)
        write_whole(folder / keys.page_name(count), page.render(told, links))
    return Signed(str(folder / keys.FIRST_PAGE), count, expires_at)


def _pages(storage: Storage, gallery: StoredGallery) -> Iterator[dict[str, Any]]:
    number, is_last = 1, False
    while not is_last:
        told = page_data(storage, gallery, number)
        yield told
        number, is_last = number + 1, not told["has_next"]


def _around(told: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The pages before and after, where there are such."""
    if told["number"] > 1:
        yield "previous", told["number"] - 1
    if told["has_next"]:
        yield "next", told["number"] + 1


def _links(
    storage: Storage,
    settings: Settings,
    gallery: StoredGallery,
    told: Mapping[str, Any],
    expires_seconds: int,
    expires_at: dt.datetime | None,
    around: Mapping[str, str],
) -> page.Links:
    is_folder = expires_at is None
    named = "" if gallery.tenant == settings.tenant else f" --tenant {gallery.tenant}"
    return page.Links(
        sheets=[storage.url(gallery.prefix + name, expires_seconds) for name in told["sheets"]],
        pictures=f"{storage.url(f'{gallery.tenant}/{gallery.job_id}', expires_seconds)}/" if is_folder else None,
        serve=None if is_folder else settings.serve_url or None,
        expires_at=data.moment(expires_at),
        renew=f"portraits gallery {gallery.job_id}{named}",
        **around,
    )
