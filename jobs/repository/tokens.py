"""Tokens of a tenant: made, found by the hash of their text, revoked, and when they were used."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, insert, or_, select, update

from jobs.models_outside import Token
from jobs.orm import new_id, utcnow
from jobs.repository import tenants

Ended = dict[str, float]


@dataclass(frozen=True)
class TokenRow:
    """A token as it is kept: never its text."""

    tenant_id: str
    id: uuid.UUID
    name: str
    sha256: str
    may_write: bool
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None
    ended_sessions: dict[str, float] | None


_COLUMNS = tuple(getattr(Token, name) for name in TokenRow.__dataclass_fields__)


def add(
    tx: Connection, tenant_id: str, *, name: str, sha256: str, may_write: bool, expires_at: dt.datetime | None
) -> TokenRow:
    """Insert a token; a tenant that has no row yet is made."""
    tenants.change(tx, tenant_id)
    token_id = new_id()
    row = {"name": name, "sha256": sha256, "may_write": may_write, "created_at": utcnow(), "expires_at": expires_at}
    tx.execute(insert(Token).values(tenant_id=tenant_id, id=token_id, **row))
    return _one(tx, tenant_id, token_id)


def every(tx: Connection, tenant_id: str) -> list[TokenRow]:
    """All tokens of a tenant, the oldest first, revoked ones too."""
    statement = select(*_COLUMNS).where(Token.tenant_id == tenant_id).order_by(Token.id)
    return [TokenRow(*row) for row in tx.execute(statement)]


def find(tx: Connection, tenant_id: str, token_id: uuid.UUID) -> TokenRow | None:
    """A token by its id, valid or not."""
    row = tx.execute(select(*_COLUMNS).where(Token.tenant_id == tenant_id, Token.id == token_id)).one_or_none()
    return TokenRow(*row) if row else None


def find_by_hash(tx: Connection, tenant_id: str, sha256: str) -> TokenRow | None:
    """A token by the hash of its text, valid or not."""
    row = tx.execute(select(*_COLUMNS).where(Token.tenant_id == tenant_id, Token.sha256 == sha256)).one_or_none()
    return TokenRow(*row) if row else None


def revoke(tx: Connection, tenant_id: str, token_id: uuid.UUID) -> TokenRow:
    """End a token; one that was ended before keeps the moment of its end."""
    mine = (Token.tenant_id == tenant_id, Token.id == token_id)
    tx.execute(update(Token).where(*mine, Token.revoked_at.is_(None)).values(revoked_at=utcnow()))
    return _one(tx, tenant_id, token_id)


def used(tx: Connection, tenant_id: str, token_id: uuid.UUID, at: dt.datetime) -> None:
    """Note that a token was used; a later use that was noted already stays."""
    mine = (Token.tenant_id == tenant_id, Token.id == token_id)
    is_later = or_(Token.last_used_at.is_(None), Token.last_used_at < at)
    tx.execute(update(Token).where(*mine, is_later).values(last_used_at=at))


def end_session(tx: Connection, tenant_id: str, token_id: uuid.UUID, ended: Callable[[Ended], Ended]) -> None:
    """Write down the ended sessions of a token as `ended` makes them of those before; others wait for each other."""
    mine = (Token.tenant_id == tenant_id, Token.id == token_id)
    found = tx.execute(select(Token.ended_sessions).where(*mine).with_for_update()).one_or_none()
    if found is not None:
        tx.execute(update(Token).where(*mine).values(ended_sessions=ended(found[0] or {})))


def _one(tx: Connection, tenant_id: str, token_id: uuid.UUID) -> TokenRow:
    row = tx.execute(select(*_COLUMNS).where(Token.tenant_id == tenant_id, Token.id == token_id)).one()
    return TokenRow(*row)
