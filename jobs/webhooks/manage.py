"""A tenant's webhooks: adding, looking at, trying, removing them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import UnknownWebhook, WebhookRefused, WebhookSilent
from jobs.reports import opened
from jobs.repository import deliveries
from jobs.repository import webhooks as rows
from jobs.repository.deliveries import JOB_ENDED
from jobs.settings import Settings
from jobs.webhooks.addresses import Resolver, Rules, allowed_addresses, check_url, system_resolver
from jobs.webhooks.connection import Connection
from jobs.webhooks.delivering import try_once
from jobs.webhooks.signing import check_secret, new_secret


@dataclass(frozen=True)
class Added:
    """A webhook that was added; its secret, which is shown once; what is wrong with its address now, if anything."""

    id: uuid.UUID
    secret: str
    warning: str = ""


@dataclass(frozen=True)
class Ping:
    """What came of a ping."""

    delivery_id: uuid.UUID
    taken: bool
    status: int | None
    error: str
    seconds: float


def add(
    url: str,
    *,
    kinds: Sequence[str] = (JOB_ENDED,),
    secret: str | None = None,
    tenant: str | None = None,
    settings: Settings | None = None,
    resolver: Resolver = system_resolver,
) -> Added:
    """Tell this URL of these kinds of ends from now on. Raises WebhookRefused, SettingsInvalid.

    A name that cannot be resolved now is taken with a warning, as it may be later; one that points inside is refused.
    """
    chosen_secret = new_secret() if secret is None else check_secret(secret)
    with opened(settings) as (chosen, database):
        rules, warning = Rules.from_settings(chosen), ""
        host, port = check_url(url, rules)
        try:
            allowed_addresses(host, port, rules, resolver)
        except WebhookSilent as error:
            warning = str(error)
        owner = tenant or chosen.tenant
        with database.transaction(owner) as tx:
            webhook_id = rows.add(tx, owner, url=url, secret=chosen_secret, kinds=kinds)
    return Added(webhook_id, chosen_secret, warning)


def every(*, tenant: str | None = None, settings: Settings | None = None) -> list[dict[str, Any]]:
    """A tenant's webhooks with how they fare, without their secrets."""
    with opened(settings) as (chosen, database):
        owner = tenant or chosen.tenant
        with database.reading(owner) as tx:
            return [dict(row) for row in rows.every(tx, owner)]


def failing(last_error: str | None) -> str:
    """Why an endpoint takes nothing, by its `last_error`: it is silent, or the settings do not let it be told."""
    is_refused = (last_error or "").startswith(f"{WebhookRefused.code}:")
    return "refused by this installation's settings" if is_refused else "does not answer"


def remove(webhook_id: uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None) -> None:
    """Tell this webhook nothing more, and forget what it was told. Raises UnknownWebhook."""
    with opened(settings) as (chosen, database):
        owner = tenant or chosen.tenant
        with database.transaction(owner) as tx:
            if not rows.remove(tx, owner, webhook_id):
                raise _unknown(owner, webhook_id)


def retry(webhook_id: uuid.UUID, *, tenant: str | None = None, settings: Settings | None = None) -> int:
    """Enable a webhook and try again at once what waits or was given up; how many messages. Raises UnknownWebhook."""
    with opened(settings) as (chosen, database):
        owner = tenant or chosen.tenant
        with database.transaction(owner) as tx:
            if not rows.enable(tx, owner, webhook_id):
                raise _unknown(owner, webhook_id)
            return deliveries.retry(tx, owner, webhook_id)


def latest(
    webhook_id: uuid.UUID | None = None,
    *,
    limit: int = 50,
    tenant: str | None = None,
    settings: Settings | None = None,
) -> list[dict[str, Any]]:
    """The newest deliveries of a webhook, or of all of a tenant's: state, tries, what the endpoint said last."""
    with opened(settings) as (chosen, database):
        owner = tenant or chosen.tenant
        with database.reading(owner) as tx:
            if webhook_id is not None and rows.find(tx, owner, webhook_id) is None:
                raise _unknown(owner, webhook_id)
            return [dict(row) for row in deliveries.latest(tx, owner, webhook_id, limit=limit)]


def ping(
    webhook_id: uuid.UUID,
    *,
    tenant: str | None = None,
    settings: Settings | None = None,
    resolver: Resolver = system_resolver,
) -> Ping:
    """Send a message without content now, once, and tell what came of it. Raises UnknownWebhook."""
    with opened(settings) as (chosen, database):
        owner, rules = tenant or chosen.tenant, Rules.from_settings(chosen)
        with database.transaction(owner) as tx:
            endpoint = rows.find(tx, owner, webhook_id)
            if endpoint is None:
                raise _unknown(owner, webhook_id)
            due = deliveries.ping(tx, owner, webhook_id)
        began = time.monotonic()
        with Connection(
            endpoint.url, rules, timeout_seconds=chosen.webhook_timeout_seconds, resolver=resolver
        ) as connection:
            outcome = try_once(connection, endpoint, due)
        seconds = time.monotonic() - began
        with database.transaction(owner) as tx:
            if outcome.taken:
                deliveries.done(tx, owner, {due.id: outcome.status or 0})
            else:
                deliveries.give_up(tx, owner, due.id, status=outcome.status, error=outcome.error)
        return Ping(due.id, outcome.taken, outcome.status, outcome.error, seconds)


def _unknown(tenant: str, webhook_id: uuid.UUID) -> UnknownWebhook:
    return UnknownWebhook(f"tenant {tenant!r} has no webhook {webhook_id}; `portraits webhooks list` shows them")
