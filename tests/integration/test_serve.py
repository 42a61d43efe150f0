"""`portraits serve` as a process: photos sent to a real S3 server, a job over HTTP, drawn, and seen on pages."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from queue_world import World
from queue_world import settings as queue_settings
from s3_server import S3Server
from serving import serving

from jobs import tokens
from jobs.database import Database
from jobs.settings import Settings
from jobs.storage import Announced, open_storage
from worker.testing import FakeRenderer

TENANT = "acme"


def photo(colour: str) -> bytes:
    """A JPEG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (120, 90), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def announced(data: bytes) -> dict[str, Any]:
    """What `POST /photos` is told."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "media_type": "image/jpeg"}


def manifest(source: str, key: str = "spring") -> dict[str, Any]:
    """A job of one person."""
    return {
        "key": key,
        "profile": "fake",
        "defaults": {"size": 64, "steps": 2},
        "prompts": [{"name": "office", "text": "portrait of {subject}", "seeds": 2}],
        "identities": [{"id": "ada", "subject": "a woman", "photos": [source]}],
    }


@pytest.fixture
def s3_settings(
    s3_server: S3Server, database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with a prefix of the bucket that is this test's own."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    storage_url = f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    return queue_settings(tmp_path / "home", database_url, storage_url=storage_url, s3_endpoint_url=s3_server.endpoint)


def environment_of(settings: Settings) -> dict[str, str]:
    """The same for a process."""
    return {
        "PORTRAITS_HOME": str(settings.home),
        "PORTRAITS_DATABASE_URL": settings.database_url.get_secret_value(),
        "PORTRAITS_STORAGE_URL": settings.storage_url,
        "PORTRAITS_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "PORTRAITS_LOG_FORMAT": "json",
    }


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client that sends nothing of its own along."""
    with httpx.Client(timeout=60, trust_env=False) as made:
        yield made


@pytest.mark.s3
def test_from_a_photo_to_a_page_over_s3(
    s3_settings: Settings, database: Database, client: httpx.Client, tmp_path: Path
) -> None:
    # Given a server over a bucket, and a token that may write
    token = tokens.create(database, TENANT, "test", may_write=True).text
    shown = {"Authorization": f"Bearer {token}"}
    data, other = photo("teal"), photo("navy")
    with serving(environment_of(s3_settings), tmp_path / "serve.log") as server:
        # When a photo is announced, then its address is the store's own, and takes these very bytes only
        place = client.post(f"{server.address}/photos", json=announced(data), headers=shown).json()
        assert place["url"].startswith(s3_settings.s3_endpoint_url) and place["method"] == "PUT"
        wrong = client.put(
            place["url"], content=other + b"x", headers={**place["headers"], "Content-Length": str(len(other) + 1)}
        )
        assert wrong.status_code in (400, 403), wrong.text
        assert client.put(place["url"], content=data, headers=place["headers"]).status_code == 200

        # And a job that names it is taken, and drawn by a worker
        answer = client.post(f"{server.address}/jobs", json=manifest(place["source"]), headers=shown)
        assert answer.status_code == 201, answer.text
        job = answer.json()["job_id"]
        storage = open_storage(s3_settings.storage_url, s3_settings)
        assert [key.rpartition("/")[0] for key in storage.list("")] == [
            f"{TENANT}/photos/{announced(data)['sha256'][:2]}"
        ]
        World(database, s3_settings, FakeRenderer()).shift()
        found = client.get(f"{server.address}/jobs/{job}", headers=shown).json()
        assert (found["state"], found["done"]) == ("done", 2)

        # And its pages show it to whoever logs in; the picture itself comes from the store
        page = client.post(f"{server.address}/login", data={"token": token}, follow_redirects=True)
        assert page.status_code == 200 and "spring" in page.text
        assert s3_settings.s3_endpoint_url in page.headers["content-security-policy"]
        picture = client.get(f"{server.address}/api/v1/jobs/{job}/pictures", headers=shown).json()["pictures"][0]
        led = client.get(f"{server.address}/pictures/{picture['render_id']}/file")
        assert led.status_code == 307 and led.headers["location"].startswith(s3_settings.s3_endpoint_url)
        drawn = client.get(led.headers["location"])
        assert hashlib.sha256(drawn.content).hexdigest() == picture["sha256"]
        small = client.get(f"{server.address}/pictures/{picture['render_id']}/thumbnail")
        assert small.headers["content-type"] == "image/webp"

    # And what it wrote down holds no token, no signature and no cookie
    log = (tmp_path / "serve.log").read_text()
    assert "GET /jobs/" in log and "/photos" in log
    for secret in (token.partition(".")[2], "X-Amz-Signature", "portraits_session"):
        assert secret not in log


@pytest.mark.s3
def test_where_clients_do_not_reach_the_store_all_goes_through_here(
    s3_settings: Settings, database: Database, client: httpx.Client, tmp_path: Path
) -> None:
    token = tokens.create(database, TENANT, "test", may_write=True).text
    shown, data = {"Authorization": f"Bearer {token}"}, photo("teal")
    environment = {**environment_of(s3_settings), "PORTRAITS_SERVE_DIRECT": "false"}
    with serving(environment, tmp_path / "serve.log") as server:
        place = client.post(f"{server.address}/photos", json=announced(data), headers=shown).json()
        assert place["url"].startswith(f"{server.address}/api/v1/uploads/")
        assert client.put(place["url"], content=data, headers=place["headers"]).status_code == 204
        job = client.post(f"{server.address}/jobs", json=manifest(place["source"]), headers=shown).json()["job_id"]
        World(database, s3_settings, FakeRenderer()).shift()
        picture = client.get(f"{server.address}/jobs/{job}/pictures", headers=shown).json()["pictures"][0]
        file = client.get(f"{server.address}/pictures/{picture['render_id']}/file", headers=shown)
        assert (file.status_code, file.headers["content-type"]) == (200, "image/png")
        assert hashlib.sha256(file.content).hexdigest() == picture["sha256"]
    assert place["url"].rpartition("/")[2] not in (tmp_path / "serve.log").read_text()


@pytest.mark.s3
def test_the_address_of_the_store_binds_the_hash(s3_settings: Settings, client: httpx.Client) -> None:
    # Given an address for some bytes, and others of the same length
    storage = open_storage(s3_settings.storage_url, s3_settings)
    data = photo("teal")
    other = data[:-2] + b"xx"
    what = Announced(hashlib.sha256(data).hexdigest(), len(data), "image/jpeg")
    place = storage.put_address("acme/uploads/x", what, 60)
    assert place is not None
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()

    # Then the hash is part of what is signed, so that another one is refused
    told = {**place.headers, "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(other).digest()).decode()}
    assert client.put(place.url, content=other, headers=told).status_code in (400, 403)
    assert checksum in place.headers.values() or "checksum" in place.url.lower()
    assert client.put(place.url, content=data, headers=place.headers).status_code == 200
    assert storage.get("acme/uploads/x") == data


def test_it_ends_in_good_order_and_says_when_it_cannot_begin(
    database: Database, database_url: str, client: httpx.Client, tmp_path: Path
) -> None:
    settings = queue_settings(tmp_path / "home", database_url)
    environment = {"PORTRAITS_HOME": str(settings.home), "PORTRAITS_DATABASE_URL": database_url}
    with serving(environment, tmp_path / "serve.log") as server:
        assert client.get(f"{server.address}/readyz").json() == {"ready": True}
        # A second one on the same port says so
        port = server.address.rpartition(":")[2]
        from worker.cli.serve import _listen

        with pytest.raises(Exception, match=f"cannot listen on 127.0.0.1:{port}"):
            _listen("127.0.0.1", int(port))
        # Connections that are kept alive do not hold it up
        assert client.get(f"{server.address}/healthz").status_code == 200
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(30) == 0
