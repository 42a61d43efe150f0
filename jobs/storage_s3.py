"""The object store in an S3 bucket, below a prefix.

A conditional write is a PUT with `If-None-Match: *`. If the answer to a PUT is lost, the client sends it again and is
told 412 because of its own first try; so each conditional write carries a token of its own in the object's metadata,
and after a 412 the object is asked for it. A 409 says that the server could not decide while another write was going
on: it does not say that an object exists, so the write is tried again.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator

from botocore.exceptions import ClientError

from jobs.errors import (
    BucketMissing,
    ConditionalWriteMissing,
    ObjectExists,
    ObjectMissing,
    SettingsInvalid,
    StorageDenied,
    StorageUnavailable,
)
from jobs.s3 import S3Server
from jobs.settings import Settings
from jobs.storage import Announced, Entry, PutAddress, check_key

MAX_EXPIRES_SECONDS = 7 * 24 * 3600
_CONFLICT_TRIES = 3
_WRITER = "writer"


class S3Storage:
    """Objects below `s3://bucket/prefix/`. Safe to share between threads, and after a fork."""

    def __init__(self, bucket: str, prefix: str, settings: Settings, *, server: S3Server | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.server = server or S3Server(settings.s3_endpoint_url, settings.s3_region, ca_file=settings.s3_ca_file)
        self._bucket_seen = False

    def put(self, key: str, data: bytes, *, content_type: str, if_absent: bool = False) -> None:
        """See `Storage.put`."""
        name = self._name(key)
        if not if_absent:
            with self.server.errors(self.bucket, name):
                self.server.client.put_object(Bucket=self.bucket, Key=name, Body=data, ContentType=content_type)
            return
        token = secrets.token_hex(16)
        for _ in range(_CONFLICT_TRIES):
            if self._put_absent(name, data, content_type, token):
                return
        raise StorageUnavailable(
            f"s3://{self.bucket}/{name} at {self.server.describe()}: another write of this key was in the way "
            f"{_CONFLICT_TRIES} times"
        )

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        name = self._name(key)
        with self.server.errors(self.bucket, name):
            return self.server.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """See `Storage.size`."""
        name = self._name(key)
        try:
            with self.server.errors(self.bucket, name):
                return self.server.client.head_object(Bucket=self.bucket, Key=name)["ContentLength"]
        except ObjectMissing:
            self._check_bucket()
            return None

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        name = self._name(key)
        try:
            with self.server.errors(self.bucket, name):
                self.server.client.delete_object(Bucket=self.bucket, Key=name)
        except ObjectMissing:
            return

    def purge(self, key: str) -> None:
        """See `Storage.purge`. Raises StorageDenied where the keys may not ask for versions, or remove one."""
        if not self.keeps_versions():
            self.delete(key)
            return
        name = self._name(key)
        for found, version in self._versions(name):
            if found == name:
                with self.server.errors(self.bucket, name):
                    self.server.client.delete_object(Bucket=self.bucket, Key=name, VersionId=version)

    def keeps_versions(self) -> bool:
        """See `Storage.keeps_versions`; asked each time, as somebody may turn it on. Raises StorageDenied."""
        try:
            with self.server.errors(self.bucket):
                found = self.server.client.get_bucket_versioning(Bucket=self.bucket)
        except ConditionalWriteMissing:  # a server that does not know the question keeps nothing
            return False
        except StorageDenied as error:
            raise StorageDenied(
                f"whether {self.describe()} keeps versions of removed objects may not be asked ({error}); what is to "
                "be erased could stay: grant s3:GetBucketVersioning, and for a bucket that keeps versions "
                "s3:ListBucketVersions and s3:DeleteObjectVersion"
            ) from error
        return found.get("Status") in {"Enabled", "Suspended"}

    def earlier(self, prefix: str) -> Iterator[str]:
        """See `Storage.earlier`; raises as `purge` does."""
        if not self.keeps_versions():
            return
        shown = set(self.list(prefix))
        for name in {name for name, _ in self._versions(self.prefix + prefix)}:
            if (key := name.removeprefix(self.prefix)) not in shown:
                yield key

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage.list`."""
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """See `Storage.entries`: a page of up to 1000 at a time, by name."""
        with self.server.errors(self.bucket, self.prefix + prefix):
            pages = self.server.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self.prefix)
                    yield Entry(key, item["Size"], item["LastModified"].timestamp())

    def remove_unfinished(self, older_than_seconds: float) -> int:
        """See `Storage.remove_unfinished`: an object is one PUT, of which nothing stays when it breaks off."""
        del older_than_seconds
        return 0

    def url(self, key: str, expires_seconds: int) -> str:
        """See `Storage.url`. Signing asks no server, so the object need not exist. At most seven days."""
        self._check_life(expires_seconds)
        name = self._name(key)
        with self.server.errors(self.bucket, name):
            return self.server.client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": name}, ExpiresIn=expires_seconds
            )

    def put_address(self, key: str, what: Announced, expires_seconds: int) -> PutAddress | None:
        """See `Storage.put_address`. Size, type and SHA-256 are signed: the server takes nothing else."""
        self._check_life(expires_seconds)
        name = self._name(key)
        checksum = base64.b64encode(bytes.fromhex(what.sha256)).decode()
        with self.server.errors(self.bucket, name):
            url = self.server.client.generate_presigned_url(
                "put_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": name,
                    "ContentType": what.media_type,
                    "ContentLength": what.size_bytes,
                    "ChecksumSHA256": checksum,
                },
                ExpiresIn=expires_seconds,
            )
        headers = {"Content-Type": what.media_type, "Content-Length": str(what.size_bytes)}
        if "x-amz-checksum-sha256=" not in url.lower():  # what is part of the address is not sent a second time
            headers["x-amz-checksum-sha256"] = checksum
        return PutAddress(url, headers)

    def _check_life(self, expires_seconds: int) -> None:
        if not 0 < expires_seconds <= MAX_EXPIRES_SECONDS:
            raise SettingsInvalid(f"a presigned URL lives 1 to {MAX_EXPIRES_SECONDS} seconds, wanted {expires_seconds}")

    def check(self) -> None:
        """See `Storage.check`. The bucket itself is asked first, so that a missing one is called missing."""
        with self.server.errors(self.bucket):
            self.server.client.head_bucket(Bucket=self.bucket)
        self._bucket_seen = True
        key = f"check/{secrets.token_hex(12)}"
        self.put(key, b"check", content_type="text/plain", if_absent=True)
        try:
            if self.get(key) != b"check":
                raise StorageUnavailable(f"{self.describe()} gave back other bytes than were written")
            self._check_conditional(key)
        finally:
            self.delete(key)

    def describe(self) -> str:
        """See `Storage.describe`."""
        return f"s3://{self.bucket}/{self.prefix} at {self.server.describe()}"

    def _versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(name, version) of everything that is kept under a prefix, marks of removal included."""
        with self.server.errors(self.bucket, prefix):
            pages = self.server.client.get_paginator("list_object_versions")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Versions", []):
                    yield item["Key"], item["VersionId"]
                for mark in page.get("DeleteMarkers", []):
                    yield mark["Key"], mark["VersionId"]

    def _name(self, key: str) -> str:
        return check_key(self.prefix + check_key(key))

    def _put_absent(self, name: str, data: bytes, content_type: str, token: str) -> bool:
        """Whether the write was decided; False after a 409. Raises `ObjectExists` if another writer won."""
        client = self.server.client
        try:
            with self.server.errors(self.bucket, name):
                client.put_object(
                    Bucket=self.bucket,
                    Key=name,
                    Body=data,
                    ContentType=content_type,
                    IfNoneMatch="*",
                    Metadata={_WRITER: token},
                )
        except StorageUnavailable as error:
            if _status(error) == 409:
                return False
            raise
        except ObjectExists:
            # Ours all the same, if the answer to our own first try was lost on its way.
            with self.server.errors(self.bucket, name):
                if client.head_object(Bucket=self.bucket, Key=name)["Metadata"].get(_WRITER) != token:
                    raise
        return True

    def _check_bucket(self) -> None:
        """HEAD answers 404 for a missing bucket too: ask once, so that it is not taken for a missing object."""
        if self._bucket_seen:
            return
        try:
            with self.server.errors(self.bucket):
                self.server.client.head_bucket(Bucket=self.bucket)
        except BucketMissing:
            raise
        except StorageDenied:
            # Keys may read objects and yet not see the bucket: then a missing object is all that can be told.
            return
        self._bucket_seen = True

    def _check_conditional(self, key: str) -> None:
        try:
            self.put(key, b"again", content_type="text/plain", if_absent=True)
        except ObjectExists:
            return
        raise ConditionalWriteMissing(
            f"{self.describe()} overwrote an object in spite of If-None-Match, so two workers could both win; "
            "use a server that keeps conditional writes"
        )


def _status(error: BaseException) -> int:
    cause = error.__cause__
    return int(cause.response["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(cause, ClientError) else 0
