"""Limits of a tenant, checked before a job is written: people, waiting pictures, stored bytes, pictures a minute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import Connection

from jobs.database import Database
from jobs.errors import QuotaExceeded, RateLimited
from jobs.manifest import Manifest
from jobs.planned import Checked
from jobs.repository import tenants, uploads


def check_before_writing(database: Database, manifest: Manifest, checked: Checked) -> None:
    """Refuse a job that is over a limit, or whose people lack the consent that their tenant requires, before a photo of
    it is stored. Raises QuotaExceeded, RateLimited, ManifestInvalid.
    """
    tenant_id = manifest.job.tenant
    with database.reading(tenant_id) as tx:
        tenant = tenants.find(tx, tenant_id)
        if tenant.requires_consent:
            manifest.require_consent()
        if tenant.max_people is not None:
            new = tenants.unknown_people(tx, tenant_id, (person.external_id for person in manifest.people()))
            _require("people", tenant_id, tenant.max_people, tenants.people(tx, tenant_id), new, "forget some")
        if tenant.max_stored_bytes is not None:
            new = tenants.unknown_bytes(tx, tenant_id, _files(manifest))
            found = tenants.stored_bytes(tx, tenant_id)
            _require("stored bytes", tenant_id, tenant.max_stored_bytes, found, new, "remove pictures")
        _check_renders(tx, tenant, checked.renders)


def _files(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """SHA-256 and bytes of each photo and given picture, in bounded memory: one that many share comes many times."""
    for person in manifest.people():
        yield from ((photo.sha256, photo.bytes_size) for photo in person.photos)
    yield from ((picture.sha256, picture.bytes_size) for picture in manifest.pictures())


def check_while_registering(tx: Connection, tenant_id: str, names: Iterable[str], files: Mapping[str, int]) -> None:
    """The same for people and bytes (by SHA-256), in the transaction that registers these: two that enqueue at once for
    one tenant wait for each other here. Raises QuotaExceeded.
    """
    tenant = tenants.find(tx, tenant_id)
    if tenant.max_people is None and tenant.max_stored_bytes is None:
        return
    tenant = tenants.find(tx, tenant_id, lock=True)
    if tenant.max_people is not None and (new := tenants.unknown_people(tx, tenant_id, names)):
        _require("people", tenant_id, tenant.max_people, tenants.people(tx, tenant_id), new, "forget some")
    if tenant.max_stored_bytes is not None and (new := tenants.unknown_bytes(tx, tenant_id, files.items())):
        found = tenants.stored_bytes(tx, tenant_id)
        _require("stored bytes", tenant_id, tenant.max_stored_bytes, found, new, "remove pictures")


def check_upload(tx: Connection, tenant_id: str, size_bytes: int, *, most_uploads: int) -> None:
    """Refuse a photo that is announced when the tenant has too many that no job names, or would be over its stored
    bytes; in the transaction that writes the row. Raises QuotaExceeded.
    """
    tenant = tenants.find(tx, tenant_id, lock=True)
    found = uploads.count(tx, tenant_id)
    if found >= most_uploads:
        raise QuotaExceeded(
            f"tenant {tenant_id!r} has sent or announced {found:,} photos that no job names yet, at most "
            f"{most_uploads:,} are allowed (PORTRAITS_MAX_UPLOADS); enqueue the jobs that name them"
        )
    if tenant.max_stored_bytes is not None:
        stored = tenants.stored_bytes(tx, tenant_id)
        if stored + size_bytes > tenant.max_stored_bytes:
            raise QuotaExceeded(
                f"tenant {tenant_id!r} may have {tenant.max_stored_bytes:,} stored bytes; it has {stored:,}, and this "
                f"photo has {size_bytes:,}; remove pictures, or have the limit raised (`portraits tenants set`)"
            )


def check_while_writing(tx: Connection, tenant_id: str, renders: int) -> None:
    """The same for the limits of pictures, in the transaction that writes the job: two that enqueue at once for one
    tenant wait for each other here. Raises QuotaExceeded, RateLimited.
    """
    tenant = tenants.find(tx, tenant_id)
    if tenant.is_limited:
        _check_renders(tx, tenants.find(tx, tenant_id, lock=True), renders)


def check_waiting_again(tx: Connection, tenant_id: str, renders: int) -> None:
    """Refuse that so many renders wait again, or once more, when more would wait than the tenant may have; they are
    counted among those that wait already, in this transaction. Raises QuotaExceeded.
    """
    if not renders or tenants.find(tx, tenant_id).max_waiting_renders is None:
        return
    limit = tenants.find(tx, tenant_id, lock=True).max_waiting_renders
    if limit is not None:
        found = tenants.waiting_renders(tx, tenant_id) - renders
        _require("waiting pictures", tenant_id, limit, found, renders, "wait until some are drawn")


def _check_renders(tx: Connection, tenant: tenants.TenantRow, renders: int) -> None:
    if tenant.max_waiting_renders is not None:
        found = tenants.waiting_renders(tx, tenant.id)
        _require("waiting pictures", tenant.id, tenant.max_waiting_renders, found, renders, "wait until some are drawn")
    limit = tenant.max_renders_per_minute
    if limit is not None:
        _require("pictures a minute", tenant.id, limit, 0, renders, "split the job")
        found = tenants.renders_of_last_minute(tx, tenant.id)
        if found + renders > limit:
            raise RateLimited(
                f"tenant {tenant.id!r} may ask for {limit:,} pictures a minute; it has asked for {found:,} within the "
                f"last one, and this job asks for {renders:,} more; try again in a minute"
            )


def _require(what: str, tenant_id: str, limit: int, found: int, new: int, advice: str) -> None:
    if new and found + new > limit:
        raise QuotaExceeded(
            f"tenant {tenant_id!r} may have {limit:,} {what}; it has {found:,}, and this job adds {new:,}; {advice}, "
            "or have the limit raised (`portraits tenants set`)"
        )
