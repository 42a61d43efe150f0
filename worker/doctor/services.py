"""Whether database, broker and store answer; nothing is changed but a probe object in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.broker import Broker, describe_broker
from jobs.database import Database
from jobs.errors import JobsError
from jobs.settings import Settings
from jobs.storage import open_storage
from worker.doctor.findings import Finding


def broker(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, what waits there, and on RabbitMQ whether messages could not be delivered."""
    try:
        broker = Broker(settings)
        try:
            broker.check()
            counts, dead = broker.counts(), broker.dead_queue
        finally:
            broker.close()
    except JobsError as error:
        yield Finding("services", "broker", "problem", str(error), "check PORTRAITS_BROKER_URL")
        return
    waiting = counts.get(settings.queue)
    told = "no worker has made its queue yet" if waiting is None else f"{waiting} wake-ups wait"
    yield Finding("services", "broker", "ok", f"{describe_broker(settings)}, {told}")
    if counts.get(dead):
        hint = "the reaper has announced their units again; see the workers' logs, then purge the queue (outages.md)"
        yield Finding("services", "dead letters", "note", f"{counts[dead]} messages in {dead}", hint)
    elif dead in counts:
        yield Finding("services", "dead letters", "ok", f"none in {dead}")


def database(settings: Settings, file: Path | None) -> Finding:
    topic, name, upgrade = "services", "database", "run `portraits db upgrade`"
    if file is not None and not file.exists():
        return Finding(topic, name, "problem", f"{file} is not made yet", upgrade)
    try:
        database = Database.from_settings(settings)
        try:
            found, wanted = database.revisions()
        finally:
            database.dispose()
    except JobsError as error:
        return Finding(topic, name, "problem", str(error), "check PORTRAITS_DATABASE_URL, and that the server runs")
    if found != wanted:
        return Finding(topic, name, "problem", f"{database} is at schema {found or 'none'}, wanted {wanted}", upgrade)
    return Finding(topic, name, "ok", f"{database}, schema {found}")


def storage(settings: Settings) -> Finding:
    hint = "check PORTRAITS_STORAGE_URL and PORTRAITS_S3_ENDPOINT_URL, and the AWS_* variables with the keys"
    try:
        storage = open_storage(settings.storage_url, settings)
        storage.check()
    except JobsError as error:
        return Finding("services", "storage", "problem", str(error), hint)
    return Finding("services", "storage", "ok", f"{storage.describe()}: writes, reads, refuses to overwrite, deletes")
