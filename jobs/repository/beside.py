"""How what stands beside the queue fares, over all tenants, for whoever looks after the installation."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, func, or_, select

from jobs.database import epoch_now
from jobs.models import Unit
from jobs.models_fleet import Leader
from jobs.models_outside import Delivery, Token, Webhook
from jobs.orm import utcnow
from jobs.repository.ends import is_untold
from jobs.repository.webhooks import last_error


@dataclass(frozen=True)
class Tokens:
    """How many tokens may be used now, and how many of them expire soon."""

    valid: int
    expiring: int


def holder(tx: Connection, office: str) -> str | None:
    """Who holds an office now; None where nobody does."""
    held = (Leader.name == office, Leader.owner.is_not(None), Leader.until > epoch_now())
    return tx.execute(select(Leader.owner).where(*held)).scalar_one_or_none()


def oldest_untold(tx: Connection) -> dt.datetime | None:
    """Since when an end waits to be told; None where none does."""
    return tx.execute(select(func.min(Unit.finished_at)).where(is_untold())).scalar_one()


def webhooks(tx: Connection) -> int:
    """How many webhooks there are, disabled or not."""
    return tx.execute(select(func.count()).select_from(Webhook)).scalar_one()


def failing_webhooks(tx: Connection, *, limit: int = 20) -> list[RowMapping]:
    """Webhooks that are disabled, or that have not taken anything lately, those that fail for longest first.

    `waiting` is how many messages wait for each, `last_error` what kept the one that was tried last.
    """
    waits = (Delivery.tenant_id == Webhook.tenant_id, Delivery.webhook_id == Webhook.id, Delivery.state == "waiting")
    waiting = select(func.count()).select_from(Delivery).where(*waits).correlate(Webhook).scalar_subquery()
    columns = (Webhook.tenant_id, Webhook.id, Webhook.failures, Webhook.failing_since, Webhook.disabled_reason)
    columns_of_messages = (waiting.label("waiting"), last_error().label("last_error"))
    wrong = or_(Webhook.disabled_at.is_not(None), Webhook.failures > 0)
    statement = select(*columns, *columns_of_messages).where(wrong)
    return list(tx.execute(statement.order_by(Webhook.failing_since, Webhook.id).limit(limit)).mappings())


def tokens(tx: Connection, *, soon: dt.timedelta) -> Tokens:
    """The tokens of all tenants."""
    now = utcnow()
    valid = (Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > now))
    count = tx.execute(select(func.count()).select_from(Token).where(*valid)).scalar_one()
    ends = (Token.expires_at.is_not(None), Token.expires_at < now + soon)
    return Tokens(count, tx.execute(select(func.count()).select_from(Token).where(*valid, *ends)).scalar_one())
