"""What surrounds the processes: TLS on the way to each service, the clock, and room on the disks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import make_url, select, text

from jobs.database import Database, epoch_now
from jobs.errors import JobsError
from jobs.settings import Settings
from worker.doctor.findings import Finding, State

TOPIC = "surroundings"
SKEW_NOTE_SECONDS, SKEW_PROBLEM_SECONDS = 2.0, 30.0
ROOM_NOTE_BYTES, ROOM_PROBLEM_BYTES = 5 * 1024**3, 512 * 1024**2
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_ENCRYPTED = {"amqps", "rediss", "https", "sqs"}


def examine(settings: Settings, *, database_answers: bool) -> Iterator[Finding]:
    """TLS, clock and disks."""
    if database_answers:
        yield from _of_database(settings)
    yield from _ways(settings)
    yield from _disks(settings)


def _of_database(settings: Settings) -> Iterator[Finding]:
    """Whether this connection is encrypted, and how far this machine's clock is from the database's."""
    try:
        database = Database.from_settings(settings)
        try:
            with database.reading() as tx:
                before = time.time()
                theirs = tx.execute(select(epoch_now())).scalar_one()
                after = time.time()
                encrypted = None
                if not database.is_sqlite:
                    asked = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                    encrypted = bool(tx.execute(asked).scalar_one_or_none())
        finally:
            database.dispose()
    except JobsError as error:
        yield Finding(TOPIC, "clock", "problem", str(error), "check PORTRAITS_DATABASE_URL")
        return
    if encrypted is not None:
        url = make_url(settings.database_url.get_secret_value())
        yield _way("database", str(url.host or ""), encrypted, "add sslmode=verify-full to PORTRAITS_DATABASE_URL")
    # Of the time that the answer took nobody knows which half came first.
    skew = max(before - theirs, theirs - after, 0.0)
    yield _clock(skew)


def _clock(skew: float) -> Finding:
    state: State = "ok" if skew < SKEW_NOTE_SECONDS else "note" if skew < SKEW_PROBLEM_SECONDS else "problem"
    hint = "let both machines keep time (NTP): presigned URLs, tokens and signatures are refused by a wrong clock"
    told = f"{skew:.1f} s apart from the database's" if skew >= 0.1 else "the same as the database's"
    return Finding(TOPIC, "clock", state, told, "" if state == "ok" else hint)


def _ways(settings: Settings) -> Iterator[Finding]:
    """Whether messages and pictures travel encrypted."""
    broker = urlsplit(settings.broker_url.get_secret_value())
    if broker.hostname is not None and broker.scheme not in {"filesystem"} and not broker.scheme.startswith("sqla"):
        hint = "use amqps:// or rediss:// in PORTRAITS_BROKER_URL"
        yield _way("broker", broker.hostname, broker.scheme in _ENCRYPTED, hint)
    if settings.storage_url.startswith("s3://"):
        endpoint = urlsplit(settings.s3_endpoint_url or "https://aws")
        hint = "use https:// in PORTRAITS_S3_ENDPOINT_URL"
        yield _way("storage", endpoint.hostname or "", endpoint.scheme == "https", hint)
    if settings.serve_url:
        parts = urlsplit(settings.serve_url)
        hint = "use https:// in PORTRAITS_SERVE_URL, and a proxy or --certificate: tokens and photos travel there"
        yield _way("serve", parts.hostname or "", parts.scheme == "https", hint)


def _way(name: str, host: str, encrypted: bool, hint: str) -> Finding:
    if encrypted:
        return Finding(TOPIC, f"TLS to {name}", "ok", "encrypted")
    if not host or host in _LOCAL or host.startswith("/"):
        return Finding(TOPIC, f"TLS to {name}", "ok", "not encrypted, and on this machine")
    return Finding(TOPIC, f"TLS to {name}", "note", f"not encrypted on the way to {host}", hint)


def _disks(settings: Settings) -> Iterator[Finding]:
    """Room where this machine writes, each disk once."""
    places = {"home": settings.home, "spool": settings.spool or settings.home / "spool"}
    if settings.storage_url.startswith("file://"):
        places["objects"] = Path(unquote(urlsplit(settings.storage_url).path))
    seen: dict[int, str] = {}
    for name, place in places.items():
        there = next((one for one in (place, *place.parents) if one.exists()), Path("/"))
        device = there.stat().st_dev
        if device in seen:
            continue
        seen[device] = name
        yield _room(name, there)


def _room(name: str, place: Path) -> Finding:
    usage = shutil.disk_usage(place)
    told = f"{usage.free / 1024**3:.1f} of {usage.total / 1024**3:.1f} GiB free at {place}"
    if usage.free < ROOM_PROBLEM_BYTES:
        return Finding(TOPIC, f"disk of {name}", "problem", told, "make room: nothing can be kept on a full disk")
    if usage.free < ROOM_NOTE_BYTES:
        return Finding(TOPIC, f"disk of {name}", "note", told, "make room soon")
    return Finding(TOPIC, f"disk of {name}", "ok", told)
