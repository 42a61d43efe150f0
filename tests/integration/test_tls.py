"""Broker and store are reached with TLS under certificates that are trusted, and under no other; so is the database."""

from __future__ import annotations

import ssl
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from s3_server import S3Server
from services import POSTGRES_URL, RABBITMQ_URL, REDIS_URL, missing
from tls_relay import Authority, make_authority, tls_in_front_of

from jobs.broker import Broker, make_app
from jobs.database import Database
from jobs.errors import BrokerUnavailable, DatabaseUnavailable, SettingsInvalid, StorageUnavailable
from jobs.settings import Settings
from jobs.storage import open_storage


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """A CA that the server's certificate is not of."""
    return make_authority(tmp_path / "theirs")


def broker(tmp_path: Path, url: str, **files: Path) -> Broker:
    name = f"portraits-tls-{uuid.uuid4().hex[:8]}"
    return Broker(Settings(home=tmp_path, broker_url=url, queue=name, **files))  # type: ignore[arg-type]


def assert_untrusted(home: Path, url: str, stranger: Authority) -> None:
    """A broker whose certificate is another's, or nobody's that is known, is not spoken to."""
    for files in ({"broker_ca_file": stranger.ca}, {}):
        other = broker(home, url, **files)
        with pytest.raises(BrokerUnavailable):
            other.check()
        other.close()


@pytest.mark.redis
def test_a_broker_on_redis_is_reached_with_tls_and_only_if_it_is_trusted(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    # Given Redis behind TLS
    parts = urlsplit(REDIS_URL)
    try:
        redis.Redis.from_url(REDIS_URL, socket_connect_timeout=5).ping()
    except redis.RedisError:
        missing("Redis (PORTRAITS_TEST_REDIS_URL)")
    with tls_in_front_of(parts.hostname or "", parts.port or 6379, authority) as port:
        url = f"rediss://127.0.0.1:{port}/13"

        # When its CA is named, then messages are sent
        ours = broker(tmp_path, url, broker_ca_file=authority.ca)
        assert ours.send([uuid.uuid4()]) == 1
        ours.close()

        # And when another is named, or none, then nothing is sent
        assert_untrusted(tmp_path, url, stranger)


@pytest.mark.rabbitmq
def test_a_broker_on_rabbitmq_is_reached_with_tls_and_only_if_it_is_trusted(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    # Given RabbitMQ behind TLS
    parts = urlsplit(RABBITMQ_URL)
    try:
        plain = broker(tmp_path, f"{RABBITMQ_URL}//")
        plain.check()
        plain.close()
    except BrokerUnavailable:
        missing("RabbitMQ (PORTRAITS_TEST_RABBITMQ_URL)")
    with tls_in_front_of(parts.hostname or "", parts.port or 5672, authority) as port:
        url = f"amqps://{parts.username}:{parts.password}@127.0.0.1:{port}//"

        # When its CA is named, then it answers; under another, or under none, it does not
        ours = broker(tmp_path, url, broker_ca_file=authority.ca)
        ours.check()
        ours.close()
        assert_untrusted(tmp_path, url, stranger)


@pytest.mark.s3
def test_a_store_is_reached_with_tls_and_only_if_it_is_trusted(
    tmp_path: Path, authority: Authority, stranger: Authority, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an S3 server behind TLS
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    parts = urlsplit(s3_server.endpoint)
    with tls_in_front_of(parts.hostname or "", parts.port or 0, authority) as port:
        place = {"storage_url": f"s3://{s3_server.bucket}/tls", "s3_endpoint_url": f"https://127.0.0.1:{port}"}

        # When its CA is named, then objects come and go; under another the store does not answer
        ours = Settings(home=tmp_path, **place, s3_ca_file=authority.ca)  # type: ignore[arg-type]
        open_storage(ours.storage_url, ours).check()
        theirs = Settings(home=tmp_path, **place, s3_ca_file=stranger.ca)  # type: ignore[arg-type]
        with pytest.raises(StorageUnavailable):
            open_storage(theirs.storage_url, theirs).check()


@pytest.mark.postgres
def test_a_database_that_must_be_verified_is_not_reached_in_the_clear(authority: Authority) -> None:
    # Given a PostgreSQL that offers no TLS, or none that this CA knows
    url = POSTGRES_URL.replace("postgresql://", "postgresql+psycopg://")

    # When the URL wants its certificate verified, then there is no connection, rather than one in the clear
    checked = Database(f"{url}?sslmode=verify-full&sslrootcert={authority.ca}")
    with pytest.raises(DatabaseUnavailable, match=r"SSL|certificate"), checked.reading():
        pass
    checked.dispose()


def test_files_are_handed_to_the_transport_and_checked_first(tmp_path: Path, authority: Authority) -> None:
    # Given files for a broker with TLS
    files = {
        "broker_ca_file": authority.ca,
        "broker_cert_file": authority.certificate,
        "broker_key_file": authority.key,
    }

    # When the app is made, then the transport gets them, and must verify certificate and host
    redis_app = make_app(Settings(home=tmp_path, broker_url="rediss://redis.test:6380/0", **files))  # type: ignore[arg-type]
    assert redis_app.conf.broker_use_ssl == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": str(authority.ca),
        "ssl_certfile": str(authority.certificate),
        "ssl_keyfile": str(authority.key),
    }
    rabbit = make_app(Settings(home=tmp_path, broker_url="amqps://rabbit.test//", **files))  # type: ignore[arg-type]
    assert rabbit.conf.broker_use_ssl["server_hostname"] == "rabbit.test"
    assert rabbit.conf.broker_use_ssl["cert_reqs"] == ssl.CERT_REQUIRED

    # And a file that is not there, or is of no use, is told at once
    gone = {"broker_ca_file": tmp_path / "none.pem"}
    with pytest.raises(SettingsInvalid, match="PORTRAITS_BROKER_CA_FILE"):
        make_app(Settings(home=tmp_path, broker_url="rediss://redis.test/0", **gone))  # type: ignore[arg-type]
    with pytest.raises(SettingsInvalid, match="wanted rediss:// or amqps://"):
        make_app(Settings(home=tmp_path, broker_url="redis://redis.test/0", **files))  # type: ignore[arg-type]
