"""What every request works with, made once for the process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

import anyio
from starlette.requests import HTTPConnection

from jobs.database import Database
from jobs.errors import StorageError
from jobs.settings import Settings
from jobs.storage import Storage, open_storage
from jobs.web.last_used import LastUsed
from jobs.web.places import Places
from jobs.web.signing import Signer
from jobs.web.throttle import Throttle
from jobs.web.thumbnails import Thumbnails

log = logging.getLogger(__name__)
# Each decodes photos on a few threads; manifests beyond these wait, and take no thread that others need.
ENQUEUE_AT_ONCE = 4
# Of one tenant: its further ones are told to come again, so that others always find a place.
ENQUEUE_OF_A_TENANT = 2


@dataclass(frozen=True)
class Services:
    """The settings, the database and the store, and what is remembered between requests."""

    settings: Settings
    database: Database
    storage: Storage
    signer: Signer
    last_used: LastUsed
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    throttle: Throttle = field(default_factory=Throttle)
    enqueueing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(ENQUEUE_AT_ONCE))
    manifests: Places = field(default_factory=lambda: Places(ENQUEUE_OF_A_TENANT, "manifests of a tenant"))
    uploads: Places = field(default_factory=lambda: Places(1, "photo under an address"))

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Everything but connections, which come with the first request. Raises SettingsInvalid."""
        database = Database.from_settings(settings)
        storage = open_storage(settings.storage_url, settings)
        return cls(settings, database, storage, Signer.from_settings(settings), LastUsed(database))

    def close(self) -> None:
        """Write down what is left to write, and let go of the database."""
        self.last_used.close()
        self.database.dispose()

    @property
    def is_direct(self) -> bool:
        """Whether clients fetch from, and send to, the object store themselves."""
        return self.settings.serve_direct and self.settings.storage_url.startswith("s3://")

    @cached_property
    def store_origin(self) -> str:
        """From where pages then load pictures: the store's origin; nothing where there is none, or no usable keys."""
        if not self.is_direct:
            return ""
        try:
            address = urlsplit(self.storage.url("origin", 60))
        except StorageError as error:
            log.warning("pages will show no pictures: %s", error)
            return ""
        return f"{address.scheme}://{address.netloc}"

    def address(self, request: HTTPConnection) -> str:
        """Under which people reach this server, without a slash at the end."""
        return (self.settings.serve_url or str(request.base_url)).rstrip("/")


def services_of(request: HTTPConnection) -> Services:
    """The services of the application that this request came to."""
    found: Services = request.app.state.services
    return found
