"""The S3 store against moto, and what becomes of every refusal a server can send."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.awsrequest
import botocore.exceptions
import pytest
from moto import mock_aws
from pydantic import ValidationError

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
from jobs.s3 import S3Server
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.storage_s3 import S3Storage

SECRET = "do-not-show-this-secret"
ENDPOINT = "http://s3.example.test:9000"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture
def storage(settings: Settings) -> Iterator[S3Storage]:
    """A store in a bucket of moto's."""
    with mock_aws():
        opened = S3Storage("bucket", "pre/fix", settings)
        opened.server.client.create_bucket(Bucket="bucket")
        yield opened


def answering(settings: Settings, *answers: tuple[int, str] | Exception, attempts: int = 1) -> S3Storage:
    """A store whose server gives these answers, one for each request, and the last one for ever; nothing is sent."""
    storage = S3Storage("bucket", "", settings, server=S3Server(ENDPOINT, "us-east-1", attempts=attempts))
    left = list(answers)

    def answer(**_: Any) -> botocore.awsrequest.AWSResponse:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, Exception):
            raise now
        status, code = now
        body = f"<Error><Code>{code}</Code><Message>key {SECRET} is wrong</Message></Error>" if code else ""
        return botocore.awsrequest.AWSResponse(ENDPOINT, status, {}, _Raw(body.encode()))

    storage.server.client.meta.events.register("before-send.s3", answer)
    return storage


class _Raw:
    """As much of a urllib3 response as botocore reads."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._body

    def read(self, *_: Any) -> bytes:
        return self._body


def test_put_get_list_delete(storage: S3Storage) -> None:
    # Given objects below the prefix, and one beside it that is none of the store's business
    for key in ("acme/a.png", "acme/b.png", "other/c.png"):
        storage.put(key, key.encode(), content_type="image/png")
    storage.server.client.put_object(Bucket="bucket", Key="elsewhere/x", Body=b"")
    # Then keys are relative to the prefix
    assert storage.get("acme/a.png") == b"acme/a.png"
    assert set(storage.list("")) == {"acme/a.png", "acme/b.png", "other/c.png"}
    assert set(storage.list("acme/")) == {"acme/a.png", "acme/b.png"}
    head = storage.server.client.head_object(Bucket="bucket", Key="pre/fix/acme/a.png")
    assert head["ContentType"] == "image/png"
    storage.delete("acme/a.png")
    storage.delete("acme/a.png")
    assert not storage.exists("acme/a.png")
    assert storage.exists("acme/b.png")
    assert (storage.size("acme/a.png"), storage.size("acme/b.png")) == (None, len(storage.get("acme/b.png")))
    with pytest.raises(ObjectMissing):
        storage.get("acme/a.png")


def test_more_keys_than_one_page_holds(storage: S3Storage) -> None:
    # Given a server whose pages hold 10 keys
    storage.server.client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 10}
    )
    for number in range(25):
        storage.put(f"many/{number}", b"", content_type="text/plain")
    # Then all keys are listed, each once
    assert sorted(storage.list("many/")) == sorted(f"many/{number}" for number in range(25))


def test_entries_tell_size_and_age(storage: S3Storage) -> None:
    # Given an object, when it is listed, then its size and the moment of its writing are told
    began = time.time()
    storage.put("acme/a.png", b"12345", content_type="image/png")
    (entry,) = storage.entries("acme/")
    assert (entry.key, entry.size_bytes) == ("acme/a.png", 5)
    assert began - 2 <= entry.modified_at <= time.time() + 2


def test_a_conditional_write_never_overwrites(storage: S3Storage) -> None:
    storage.put("k", b"1", content_type="text/plain", if_absent=True)
    with pytest.raises(ObjectExists):
        storage.put("k", b"2", content_type="text/plain", if_absent=True)
    assert storage.get("k") == b"1"


def test_check_passes_and_leaves_nothing(storage: S3Storage) -> None:
    storage.check()
    assert list(storage.list("")) == []
    assert storage.describe() == "s3://bucket/pre/fix/ at AWS us-east-1"


def test_a_wrong_bucket_is_named_by_every_method(storage: S3Storage, settings: Settings) -> None:
    wrong = S3Storage("no-such-bucket", "", settings)
    calls: list[Callable[[], Any]] = [
        wrong.check,
        lambda: wrong.get("k"),
        lambda: wrong.exists("k"),
        lambda: wrong.put("k", b"", content_type="text/plain"),
        lambda: wrong.put("k", b"", content_type="text/plain", if_absent=True),
        lambda: list(wrong.list("")),
    ]
    for call in calls:
        with pytest.raises(BucketMissing, match="no-such-bucket"):
            call()


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ((403, "AccessDenied"), StorageDenied),
        ((403, "SignatureDoesNotMatch"), StorageDenied),
        ((403, "RequestTimeTooSkewed"), StorageDenied),
        ((400, "ExpiredToken"), StorageDenied),
        ((400, "AuthorizationHeaderMalformed"), StorageDenied),
        ((404, "NoSuchBucket"), BucketMissing),
        ((404, "NoSuchKey"), ObjectMissing),
        ((500, "InternalError"), StorageUnavailable),
        ((502, ""), StorageUnavailable),
        ((503, "SlowDown"), StorageUnavailable),
        ((429, "TooManyRequests"), StorageUnavailable),
        ((507, "XMinioStorageFull"), StorageFull),
        ((507, ""), StorageFull),
        ((400, "QuotaExceeded"), StorageFull),
        ((400, "InvalidArgument"), StorageError),
        (botocore.exceptions.EndpointConnectionError(endpoint_url=ENDPOINT), StorageUnavailable),
        (botocore.exceptions.ConnectTimeoutError(endpoint_url=ENDPOINT), StorageUnavailable),
        (botocore.exceptions.ReadTimeoutError(endpoint_url=ENDPOINT), StorageUnavailable),
        (botocore.exceptions.ConnectionClosedError(endpoint_url=ENDPOINT), StorageUnavailable),
        (botocore.exceptions.SSLError(endpoint_url=ENDPOINT, error="x"), StorageUnavailable),
    ],
)
def test_what_a_server_answers_becomes_what_can_be_done(
    answer: tuple[int, str] | Exception, wanted: type[StorageError], settings: Settings
) -> None:
    # Given a server that answers so
    storage = answering(settings, answer)
    # When an object is read
    with pytest.raises(StorageError) as caught:
        storage.get("some/key")
    # Then the error is exactly of that class, names the place, and repeats nothing the server wrote
    assert type(caught.value) is wanted
    assert "bucket" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "AKIDEXAMPLE" not in str(caught.value)


@pytest.mark.parametrize("answer", [(409, "ConditionalRequestConflict"), (409, "OperationAborted")])
def test_a_conflict_is_tried_again_and_is_no_object(answer: tuple[int, str], settings: Settings) -> None:
    # Given a server that cannot decide twice, and then can
    answering(settings, answer, answer, (200, "")).put("k", b"x", content_type="text/plain", if_absent=True)
    # And one that never can
    with pytest.raises(StorageUnavailable, match="3 times"):
        answering(settings, answer).put("k", b"x", content_type="text/plain", if_absent=True)


def test_a_write_whose_answer_was_lost_is_not_mistaken_for_another_writer(storage: S3Storage) -> None:
    # Given a server that stores the first PUT, and a connection that loses the answer
    client, sent = storage.server.client, []

    def lose_first_answer(params: dict[str, Any], **_: Any) -> None:
        sent.append(params)
        if len(sent) == 1:
            stored = {name: params["headers"][name] for name in params["headers"] if name.startswith("x-amz-meta-")}
            metadata = {name.removeprefix("x-amz-meta-"): value for name, value in stored.items()}
            client.put_object(Bucket="bucket", Key="pre/fix/k", Body=b"x", Metadata=metadata)

    client.meta.events.register_first("before-call.s3.PutObject", lose_first_answer)
    # When the conditional write is told 412 because of its own first try
    storage.put("k", b"x", content_type="text/plain", if_absent=True)
    # Then it counts as written; and the next writer's does not
    assert storage.get("k") == b"x"
    with pytest.raises(ObjectExists):
        storage.put("k", b"x", content_type="text/plain", if_absent=True)


def test_a_server_without_conditional_writes_is_found_out(storage: S3Storage) -> None:
    # Given a server that ignores If-None-Match
    def ignore(params: dict[str, Any], **_: Any) -> None:
        params["headers"].pop("If-None-Match", None)

    storage.server.client.meta.events.register("before-call.s3.PutObject", ignore)
    # Then the check says so, and leaves nothing behind
    with pytest.raises(ConditionalWriteMissing, match="If-None-Match"):
        storage.check()
    assert list(storage.list("")) == []


def test_keys_that_may_not_see_the_bucket_can_still_be_told_that_an_object_is_missing(settings: Settings) -> None:
    # Given a server that answers 404 for the object and 403 for the bucket
    assert answering(settings, (404, ""), (403, "")).exists("k") is False
    # And a bucket that is seen is asked for once only
    storage = answering(settings, (404, ""), (200, ""), (404, ""), (500, ""))
    assert not storage.exists("k")
    assert not storage.exists("k")


def test_a_server_that_gives_back_other_bytes_is_found_out(settings: Settings) -> None:
    with pytest.raises(StorageUnavailable, match="other bytes"):
        answering(settings, (200, "")).check()


def test_keys_are_missing(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageDenied, match="AWS_ACCESS_KEY_ID"):
        S3Storage("bucket", "", settings).get("k")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageDenied, match="AWS_PROFILE"):
        S3Storage("bucket", "", settings).get("k")


def test_a_presigned_url_names_key_and_life_and_no_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    there = settings.model_copy(update={"s3_endpoint_url": ENDPOINT, "s3_region": "eu-north-1"})
    parts = urlsplit(open_storage("s3://bucket/pre", there).url("a b/c.png", 90))
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.netloc, parts.path) == ("http", "s3.example.test:9000", "/bucket/pre/a%20b/c.png")
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["90"]
    assert "/eu-north-1/s3/aws4_request" in query["X-Amz-Credential"][0]
    assert SECRET not in parts.query


@pytest.mark.parametrize("seconds", [0, -1, 7 * 24 * 3600 + 1])
def test_a_life_that_no_server_takes_is_refused(settings: Settings, seconds: int) -> None:
    with pytest.raises(SettingsInvalid, match="604800"):
        S3Storage("bucket", "", settings).url("k", seconds)


@pytest.mark.parametrize("endpoint", ["s3.example.com", "ftp://s3.example.com", "http://", f"http://me:{SECRET}@host"])
def test_a_wrong_endpoint_is_refused_without_showing_it(endpoint: str, settings: Settings) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        open_storage("s3://bucket", settings.model_copy(update={"s3_endpoint_url": endpoint}))
    assert SECRET not in str(caught.value)


def test_each_process_makes_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a client in this process
    server = S3Server("", "us-east-1")
    first = server.client
    assert server.client is first
    # When the process is another one, as after a fork
    monkeypatch.setattr(os, "getpid", lambda: -1)
    # Then it gets another client, and keeps that one
    second = server.client
    assert second is not first
    assert server.client is second


def test_threads_share_a_store(storage: S3Storage) -> None:
    failed: list[JobsError] = []

    def write(number: int) -> None:
        try:
            storage.put(f"t/{number}", b"x", content_type="text/plain", if_absent=True)
        except JobsError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(list(storage.list("t/"))) == 8


@pytest.mark.parametrize("seconds", [0, -1, 86_401, 604_800])
def test_a_life_of_urls_that_is_none_or_too_long_is_refused(seconds: int) -> None:
    # Whoever has a URL sees the picture: a day at most
    with pytest.raises(ValidationError, match="url_expires_seconds"):
        Settings(url_expires_seconds=seconds)
    assert Settings(url_expires_seconds=86_400).url_expires_seconds == 86_400
