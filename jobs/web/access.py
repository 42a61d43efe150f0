"""Who asks: a bearer token for the API, or a session that began with one for the pages.

A session is a signed cookie that names the token's row, not its text. Each request looks at that row, so a login ends
in the moment in which its token is revoked or expires, and in which it is logged out: that stands in the row, too.
"""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from jobs import tokens
from jobs.errors import NotAuthenticated, TokenReadOnly
from jobs.repository import tokens as rows
from jobs.repository.tokens import TokenRow
from jobs.web.services import Services, services_of

SESSION = "session"
MOST_ENDED = 200
"""So many sessions of one token are remembered to be over, one by one."""
_ALL_BEFORE = "*"
_bearer = HTTPBearer(auto_error=False, description="A token of `portraits tokens create NAME [--write]`.")


@dataclass(frozen=True)
class Caller:
    """Whose data may be seen, by which token, and whether it may change any."""

    tenant: str
    token_id: uuid.UUID
    name: str
    may_write: bool


def by_token(services: Services, address: str, text: str) -> Caller:
    """Who shows this token. Raises NotAuthenticated, TooManyAttempts.

    A right token is let in whatever others show from its address: many people may come from one.
    """
    try:
        row = tokens.authenticate(services.database, text)
    except NotAuthenticated:
        services.throttle.wrong(address)
        raise
    return _caller(services, row)


def session_text(services: Services, caller: Caller) -> str:
    """What a cookie holds from a login on."""
    now = time.time()
    told = {
        "tenant": caller.tenant,
        "token": str(caller.token_id),
        "nonce": secrets.token_urlsafe(12),
        "since": now,
        "until": now + services.settings.session_seconds,
    }
    return services.signer.sign(SESSION, told)


def by_session(services: Services, text: str) -> Caller | None:
    """Who shows this cookie; None when it is none of ours, is over, or its token is."""
    told = _session(services, text)
    if told is None:
        return None
    with services.database.reading(told["tenant"]) as tx:
        row = rows.find(tx, told["tenant"], uuid.UUID(told["token"]))
    if row is None or not tokens.is_valid(row) or _is_ended(told, row.ended_sessions or {}):
        return None
    return _caller(services, row)


def end_session(services: Services, text: str) -> None:
    """End the session of this cookie for every process, whoever has kept it. Raises DatabaseUnavailable."""
    told = _session(services, text)
    if told is None:
        return

    def ended(before: rows.Ended) -> rows.Ended:
        now = time.time()
        kept = {name: until for name, until in before.items() if name == _ALL_BEFORE or until > now}
        if len(kept) >= MOST_ENDED:  # too many to name: all that began until now
            return {_ALL_BEFORE: now}
        return {**kept, told["nonce"]: told["until"]}

    with services.database.transaction(told["tenant"]) as tx:
        rows.end_session(tx, told["tenant"], uuid.UUID(told["token"]), ended)


def _session(services: Services, text: str) -> dict[str, Any] | None:
    told = services.signer.read(SESSION, text)
    return told if told is not None and told["until"] > time.time() else None


def _is_ended(told: dict[str, Any], ended: rows.Ended) -> bool:
    return told["nonce"] in ended or told["since"] <= ended.get(_ALL_BEFORE, 0)


def _caller(services: Services, row: TokenRow) -> Caller:
    services.last_used.note(row.tenant_id, row.id)
    return Caller(row.tenant_id, row.id, row.name, row.may_write)


def client_address(request: Request) -> str:
    """Where a request comes from; behind a trusted proxy, where it says."""
    return request.client.host if request.client else "unknown"


def reader(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """Whoever shows a valid token. Raises NotAuthenticated, TooManyAttempts."""
    if shown is None:
        raise NotAuthenticated
    return by_token(services_of(request), client_address(request), shown.credentials)


def writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Whoever shows a token that may write. Raises TokenReadOnly too."""
    if not caller.may_write:
        raise TokenReadOnly
    return caller


Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
