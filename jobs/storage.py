"""The object store: a folder or an S3 bucket behind one small interface.

Keys are the same everywhere: relative, `/` between the parts, at most 1024 bytes of UTF-8; no part is empty, starts
with a dot, is longer than 255 bytes, or holds a backslash or a control character. So a key can never leave the root,
and names that start with a dot are free for files in the making.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from jobs.errors import BadKey, SettingsInvalid
from jobs.settings import Settings

MAX_KEY_BYTES = 1024
MAX_PART_BYTES = 255
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Entry:
    """An object as a listing tells of it; `modified_at` in seconds since 1970, on the store's clock."""

    key: str
    size_bytes: int
    modified_at: float


@dataclass(frozen=True)
class Announced:
    """What an object will be: its SHA-256 in hex, its size, its media type."""

    sha256: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True)
class PutAddress:
    """Where to PUT an object, and the headers that must be sent with it."""

    url: str
    headers: dict[str, str]


class Storage(Protocol):
    """Objects under keys. Every method raises the `StorageError` family and nothing else."""

    def put(self, key: str, data: bytes, *, content_type: str, if_absent: bool = False) -> None:
        """Write the whole object, visible only when complete. `if_absent`: of many writers one wins, the others get
        `ObjectExists`; otherwise the last one wins."""

    def get(self, key: str) -> bytes:
        """The object's bytes; `ObjectMissing` if there is none."""

    def exists(self, key: str) -> bool:
        """Whether an object lies under the key."""

    def size(self, key: str) -> int | None:
        """How many bytes lie under the key; None if there is no object."""

    def delete(self, key: str) -> None:
        """Remove the object; not an error if there is none."""

    def purge(self, key: str) -> None:
        """Remove the object with every earlier version that the store keeps of it; not an error if there is none."""

    def keeps_versions(self) -> bool:
        """Whether what is removed or replaced may be kept as a version, which `purge` removes, too."""

    def earlier(self, prefix: str) -> Iterator[str]:
        """The keys that start with the prefix and of which the store keeps versions that `list` does not show."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys that start with the prefix (a text prefix, not a folder), in no promised order."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """The same with size and age, in bounded memory; what is removed meanwhile may be missing."""

    def remove_unfinished(self, older_than_seconds: float) -> int:
        """Remove what killed writers have left half-written, which no key names; how many files."""

    def url(self, key: str, expires_seconds: int) -> str:
        """A URL from which the object can be read: presigned for that many seconds, or file://, which never expires."""

    def put_address(self, key: str, what: Announced, expires_seconds: int) -> PutAddress | None:
        """Where somebody else may write this very object, for so many seconds; None where nobody else reaches the
        store."""

    def check(self) -> None:
        """Prove that objects can be written, read back, not overwritten by a conditional write, and deleted."""

    def describe(self) -> str:
        """Where this is, for people; without a secret."""


def open_storage(url: str, settings: Settings) -> Storage:
    """The store behind `file:///folder` or `s3://bucket/prefix`. Nothing is opened or connected yet.

    Raises `SettingsInvalid` for any other URL.
    """
    # Imported here, so that a folder store never pays for boto3.
    if url.startswith("file://"):
        from jobs.storage_folder import FolderStorage

        return FolderStorage(_folder_of(url))
    if url.startswith("s3://"):
        from jobs.storage_s3 import S3Storage

        bucket, prefix = split_s3_url(url)
        return S3Storage(bucket, prefix, settings)
    raise SettingsInvalid(
        "the storage URL starts with neither file:// nor s3://; "
        "set PORTRAITS_STORAGE_URL to file:///folder or s3://bucket/prefix"
    )


def split_s3_url(url: str) -> tuple[str, str]:
    """(bucket, key or prefix without outer slashes) of `s3://bucket/rest`; `SettingsInvalid` if it is not one."""
    bucket, _, rest = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not _BUCKET.fullmatch(bucket):
        raise SettingsInvalid(
            f"wanted s3://bucket/prefix, found the bucket name {bucket!r}; write the bucket's name only"
        )
    rest = rest.strip("/")
    if rest:
        try:
            check_key(rest)
        except BadKey as error:
            raise SettingsInvalid(f"the part after s3://{bucket}/ cannot be a prefix: {error}") from error
    return bucket, rest


def check_key(key: str) -> str:
    """The key itself if it keeps the rules at the head of this file; else `BadKey` says which one it breaks."""
    if not key:
        raise BadKey("the key is empty")
    found = _FORBIDDEN.search(key)
    if found:
        raise BadKey(f"the key {key!r} holds {found.group()!r}; control characters and backslashes are refused")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise BadKey(f"the key {key[:80]!r}... is longer than {MAX_KEY_BYTES} bytes")
    for part in key.split("/"):
        if not part or part.startswith("."):
            raise BadKey(
                f"the key {key!r} holds the part {part!r}; keys are relative, and no part is empty or starts with a dot"
            )
        if len(part.encode()) > MAX_PART_BYTES:
            raise BadKey(f"the key {key[:80]!r}... has a part longer than {MAX_PART_BYTES} bytes")
    return key


def _folder_of(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (
        parts.netloc not in ("", "localhost")
        or parts.query
        or parts.fragment
        or not path.startswith("/")
        or "\0" in path
    ):
        raise SettingsInvalid(
            f"wanted file:///absolute/folder, found {url!r}; write three slashes, and %23, %3F, %25 for #, ? and %"
        )
    return Path(path)
