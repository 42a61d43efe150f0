"""Keeping nobody longer than allowed: once a day whoever was last used too long ago is erased, as `forget` erases.

A turn is cheap when nothing is due, and bounded when much is: what is left waits for the next turn. It also finishes
what interrupted erasures have left in the store. A login that may not erase leaves that to one that may, and says so
once; so workers need no right to delete people.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

from jobs import uploads
from jobs.database import Database
from jobs.errors import SettingsInvalid, StorageError
from jobs.orm import utcnow
from jobs.privacy import clearing
from jobs.privacy.forgetting import erase_one
from jobs.reports import opened
from jobs.repository import audits, erasure_outside, forgettings
from jobs.repository import retention as rows
from jobs.repository import sweep as tenant_rows
from jobs.repository.sight import require_sight
from jobs.settings import Settings
from jobs.storage import Storage, open_storage

log = logging.getLogger(__name__)
DAY_SECONDS, HOUR_SECONDS = 86_400.0, 3_600.0
PEOPLE_AT_ONCE, PHOTOS_AT_ONCE, ROWS_AT_ONCE = 100, 500, 100
UNNAMED_FOR = dt.timedelta(days=1)
"""A photo's row may be there so long before the rows of the job that names it."""
ACTOR = "retention"


@dataclass
class Swept:
    """What one sweep let go of: people, photos that nobody named, uploads that expired, objects in the store."""

    people: int = 0
    photos: int = 0
    uploads: int = 0
    objects: int = 0

    def as_data(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    @property
    def total(self) -> int:
        """How much was done."""
        return sum(asdict(self).values())


def turn(database: Database, storage: Storage, settings: Settings) -> int:
    """Finish interrupted erasures; once a day erase who is kept too long. How much was done; 0 when nothing is due.

    Raises: StorageError, DatabaseUnavailable; what is left is done in a later turn.
    """
    with database.reading() as tx:
        may_clear, may_erase = rows.rights(tx)
        is_due = rows.is_due(tx)
    if not may_clear:
        return 0
    swept = Swept()
    try:
        swept.objects += clearing.clear(database, storage, limit=ROWS_AT_ONCE)
    except StorageError as error:
        if error.retryable:
            raise
        # It is told of and noted; whoever is due to be erased does not wait until somebody mends it.
    closed = clearing.close(database, storage, after_seconds=clearing.late_seconds(settings))
    if not is_due:
        return swept.total + closed
    if not may_erase:
        _say_once(str(database))
        return swept.total + closed
    with database.transaction() as tx:
        if not rows.begin(tx, seconds=HOUR_SECONDS):
            return swept.total + closed
    is_done = _sweep(database, storage, settings, swept, most_people=PEOPLE_AT_ONCE)
    with database.transaction() as tx:
        rows.rest(tx, seconds=DAY_SECONDS if is_done else 0.0)
    return swept.total + closed


def sweep(settings: Settings) -> Swept:
    """Do all of it now, whether it is due or not. Raises SettingsInvalid for a login that may not erase."""
    with opened(settings) as (chosen, database):
        with database.reading() as tx:
            require_sight(tx)
            if not rows.rights(tx)[1]:
                raise SettingsInvalid(_may_not(str(database)))
        storage, swept = open_storage(chosen.storage_url, chosen), Swept()
        swept.objects += clearing.clear(database, storage)
        clearing.close(database, storage, after_seconds=clearing.late_seconds(chosen))
        _sweep(database, storage, chosen, swept, most_people=None)
        return swept


def _sweep(database: Database, storage: Storage, settings: Settings, swept: Swept, *, most_people: int | None) -> bool:
    """Erase, tenant by tenant; False when the most people were erased and others may be due."""
    with database.reading() as tx:
        days, tenants = rows.kept_days(tx, settings.retention_days), tenant_rows.tenants(tx)
    for tenant, kept in days.items():
        for identity_id in _candidates(database, tenant, utcnow() - dt.timedelta(days=kept)):
            if most_people is not None and swept.people >= most_people:
                return False
            swept.people += _erase(database, tenant, identity_id, utcnow() - dt.timedelta(days=kept))
    for tenant in tenants:
        swept.photos += _let_go_of_photos(database, tenant)
    while some := uploads.remove_expired(database, storage):
        swept.uploads += some
    swept.objects += clearing.clear(database, storage)
    database.settle_erased()
    return True


def _candidates(database: Database, tenant: str, before: dt.datetime) -> Iterator[uuid.UUID]:
    last: uuid.UUID | None = None
    while True:
        with database.reading() as tx:
            ids = rows.candidates(tx, tenant, before, after=last, limit=PEOPLE_AT_ONCE)
        yield from ids
        if len(ids) < PEOPLE_AT_ONCE:
            return
        last = ids[-1]


def _erase(database: Database, tenant: str, identity_id: uuid.UUID, before: dt.datetime) -> int:
    """Erase somebody unless something of them was used meanwhile, and note that in the audit; how many people went."""
    erased = erase_one(
        database,
        tenant,
        identity_id,
        only_if=lambda tx, made: not rows.was_used(tx, tenant, made, before),
        audit=lambda tx, counts: audits.add(tx, audits.RETENTION, tenant, actor=ACTOR, reason=None, counts=counts),
    )
    return 0 if erased is None else erased.people


def _let_go_of_photos(database: Database, tenant: str) -> int:
    """Remove photos that nobody names any more, and what was sent ahead of them; how many."""
    removed = 0
    while True:
        with database.transaction() as tx:
            sha256s, keys = rows.remove_unnamed_photos(tx, tenant, utcnow() - UNNAMED_FOR, limit=PHOTOS_AT_ONCE)
            if not keys:
                return removed
            keys += erasure_outside.uploads(tx, tenant, sha256s)
            sent = [uploads.upload_key(tenant, sha256) for sha256 in sha256s]
            forgettings.add(tx, tenant, keys=keys, prefixes=sent)
        removed += len(sha256s)


def _may_not(database: str) -> str:
    return (
        f"this login may not erase anybody in {database}: wanted the owner of the tables or a member of the privacy "
        "role (`portraits db roles`); run `portraits privacy sweep`, or a clerk, under such a login once a day"
    )


@lru_cache(maxsize=8)
def _say_once(database: str) -> None:
    log.warning("nobody is erased here for being kept too long: %s", _may_not(database))
