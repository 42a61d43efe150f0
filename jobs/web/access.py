"""Who asks: a bearer token for the API, or a session that began with one for the pages.

A session is a signed cookie that names the token's row, not its text. Each request looks at that row, so a login ends
in the moment in which its token is revoked or expires.
"""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from jobs import tokens
from jobs.errors import NotAuthenticated, TokenReadOnly
from jobs.repository import tokens as rows
from jobs.repository.tokens import TokenRow
from jobs.web.services import Services, services_of

SESSION = "session"
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
    until = int(time.time()) + services.settings.session_seconds
    told = {"tenant": caller.tenant, "token": str(caller.token_id), "until": until, "nonce": secrets.token_urlsafe(12)}
    return services.signer.sign(SESSION, told)


def by_session(services: Services, text: str) -> Caller | None:
    """Who shows this cookie; None when it is none of ours, is over, or its token is."""
    told = services.signer.read(SESSION, text)
    if told is None or told["until"] <= time.time():
        return None
    with services.database.reading(told["tenant"]) as tx:
        row = rows.find(tx, told["tenant"], uuid.UUID(told["token"]))
    return _caller(services, row) if row is not None and tokens.is_valid(row) else None


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
