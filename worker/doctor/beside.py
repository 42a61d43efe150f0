"""What stands beside the queue: the clerk, webhooks, galleries, tokens, and the ports of metrics."""

from __future__ import annotations

import datetime as dt
import errno
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from sqlalchemy import Connection

from jobs.clerk.process import OFFICE
from jobs.database import Database
from jobs.errors import JobsError
from jobs.orm import utcnow
from jobs.repository import beside as rows
from jobs.repository import galleries
from jobs.settings import Settings
from jobs.webhooks import failing
from worker.doctor.findings import Finding, State

TOPIC = "beside the queue"
LATE_SECONDS, SOON = 300.0, dt.timedelta(days=14)
SHOWN = 3


def examine(settings: Settings) -> Iterator[Finding]:
    """What the database says of it; a login that may not read something says so."""
    looks: dict[str, Callable[[Connection, Settings], Iterator[Finding]]] = {
        "clerk": _clerk,
        "webhooks": _webhooks,
        "galleries": _galleries,
        "tokens": _tokens,
    }
    database = Database.from_settings(settings)
    try:
        for name, look in looks.items():
            try:
                with database.reading() as tx:
                    found = list(look(tx, settings))
            except JobsError as error:
                yield Finding(TOPIC, name, "note", str(error), "look as the tables' owner, or as a worker's login")
            else:
                yield from found
    finally:
        database.dispose()


def _clerk(tx: Connection, settings: Settings) -> Iterator[Finding]:
    lives, oldest = rows.holder(tx, OFFICE), rows.oldest_untold(tx)
    late = 0.0 if oldest is None else (utcnow() - oldest).total_seconds()
    hint = "`portraits worker` starts one" if settings.clerk == "auto" else "start `portraits clerk`"
    if late > LATE_SECONDS:
        told = f"an end waits for {_span(late)} to be told; " + ("a clerk runs" if lives else "no clerk runs")
        yield Finding(TOPIC, "clerk", "problem", told, "see the clerk's log" if lives else hint)
    elif lives is None:
        yield Finding(TOPIC, "clerk", "note", "none runs, so nobody is told of ends, and no gallery is made", hint)
    else:
        yield Finding(TOPIC, "clerk", "ok", f"runs on {lives.split(':', 1)[0]}")


def _webhooks(tx: Connection, _settings: Settings) -> Iterator[Finding]:
    count, failed = rows.webhooks(tx), rows.failing_webhooks(tx)
    if not failed:
        yield Finding(TOPIC, "webhooks", "ok", f"{count} of them, all take messages" if count else "none is wanted")
    for row in failed[:SHOWN]:
        state: State = "problem" if row["disabled_reason"] else "note"
        told = row["disabled_reason"] or (
            f"{failing(row['last_error'])}, {row['failures']} tries, {row['waiting']} messages wait"
        )
        named = f"{row['id']} --tenant {row['tenant_id']}"
        hint = f"`portraits webhooks deliveries {named}` says why; mend it, then `portraits webhooks retry {named}`"
        yield Finding(TOPIC, f"webhook {row['id']}", state, str(told), hint)
    if len(failed) > SHOWN:
        more = f"{len(failed) - SHOWN} more do not take messages"
        yield Finding(TOPIC, "webhooks", "note", more, "`portraits webhooks list --tenant TENANT` shows them")


def _galleries(tx: Connection, _settings: Settings) -> Iterator[Finding]:
    faults, overdue = galleries.faults(tx), galleries.overdue_seconds(tx)
    for row in faults[:SHOWN]:
        state: State = "note" if row["due_at"] is not None else "problem"
        told = f"of job {row['job_id']} could not be made after {row['attempts']} tries: {row['error']}"
        hint = f"`portraits gallery {row['job_id']} --tenant {row['tenant_id']} --build` tries it now"
        yield Finding(TOPIC, "gallery", state, told, hint)
    if overdue is not None and overdue > LATE_SECONDS:
        yield Finding(TOPIC, "galleries", "note", f"one waits for {_span(overdue)} to be made", "see the clerk's log")
    elif not faults:
        yield Finding(TOPIC, "galleries", "ok", "none waits" if overdue is None else "one is due")


def _tokens(tx: Connection, _settings: Settings) -> Iterator[Finding]:
    found = rows.tokens(tx, soon=SOON)
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        hint = "pip install 'hyperlora-portraits[serve]' where `portraits serve` is to run"
        yield Finding(TOPIC, "serve", "note", "not installed on this machine", hint)
    if not found.valid:
        hint = "`portraits tokens create NAME` lets somebody in"
        yield Finding(TOPIC, "tokens", "note", "none, so nobody can ask `portraits serve` for anything", hint)
    elif found.expiring:
        told = f"{found.valid} are valid, {found.expiring} of them end within {SOON.days} days"
        yield Finding(TOPIC, "tokens", "note", told, "`portraits tokens list` shows them; make new ones in time")
    else:
        yield Finding(TOPIC, "tokens", "ok", f"{found.valid} are valid")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether metrics are answered, as far as this machine tells."""
    port, host = settings.metrics_port, settings.metrics_host
    if not port:
        hint = "set PORTRAITS_METRICS_PORT to let Prometheus ask workers; see telemetry.md"
        yield Finding(TOPIC, "metrics", "note", "workers answer none", hint)
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield Finding(TOPIC, "metrics", "ok", f"somebody answers on {host}:{port}, a worker if one runs here")
        else:
            hint = "choose an address of this machine and a port above 1023"
            yield Finding(TOPIC, "metrics", "problem", f"{host}:{port} cannot be had: {error.strerror}", hint)
    else:
        yield Finding(TOPIC, "metrics", "ok", f"a worker will answer on {host}:{port}, which is free")


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.0f} minutes"
