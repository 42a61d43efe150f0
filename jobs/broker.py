"""The broker: it wakes workers, and decides nothing.

A message names one unit. Losing, doubling or reordering messages is harmless, because the database decides who draws
what; so results are not kept, and only JSON is accepted.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport.sqlalchemy import Transport as SqlTransport
from sqlalchemy.exc import SQLAlchemyError

from jobs.errors import BrokerUnavailable, SettingsInvalid
from jobs.settings import Settings
from jobs.sqlite import use_wal
from jobs.tls import broker_tls

SHIFT_TASK, RETENTION_TASK = "portraits.shift", "portraits.retention"
# Redis hands a message out again when its worker has not acknowledged it for this long; a shift must end well before.
REDIS_VISIBILITY_SECONDS = 3 * 3600
# RabbitMQ closes the channel of a consumer that holds a message for longer than its consumer timeout (30 minutes).
RABBITMQ_CONSUMER_TIMEOUT_SECONDS = 1800
# A producer that meets a broker which is away says so within seconds; the reaper sends later.
FEW_TRIES = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
POLLING_SECONDS = 0.2
# A child that was killed may have told its result just before, and its parent takes no message while it waits for that.
# Here nobody reads results, so that Celery's 10 s are seconds in which a device does nothing.
LOST_CHILD_SECONDS = 1.0


def describe_broker(settings: Settings) -> str:
    """The broker's kind and place, without its password."""
    url = settings.broker_url.get_secret_value()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "a URL that cannot be read"
    if host is None:
        # A file or folder has no password; what is no URL may be anything, a password too.
        return url if "://" in url and "@" not in url else "no URL of a broker"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def make_app(settings: Settings, *, current: bool = False) -> Celery:
    """A Celery application for this broker: producers send with it, workers add the tasks.

    `current` makes it the process's current app; a producer's process may have a Celery of its own, left alone.

    Raises: SettingsInvalid for a broker the product was not made for.
    """
    url, options = _transport(settings)
    app = Celery("portraits", broker=url, set_as_current=current)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=settings.queue,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_lost_wait=LOST_CHILD_SECONDS,
        worker_send_task_events=settings.task_events,
        task_send_sent_event=settings.task_events,
        worker_hijack_root_logger=False,
        broker_transport_options=options,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=10,
        task_publish_retry=False,
        task_store_errors_even_if_ignored=False,
    )
    encrypted = broker_tls(settings)
    if encrypted is not None:
        app.conf.broker_use_ssl = encrypted
    if url.startswith("amqp"):
        app.conf.task_default_queue_type = "quorum"
        app.conf.task_default_exchange_type = "topic"
        app.conf.worker_detect_quorum_queues = True
    return app


def _transport(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The broker URL as kombu wants it, and the transport's options."""
    url = settings.broker_url.get_secret_value()
    scheme = urlsplit(url).scheme
    if scheme == "filesystem":
        folder = Path(urlsplit(url).path)
        if not folder.is_absolute():
            raise SettingsInvalid(
                f"PORTRAITS_BROKER_URL names the folder {str(folder)!r}; wanted an absolute one, filesystem:///folder"
            )
        for name in ("queue", "control"):
            _make_folder(folder / name)
        queue = str(folder / "queue")
        return "filesystem://", {
            "data_folder_in": queue,
            "data_folder_out": queue,
            "control_folder": str(folder / "control"),
            "polling_interval": POLLING_SECONDS,
        }
    if scheme == "sqla+sqlite":
        path = Path(url.split(":///", 1)[-1]).expanduser()
        _make_folder(path.parent)
        # As an option, the interval would be handed on to SQLAlchemy, which does not know it.
        SqlTransport.polling_interval = POLLING_SECONDS
        return url, {"creator": partial(_open_broker_file, path)}
    if scheme in {"redis", "rediss"}:
        return url, {"visibility_timeout": REDIS_VISIBILITY_SECONDS, "socket_connect_timeout": 10, **FEW_TRIES}
    if scheme in {"amqp", "amqps"}:
        if settings.shift_seconds > RABBITMQ_CONSUMER_TIMEOUT_SECONDS / 2:
            raise SettingsInvalid(
                f"PORTRAITS_SHIFT_SECONDS is {settings.shift_seconds:g}; wanted at most "
                f"{RABBITMQ_CONSUMER_TIMEOUT_SECONDS // 2}, because RabbitMQ takes a message back after "
                f"{RABBITMQ_CONSUMER_TIMEOUT_SECONDS} s"
            )
        return url, {"confirm_publish": True, **FEW_TRIES}
    raise SettingsInvalid(
        f"PORTRAITS_BROKER_URL has the scheme {scheme!r}; wanted sqla+sqlite, filesystem, redis, rediss, amqp or amqps"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid(f"the broker's folder {folder} cannot be made: {error.strerror}") from error


def _open_broker_file(path: Path) -> sqlite3.Connection:
    """A connection that waits for other processes, and commits without waiting for the disk.

    What a power cut takes from this file are wake-ups, which the reaper sends again; the jobs' own database is apart.
    """
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    use_wal(connection)
    return connection


class Broker:
    """Sends the messages that wake workers."""

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        self._app = app or make_app(settings)
        self.description = describe_broker(settings)

    def send(self, unit_ids: Iterable[uuid.UUID]) -> int:
        """Send one message for each unit; returns how many were taken.

        Raises: BrokerUnavailable (retryable) when the broker does not take them.
        """
        sent = 0
        try:
            with self._app.producer_pool.acquire(block=True, timeout=10) as producer:
                for unit_id in unit_ids:
                    self._app.send_task(SHIFT_TASK, args=[str(unit_id)], producer=producer, retry=False)
                    sent += 1
        except _broker_errors(self._app) as error:
            raise BrokerUnavailable(
                f"the broker {self.description} took {sent} messages, then did not answer"
            ) from error
        return sent

    def check(self) -> None:
        """Raise BrokerUnavailable unless the broker answers."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
        except _broker_errors(self._app) as error:
            raise BrokerUnavailable(f"the broker {self.description} does not answer") from error

    def prepare(self) -> None:
        """Declare the queue of dead letters, where the broker has such a thing (RabbitMQ).

        Messages come there once a policy says so; a policy and not an argument of the workers' queue, because RabbitMQ
        refuses other arguments for a queue that an earlier version has made. Raises: BrokerUnavailable.
        """
        if not self._is_rabbitmq():
            return
        try:
            with self._app.connection_for_write() as connection, connection.channel() as channel:
                channel.queue_declare(
                    self.dead_queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
                )
        except _broker_errors(self._app) as error:
            raise BrokerUnavailable(f"{self.dead_queue} cannot be declared at {self.description}") from error

    def counts(self) -> dict[str, int]:
        """How many messages wait, by queue; a queue that nobody has declared yet is not there.

        Raises: BrokerUnavailable.
        """
        found: dict[str, int] = {}
        names = [str(self._app.conf.task_default_queue), *([self.dead_queue] if self._is_rabbitmq() else [])]
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
                for name in names:
                    try:  # a channel each: RabbitMQ closes the one that asks for a missing queue
                        with connection.channel() as channel:
                            found[name] = channel.queue_declare(name, passive=True).message_count
                    except connection.channel_errors:
                        continue
        except _broker_errors(self._app) as error:
            raise BrokerUnavailable(f"the broker {self.description} does not answer") from error
        return found

    @property
    def dead_queue(self) -> str:
        """The queue of messages that RabbitMQ gave up to deliver."""
        return f"{self._app.conf.task_default_queue}.dead"

    def _is_rabbitmq(self) -> bool:
        return str(self._app.conf.task_default_queue_type) == "quorum"

    def close(self) -> None:
        """Close the connections."""
        self._app.close()


def _broker_errors(app: Celery) -> tuple[type[BaseException], ...]:
    """What this transport raises when its server is away."""
    with app.connection_for_write() as connection:
        own = (OperationalError, OSError, sqlite3.Error, SQLAlchemyError)
        return (*own, *connection.connection_errors, *connection.channel_errors)
