"""Photos that a manifest names by their SHA-256: stored for an earlier job, or sent for this one."""

from __future__ import annotations

import hashlib
import re
import threading

from jobs.database import Database
from jobs.errors import ObjectMissing, PhotoRefused
from jobs.planned import CheckedPhoto
from jobs.repository import uploads
from jobs.settings import Settings
from jobs.storage import Storage, open_storage

_NAMED = re.compile(r"sha256:([0-9a-f]{64})")


class SentPhotos:
    """The photos of one tenant by their hashes. Thread-safe; connects when the first is asked for.

    `tenant` is set before anything is asked; `used` says whether any was found that was only just sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: tuple[Database, Storage] | None = None
        self.tenant = settings.tenant
        self.used = False

    def known(self, source: str) -> CheckedPhoto | None:
        """A photo that was measured for an earlier job and still lies in the store; None: read it.

        Raises PhotoRefused for a name that is none, and for a photo that is over today's limits.
        """
        sha256 = self._sha256(source)
        database, storage = self._open()
        with database.reading(self.tenant) as tx:
            found = uploads.photo(tx, self.tenant, sha256)
        if found is None or storage.size(found.storage_key) != found.size_bytes:
            return None
        pixels, limit = found.width * found.height, self._settings.max_photo_pixels
        if pixels > limit or found.size_bytes > self._settings.max_photo_bytes:
            raise PhotoRefused(
                f"{source!r} has {found.size_bytes} bytes and {pixels} pixels, at most "
                f"{self._settings.max_photo_bytes} and {limit} are allowed; send a smaller one"
            )
        return CheckedPhoto(sha256, source, found.size_bytes, found.width, found.height, found.media_type)

    def read(self, source: str) -> bytes:
        """The photo's bytes, whose hash is the one it is named by. Raises PhotoRefused, StorageError."""
        sha256 = self._sha256(source)
        database, storage = self._open()
        with database.reading(self.tenant) as tx:
            stored, sent = uploads.photo(tx, self.tenant, sha256), uploads.find(tx, self.tenant, sha256)
        # What was sent first: it is named where the stored one has been lost.
        for key in [row.storage_key for row in (sent, stored) if row is not None]:
            data = self._get(storage, key)
            if data is not None and hashlib.sha256(data).hexdigest() == sha256:
                self.used = self.used or sent is not None
                return data
        if sent is not None:
            raise PhotoRefused(f"{source!r} was announced, and its bytes were not sent or are others; send it again")
        raise PhotoRefused(f"{source!r} is no photo that tenant {self.tenant!r} has sent; send it (POST /photos)")

    def close(self) -> None:
        """Close the connections, if there are any."""
        if self._opened is not None:
            self._opened[0].dispose()
            self._opened = None

    def _get(self, storage: Storage, key: str) -> bytes | None:
        """An object of at most a photo's size; a server that takes uploads itself may hold a larger one."""
        size = storage.size(key)
        if size is None or size > self._settings.max_photo_bytes:
            return None
        try:
            return storage.get(key)
        except ObjectMissing:
            return None

    def _open(self) -> tuple[Database, Storage]:
        with self._lock:
            if self._opened is None:
                storage = open_storage(self._settings.storage_url, self._settings)
                self._opened = (Database.from_settings(self._settings), storage)
            return self._opened

    @staticmethod
    def _sha256(source: str) -> str:
        named = _NAMED.fullmatch(source)
        if named is None:
            raise PhotoRefused(f"{source!r} is no photo's hash; wanted sha256: and 64 digits 0-9, a-f in lower case")
        return named[1]
