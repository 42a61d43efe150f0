"""Logging in to the pages with a token, and out again."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from jobs.errors import NotAuthenticated, TooManyAttempts
from jobs.web.access import Caller, by_session, by_token, client_address, end_session, session_text
from jobs.web.problems import headers_of, status_of
from jobs.web.rendering import page
from jobs.web.services import Services, services_of

PLAIN_COOKIE, SECURE_COOKIE = "portraits_session", "__Host-portraits_session"
_PATH = re.compile(r"/(?:[A-Za-z0-9._~%=&?@+,:-][A-Za-z0-9._~%=&?@+,:/-]*)?")
_LONGEST_TOKEN = 300


def is_https(services: Services, request: Request) -> bool:
    """Whether people reach these pages over HTTPS."""
    return request.url.scheme == "https" or services.settings.serve_url.startswith("https://")


def visitor(request: Request) -> Caller | None:
    """Whoever is logged in; None for everybody else."""
    services = services_of(request)
    text = request.cookies.get(_cookie(services, request))
    return by_session(services, text) if text else None


def _cookie(services: Services, request: Request) -> str:
    return SECURE_COOKIE if is_https(services, request) else PLAIN_COOKIE


def own_path(text: str) -> str:
    """Where to go after a login: a path of these pages, whatever was asked for."""
    return text if _PATH.fullmatch(text) and "//" not in text else "/jobs"


def is_from_here(request: Request) -> bool:
    """Whether a form was sent from one of these pages: no other site logs anybody in or out."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


def show_login(request: Request) -> Response:
    """The form."""
    return _form(own_path(request.query_params.get("next", "/jobs")))


def _form(then: str, message: str = "", status: int = 200, retry: str = "") -> Response:
    headers = {"Retry-After": retry} if retry else {}
    return page("login.html", {"then": then, "message": message}, status=status, headers=headers)


async def log_in(request: Request) -> Response:
    """Take a token, and give a session."""
    body = await request.body()
    return await run_in_threadpool(_log_in, request, body)


def _log_in(request: Request, body: bytes) -> Response:
    services = services_of(request)
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4)
    text, then = fields.get("token", [""])[0].strip(), own_path(fields.get("next", ["/jobs"])[0])
    if not is_from_here(request):
        return _form(then, "This form was sent from another site; log in here.", 403)
    try:
        if len(text) > _LONGEST_TOKEN:
            raise NotAuthenticated
        caller = by_token(services, client_address(request), text)
    except NotAuthenticated as error:
        return _form(then, "That is no valid token. Tokens begin with portraits_ and are shown once.", status_of(error))
    except TooManyAttempts as error:
        return _form(then, str(error), status_of(error), headers_of(error)["Retry-After"])
    answer = RedirectResponse(then, 303)
    secure = is_https(services, request)
    answer.set_cookie(
        _cookie(services, request),
        session_text(services, caller),
        max_age=services.settings.session_seconds,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return answer


def log_out(request: Request) -> Response:
    """End the session, also for whoever has kept its cookie."""
    if not is_from_here(request):
        return RedirectResponse("/jobs", 303)
    services = services_of(request)
    name, secure = _cookie(services, request), is_https(services, request)
    end_session(services, request.cookies.get(name, ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
    return answer
