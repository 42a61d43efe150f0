"""Tokens: with which somebody asks for a tenant's jobs over HTTP.

A token is `portraits_{tenant}.{secret}`: it names its tenant, so that every statement about it runs as that tenant's.
The secret has 256 bits of the system's randomness; only the SHA-256 of the whole text is kept, which is enough for a
secret that nobody can guess, and of no use to whoever reads the table.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from dataclasses import dataclass

from jobs.database import Database
from jobs.errors import NotAuthenticated, RequestInvalid, UnknownToken
from jobs.orm import utcnow
from jobs.repository import tokens as rows
from jobs.repository.tokens import TokenRow

MAX_NAME = 200
_SECRET_BYTES = 32
_TOKEN = re.compile(r"portraits_([a-z0-9_-]{1,64})\.([A-Za-z0-9_-]{43,128})")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class NewToken:
    """A token that was just made; `text` is shown once and kept nowhere."""

    text: str
    row: TokenRow


def create(
    database: Database, tenant: str, name: str, *, may_write: bool = False, expires_at: dt.datetime | None = None
) -> NewToken:
    """Make a token of a tenant; one that has no row yet is made too. Raises RequestInvalid for a name that is none."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or _UNSEEN.search(name):
        raise RequestInvalid(f"wanted a name of 1 to {MAX_NAME} letters that can be seen, found {name[:80]!r}")
    text = f"portraits_{tenant}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    if _TOKEN.fullmatch(text) is None:
        raise RequestInvalid(f"{tenant[:80]!r} is no name of a tenant; wanted lower-case letters, digits, - and _")
    with database.transaction() as tx:
        row = rows.add(tx, tenant, name=name, sha256=_sha256(text), may_write=may_write, expires_at=expires_at)
    return NewToken(text, row)


def revoke(database: Database, tenant: str, token: str) -> TokenRow:
    """End a token at once, by its id or its name. Raises UnknownToken, also for a name that several valid ones have."""
    with database.transaction() as tx:
        found = [row for row in rows.every(tx, tenant) if token in (str(row.id), row.name)]
        left = [row for row in found if row.revoked_at is None] or found
        if len(left) > 1:
            ids = ", ".join(str(row.id) for row in left)
            raise UnknownToken(f"tenant {tenant!r} has {len(left)} tokens named {token!r}; name one by its id: {ids}")
        if not left:
            raise UnknownToken(f"tenant {tenant!r} has no token {token!r}; `portraits tokens list` shows them")
        return rows.revoke(tx, tenant, left[0].id)


def authenticate(database: Database, text: str) -> TokenRow:
    """The row of a token that is valid now. Raises NotAuthenticated, which does not say what is wrong with it."""
    parsed = _TOKEN.fullmatch(text)
    if parsed is None:
        raise NotAuthenticated
    wanted = _sha256(text)
    with database.reading(parsed[1]) as tx:
        row = rows.find_by_hash(tx, parsed[1], wanted)
    # Compared again in constant time: how long the index took tells of a hash at most, and of none of our tokens.
    if row is None or not secrets.compare_digest(row.sha256, wanted) or not is_valid(row):
        raise NotAuthenticated
    return row


def is_valid(row: TokenRow) -> bool:
    """Whether the token is neither revoked nor past its end."""
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > utcnow())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
