"""Forgetting: a person, or everybody and everything of a tenant.

1. In one transaction: every row that tells of the person goes, the audit row comes, and what is to be dropped elsewhere
   is noted: objects in the store, weight sets and units in workers.
2. The objects go, with the versions that a bucket keeps of them. If that is interrupted, a later turn goes on.
3. Workers drop what they hold with their next sign of life, and say so in their rows.

A tenant is forgotten person by person, so that no transaction grows with the tenant; an interrupted call is repeated.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from jobs.database import Database
from jobs.errors import AuditRefused, DatabaseUnavailable, UnknownPerson
from jobs.privacy.clearing import clear
from jobs.privacy.receipts import Collected, Receipt, ReceiptFile
from jobs.privacy.words import speaks_of
from jobs.reports import opened
from jobs.repository import audits, erasure, forgettings, people
from jobs.repository.erasure import Erased, Made
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.uploads import upload_key

TRIES = 3


@dataclass(frozen=True)
class Forgotten:
    """What went: counts by kind, `others` who were made of this person, and `removed` objects of the store.

    `behind` are the workers that have not yet said that they dropped it; `units` those whose pictures may lie in a
    worker's spool. `is_dry`: nothing has gone.
    """

    tenant: str
    counts: dict[str, int]
    others: list[str] = field(default_factory=list)
    removed: int = 0
    behind: list[str] = field(default_factory=list)
    units: list[uuid.UUID] = field(default_factory=list)
    receipt: Receipt | None = None
    is_dry: bool = False


class _OnlyLooking(Exception):
    """Everything has been counted: no fault, but the transaction is rolled back."""


def forget(
    identity: str | uuid.UUID,
    *,
    tenant: str | None = None,
    dry_run: bool = False,
    reason: str | None = None,
    actor: str | None = None,
    receipt: Path | None = None,
    settings: Settings | None = None,
) -> Forgotten:
    """Forget a person, known by external id or by id, and everything made from it.

    `dry_run` counts what would go and rolls back; `receipt` is a new file for the ids and keys that went. Raises:
    UnknownPerson, AuditRefused for a reason that names the person, ReceiptInvalid, StorageError, DatabaseUnavailable.
    What could not be removed from the store is noted, and goes later.
    """
    with opened(settings) as (chosen, database), ReceiptFile(None if dry_run else receipt) as file:
        owner = tenant or chosen.tenant
        if dry_run:
            return _looked_at(database, owner, identity, reason)
        with database.transaction() as tx:
            name, erased = _erased(tx, owner, identity, reason)
            who = actor or audits.actor()
            audits.add(tx, audits.FORGET_PERSON, owner, actor=who, reason=reason, counts=erased.counts)
            ids = note(tx, owner, erased)
        told = _receipt(owner, erased)
        file.write(told)
        removed = clear(database, open_storage(chosen.storage_url, chosen), ids=ids)
        database.settle_erased()
        others = _others(erased, name)
        return Forgotten(owner, erased.counts, others, removed, _behind(database), erased.traces.claimed, told)


def _looked_at(database: Database, tenant: str, identity: str | uuid.UUID, reason: str | None) -> Forgotten:
    """What would go: erased in a transaction that is rolled back, so that it is counted by what would do it."""
    looked: Forgotten | None = None
    try:
        with database.transaction() as tx:
            name, erased = _erased(tx, tenant, identity, reason)
            looked = Forgotten(tenant, erased.counts, _others(erased, name), is_dry=True)
            raise _OnlyLooking
    except _OnlyLooking:
        assert looked is not None
        return looked


def _erased(tx: Connection, tenant: str, identity: str | uuid.UUID, reason: str | None) -> tuple[str, Erased]:
    """The person's external id, and what went. Raises UnknownPerson, AuditRefused."""
    found = people.look_up(tx, tenant, identity)
    if found is not None:
        check_reason(reason, found.external_id)
        erased = erasure.erase(tx, tenant, found.id)
        if erased is not None:
            return found.external_id, erased
    raise UnknownPerson(f"tenant {tenant!r} knows nobody as {str(identity)!r}; nothing was erased")


def _others(erased: Erased, name: str) -> list[str]:
    """Who went because they were made of this person."""
    return sorted(one for one in erased.traces.people.values() if one != name)


def note(tx: Connection, tenant: str, erased: Erased) -> list[uuid.UUID]:
    """Note what is to be dropped from store, memory and disk; the last statement of an erasure's transaction."""
    return forgettings.add(
        tx,
        tenant,
        weight_sets=erased.traces.fingerprints,
        units=erased.traces.claimed,
        folders=erased.traces.folders,
        galleries=erased.traces.galleries,
        keys=erased.keys,
        prefixes=[*erased.traces.prefixes, *(upload_key(tenant, sha256) for sha256 in erased.traces.photos)],
    )


def erase_one(
    database: Database,
    tenant: str,
    identity_id: uuid.UUID,
    *,
    only_if: Callable[[Connection, Made], bool] = lambda tx, made: True,
    audit: Callable[[Connection, dict[str, int]], object] = lambda tx, counts: None,
) -> Erased | None:
    """Erase one person and note what is to be dropped, in a transaction with what `audit` writes; None where it is
    gone, or where `only_if`, asked when nobody can change what was made of it, says no.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            with database.transaction() as tx:
                erased = erasure.erase(tx, tenant, identity_id, only_if=partial(only_if, tx))
                if erased is not None:
                    audit(tx, erased.counts)
                    note(tx, tenant, erased)
                return erased
        except DatabaseUnavailable:  # such as two transactions that waited for each other
            if not tries_left:
                raise
    return None


def check_reason(reason: str | None, name: str | None = None) -> None:
    """An audit row tells of nobody. Raises AuditRefused."""
    if reason is not None and len(reason) > audits.MAX_REASON:
        raise AuditRefused(f"the reason has {len(reason)} characters, at most {audits.MAX_REASON} are kept; shorten it")
    if reason is not None and name is not None and speaks_of(reason, name):
        raise AuditRefused("the reason names the person, and it is kept; say why without saying who")


def _behind(database: Database) -> list[str]:
    with database.reading() as tx:
        return forgettings.behind(tx)


def _receipt(tenant: str, erased: Erased) -> Receipt:
    collected = Collected(tenant)
    collected.add(erased)
    return collected.receipt()
