"""The errors of what was asked for and what became of it.

JobsError
├── ManifestInvalid      the manifest has faults; all of them are listed
├── KeyConflict          the same idempotency key with other content
├── QuotaExceeded        the tenant would have more than its limit
├── RateLimited          the tenant asks for too much at once               (retryable)
├── UnknownJob           no such job, unit or render for this tenant
├── UnknownPicture       no such picture for this tenant
├── UnknownToken         no such token of this tenant
├── RequestRefused       an HTTP request cannot be carried out
│   ├── RequestInvalid      its address, fields or body are not what was wanted
│   ├── RequestTooLarge     its body is larger than is allowed
│   ├── NotAuthenticated    it shows no token that is valid
│   ├── TokenReadOnly       its token may only read
│   ├── TooManyAttempts     too many wrong tokens came from its address (retryable)
│   ├── TooManyAtOnce       more of this kind is in hand than may be at once (retryable)
│   └── UploadRefused       what was sent is not what was announced
├── JobArchived          the job lies in the archive, where nothing is changed
├── UnknownWorker        no such worker runs
├── UnknownPerson        no such person for this tenant
├── UnknownTenant        no such tenant
├── AuditRefused         what is to be kept of an erasure would tell of the person
├── ReceiptInvalid       the receipt of an erasure cannot be written or read
├── TenantBusy           a tenant that is being forgotten goes on enqueueing       (retryable)
├── UnknownWebhook       no such webhook for this tenant
├── WebhookRefused       an address that nobody may be told at
├── WebhookSilent        an endpoint does not answer                       (retryable)
├── UnknownWeightSet     no such weight set for this tenant
├── SourceMissing        no such photo set for this tenant
│   └── PersonErased     erased while a job of that person was enqueued     (retryable)
├── GalleryOutdated      a stored gallery is of another version, or not whole; build it anew
├── GalleryRefused       a gallery would replace a page of somebody else's making
├── OptionsInvalid       the options of a stored render are not known to this version
├── SettingsInvalid      a setting cannot be used
│   ├── ProfileInvalid   the profiles file has a fault
│   └── ProfileUnknown   no profile of that name here
├── FileRefused          a file that a manifest names cannot be read
│   └── PhotoRefused     a photo cannot be read within the limits
├── DatabaseUnavailable  the database does not answer                      (retryable)
├── DatabaseOutdated     the schema is older than the code
├── BrokerUnavailable    the broker does not answer                        (retryable)
└── StorageError
    ├── StorageUnavailable  the store does not answer                      (retryable)
    ├── StorageFull         no space is left                               (retryable)
    ├── StorageDenied       keys or permissions are refused
    ├── BucketMissing       the bucket does not exist
    ├── ObjectDenied        one key is refused by a store that answers its own check
    ├── ObjectExists        a conditional write found an object
    ├── ObjectMissing       no object under that key
    ├── ConditionalWriteMissing  the server overwrites where it should refuse
    └── BadKey              the key leaves the store's root
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class JobsError(Exception):
    """The request could not be carried out."""

    code = "jobs"
    retryable = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a manifest: where, in which field, and what to do."""

    message: str
    line: int | None = None
    field: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        place = [part for part in (self.source, f"line {self.line}" if self.line else None, self.field) if part]
        return f"{', '.join(place)}: {self.message}" if place else self.message


class ManifestInvalid(JobsError):
    """The manifest has faults; nothing was written."""

    code = "manifest_invalid"

    def __init__(self, faults: Sequence[Fault], total: int | None = None) -> None:
        self.faults = list(faults)
        self.total = len(self.faults) if total is None else total
        shown = "\n".join(f"  - {fault}" for fault in self.faults[:20])
        more = f"\n  ... and {self.total - 20} more" if self.total > 20 else ""
        noun = "fault" if self.total == 1 else "faults"
        super().__init__(f"the manifest has {self.total} {noun}; nothing was written\n{shown}{more}")


class KeyConflict(JobsError):
    """A job with this key exists already, and its content differs."""

    code = "key_conflict"


class QuotaExceeded(JobsError):
    """The tenant would have more than its limit."""

    code = "quota_exceeded"


class RateLimited(JobsError):
    """The tenant asks for more pictures a minute than it may."""

    code = "rate_limited"
    retryable = True


class UnknownJob(JobsError):
    """No such job."""

    code = "unknown_job"


class UnknownPicture(JobsError):
    """No such picture."""

    code = "unknown_picture"


class UnknownToken(JobsError):
    """No such token."""

    code = "unknown_token"


class RequestRefused(JobsError):
    """The request cannot be carried out."""

    code = "request_refused"


class RequestInvalid(RequestRefused):
    """The request is not what was wanted here."""

    code = "request_invalid"


class RequestTooLarge(RequestRefused):
    """The body of the request is larger than is allowed here."""

    code = "request_too_large"


class NotAuthenticated(RequestRefused):
    """The request shows no valid token; send `Authorization: Bearer TOKEN`."""

    code = "not_authenticated"


class TokenReadOnly(RequestRefused):
    """This token may only read; `portraits tokens create NAME --write` makes one that may write."""

    code = "token_read_only"


class TooManyAttempts(RequestRefused):
    """Too many wrong tokens came from this address; wait a few minutes."""

    code = "too_many_attempts"
    retryable = True


class TooManyAtOnce(RequestRefused):
    """More of this kind is in hand than may be at once; send it when one has ended."""

    code = "too_many_at_once"
    retryable = True


class UploadRefused(RequestRefused):
    """What was sent is not what was announced."""

    code = "upload_refused"


class JobArchived(JobsError):
    """The job lies in the archive; `portraits archive --restore JOB` brings it back."""

    code = "job_archived"


class UnknownWorker(JobsError):
    """No such worker runs."""

    code = "unknown_worker"


class UnknownPerson(JobsError):
    """No such person."""

    code = "unknown_person"


class UnknownTenant(JobsError):
    """No such tenant."""

    code = "unknown_tenant"


class AuditRefused(JobsError):
    """What is kept of an erasure must not tell of the person."""

    code = "audit_refused"


class ReceiptInvalid(JobsError):
    """The receipt of an erasure cannot be written or read."""

    code = "receipt_invalid"


class TenantBusy(JobsError):
    """A tenant that is being forgotten goes on enqueueing; stop that first."""

    code = "tenant_busy"
    retryable = True


class UnknownWebhook(JobsError):
    """No such webhook."""

    code = "unknown_webhook"


class WebhookRefused(JobsError):
    """A webhook's address, or its secret, cannot be used."""

    code = "webhook_refused"


class WebhookSilent(JobsError):
    """The webhook's endpoint does not answer."""

    code = "webhook_silent"
    retryable = True


class UnknownWeightSet(JobsError):
    """No such weight set."""

    code = "unknown_weight_set"


class SourceMissing(JobsError):
    """The photos or people that something is made of are no longer there."""

    code = "source_missing"


class PersonErased(SourceMissing):
    """A person was erased while a job of that person was enqueued; enqueue it again."""

    code = "person_erased"
    retryable = True


class GalleryOutdated(JobsError):
    """The stored gallery was made by another version, or is not whole; build it anew."""

    code = "gallery_outdated"


class GalleryRefused(JobsError):
    """A page of somebody else's making is where the gallery would be written."""

    code = "gallery_refused"


class OptionsInvalid(JobsError):
    """The options of a stored render cannot be used by this version."""

    code = "options_invalid"


class SettingsInvalid(JobsError):
    """A setting cannot be used."""

    code = "settings_invalid"


class ProfileInvalid(SettingsInvalid):
    """The profiles file has a fault."""

    code = "profile_invalid"


class ProfileUnknown(SettingsInvalid):
    """This worker has no profile of that name."""

    code = "profile_unknown"


class FileRefused(JobsError):
    """The file cannot be read from the manifest's folder."""

    code = "file_refused"


class PhotoRefused(FileRefused):
    """The photo cannot be read within the limits."""

    code = "photo_refused"


class DatabaseUnavailable(JobsError):
    """The database does not answer."""

    code = "database_unavailable"
    retryable = True


class DatabaseOutdated(JobsError):
    """The database schema is not the one this version needs; run `portraits db upgrade`."""

    code = "database_outdated"


class BrokerUnavailable(JobsError):
    """The broker does not answer."""

    code = "broker_unavailable"
    retryable = True


class StorageError(JobsError):
    """The object store refused."""

    code = "storage"


class StorageUnavailable(StorageError):
    """The object store does not answer."""

    code = "storage_unavailable"
    retryable = True


class StorageFull(StorageError):
    """No space is left in the object store."""

    code = "storage_full"
    retryable = True


class StorageDenied(StorageError):
    """The object store refused the keys or the permission."""

    code = "storage_denied"


class BucketMissing(StorageError):
    """The bucket does not exist."""

    code = "bucket_missing"


class ObjectDenied(StorageError):
    """The object store refuses this key, although it answers its own check."""

    code = "object_denied"


class ObjectExists(StorageError):
    """An object exists under this key already."""

    code = "object_exists"


class ObjectMissing(StorageError):
    """No object exists under this key."""

    code = "object_missing"


class ConditionalWriteMissing(StorageError):
    """The object store does not keep If-None-Match, so two writers could both win."""

    code = "conditional_write_missing"


class BadKey(StorageError):
    """The key would leave the root of the store."""

    code = "bad_key"
