"""One S3 server as the rest of the package sees it: a client per process, and errors by what can be done about them.

Keys come from where every AWS tool looks (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, the
instance's role); endpoint and region come from the settings. Messages are written here, from error codes: what the
server or botocore wrote is never repeated, as it may hold key ids or signed URLs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import urllib3.exceptions
from botocore import exceptions as aws
from botocore.config import Config

from jobs.errors import (
    BucketMissing,
    ConditionalWriteMissing,
    JobsError,
    ObjectExists,
    ObjectMissing,
    SettingsInvalid,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from jobs.tls import readable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NO_KEYS = (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound, aws.CredentialRetrievalError)
_NO_ANSWER = (
    aws.HTTPClientError,
    aws.ConnectionError,
    aws.IncompleteReadError,
    urllib3.exceptions.HTTPError,
)
_MISSING_KEY = {"NoSuchKey", "404", "NotFound", "NoSuchVersion"}
_FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "507"}
_DENIED = {
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "IllegalLocationConstraintException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "PermanentRedirect",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"}
_BUSY |= {"TooManyRequests", "RequestLimitExceeded", "ConditionalRequestConflict", "OperationAborted"}


class S3Server:
    """Makes the client when it is first needed, and again after a fork: two processes must not share a connection.

    No lock, on purpose: a lock held while the process forks would stay locked in the child. Two threads that come first
    may make two clients; the last one stays, and both work.
    """

    def __init__(self, endpoint_url: str, region: str, *, attempts: int = 4, ca_file: Path | None = None) -> None:
        parts = urlsplit(endpoint_url)
        if endpoint_url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise SettingsInvalid("PORTRAITS_S3_ENDPOINT_URL is no URL such as https://s3.example.com; correct it")
        if parts.username or parts.password:
            raise SettingsInvalid("PORTRAITS_S3_ENDPOINT_URL holds a user or password; use AWS_ACCESS_KEY_ID and so on")
        self.endpoint_url = endpoint_url
        self.region = region
        self._attempts, self._ca_file = attempts, ca_file
        self._held: tuple[int, S3Client] | None = None

    @property
    def client(self) -> S3Client:
        """The client of this process. It is thread-safe."""
        held = self._held
        if held is None or held[0] != os.getpid():
            held = self._held = (os.getpid(), self._connect())
        return held[1]

    def describe(self) -> str:
        """The server, for people; without a secret."""
        return self.endpoint_url or f"AWS {self.region}"

    @contextmanager
    def errors(self, bucket: str, key: str | None = None) -> Iterator[None]:
        """Turn botocore's exceptions into the `StorageError` family."""
        where = f"s3://{bucket}/{key}" if key else f"bucket {bucket!r}"
        where = f"{where} at {self.describe()}"
        try:
            yield
        except aws.ClientError as error:
            raise self._refusal(error, where, bucket, key) from error
        except _NO_KEYS as error:
            raise StorageDenied(
                f"no usable S3 keys for {where} ({type(error).__name__}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except _NO_ANSWER as error:
            raise StorageUnavailable(
                f"no answer from {where} ({type(error).__name__}); check PORTRAITS_S3_ENDPOINT_URL and the network"
            ) from error
        except aws.BotoCoreError as error:
            raise StorageError(f"the S3 client refuses {where} ({type(error).__name__})") from error

    def _connect(self) -> S3Client:
        config = Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            max_pool_connections=32,
            # Virtual-host addresses need DNS names that servers outside AWS seldom have.
            s3={"addressing_style": "path" if self.endpoint_url else "auto"},
            # Newer botocore adds checksum trailers that many S3-compatible servers do not understand.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A session of its own: boto3's default session is not thread-safe while a client is being made.
        session = boto3.session.Session()
        more: dict[str, Any] = {} if self._ca_file is None else {"verify": str(readable(self._ca_file, "S3_CA_FILE"))}
        endpoint = self.endpoint_url or None
        return session.client("s3", endpoint_url=endpoint, region_name=self.region, config=config, **more)

    def _refusal(self, error: aws.ClientError, where: str, bucket: str, key: str | None) -> JobsError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        shown = f"{code or 'no code'}, status {status}"
        if code == "NoSuchBucket" or (status == 404 and key is None):
            return BucketMissing(f"no bucket {bucket!r} at {self.describe()}; make it or correct PORTRAITS_STORAGE_URL")
        if status == 404 or code in _MISSING_KEY:
            return ObjectMissing(f"no object {where}")
        if status == 412:
            return ObjectExists(f"{where} exists already")
        if status == 501:
            return ConditionalWriteMissing(f"{where} does not implement what was asked ({shown})")
        if status == 507 or code in _FULL:
            return StorageFull(f"no space is left for {where} ({shown}); free some, then it goes on")
        if status in (401, 403, 301, 307) or code in _DENIED:
            return StorageDenied(
                f"{where} refuses access ({shown}); check the keys, their permissions, PORTRAITS_S3_REGION "
                f"({self.region}) and this machine's clock"
            )
        if status >= 500 or status in (408, 409, 429) or code in _BUSY:
            return StorageUnavailable(f"{where} cannot answer now ({shown})")
        return StorageError(f"{where} refused the request ({shown})")
