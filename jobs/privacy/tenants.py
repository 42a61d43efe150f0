"""Forgetting a whole tenant: its people one by one, then whatever is left of it, then its objects.

Every step is a transaction of bounded size. A call that was interrupted is repeated: it goes on with what is left.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import IntegrityError

from jobs.database import Database
from jobs.errors import TenantBusy, UnknownTenant
from jobs.privacy.clearing import clear, everything_under, purge
from jobs.privacy.forgetting import Forgotten, check_reason, erase_one
from jobs.privacy.receipts import Collected, ReceiptFile
from jobs.reports import opened
from jobs.repository import audits, forgettings, whole_tenant
from jobs.settings import Settings
from jobs.storage import Storage, open_storage

PEOPLE_AT_ONCE = 50
ROUNDS = 5
COUNTED = {"identities": "people", "archived_units": "units", "archived_renders": "renders"}


def forget_tenant(
    tenant: str,
    *,
    dry_run: bool = False,
    reason: str | None = None,
    actor: str | None = None,
    receipt: Path | None = None,
    settings: Settings | None = None,
) -> Forgotten:
    """Forget everybody and everything of a tenant.

    `dry_run` only counts; `receipt` is a new file for the ids and keys that went in this call.

    Raises: UnknownTenant, AuditRefused, ReceiptInvalid, TenantBusy where it goes on enqueueing, StorageError,
    DatabaseUnavailable.
    """
    check_reason(reason)
    with opened(settings) as (chosen, database), ReceiptFile(None if dry_run else receipt) as file:
        storage = open_storage(chosen.storage_url, chosen)
        with database.reading() as tx:
            is_there = whole_tenant.exists(tx, tenant)
            counts = _counts(whole_tenant.counts(tx, tenant))
            if not is_there and not whole_tenant.is_being_cleared(tx, tenant):
                raise UnknownTenant(f"there is no tenant {tenant!r} here; nothing was erased")
        if dry_run:
            return Forgotten(tenant, counts, is_dry=True)
        collected = Collected(tenant)
        removed = _erase(database, storage, collected, counts, actor or audits.actor(), reason) if is_there else 0
        file.write(collected.receipt())
        removed += purge(database, storage, tenant, everything_under(storage, f"{tenant}/"))
        database.settle_erased()
        with database.reading() as tx:
            behind = forgettings.behind(tx)
        return Forgotten(tenant, counts, [], removed, behind, [], collected.receipt())


def _counts(rows: dict[str, int]) -> dict[str, int]:
    """The rows of each table, with the archive's beside those of the queue."""
    found: dict[str, int] = {}
    for name, count in sorted(rows.items()):
        told = COUNTED.get(name, name.removeprefix("archived_"))
        found[told] = found.get(told, 0) + count
    return found


def _erase(
    database: Database, storage: Storage, collected: Collected, counts: dict[str, int], actor: str, reason: str | None
) -> int:
    """Every row, the tenant's own at last; how many objects went. Raises TenantBusy where rows go on coming."""
    tenant, removed = collected.tenant, 0
    for _ in range(ROUNDS):
        with database.transaction() as tx:
            whole_tenant.shut(tx, tenant)
        removed += _erase_people(database, storage, collected)
        try:
            while _remove_some(database, tenant):
                continue
            with database.transaction() as tx:
                whole_tenant.remove_itself(tx, tenant)
                audits.add(tx, audits.FORGET_TENANT, tenant, actor=actor, reason=reason, counts=counts)
                forgettings.add(tx, tenant, prefixes=[f"{tenant}/"])
            return removed
        except IntegrityError:  # something was enqueued meanwhile
            continue
    raise TenantBusy(f"tenant {tenant!r} goes on enqueueing while it is forgotten; stop that, then repeat the command")


def _remove_some(database: Database, tenant: str) -> int:
    with database.transaction() as tx:
        return whole_tenant.remove_some(tx, tenant)


def _erase_people(database: Database, storage: Storage, collected: Collected) -> int:
    """Everybody, and the objects of some of them at a time; how many objects went."""
    removed = 0
    while True:
        with database.reading() as tx:
            ids = whole_tenant.people(tx, collected.tenant, limit=PEOPLE_AT_ONCE)
        if not ids:
            return removed
        for identity_id in ids:
            erased = erase_one(database, collected.tenant, identity_id)
            if erased is not None:
                collected.add(erased)
        removed += clear(database, storage)
