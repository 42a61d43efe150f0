"""Errors as RFC 9457 problems: the class decides the status, the stable `code` is ours.

What the server itself lacks (a database, a store, a setting) is told without its address: that stands in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from jobs.errors import JobsError, ManifestInvalid

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
SHOWN_FAULTS = 100
RETRY_SECONDS = {"rate_limited": 60, "quota_exceeded": 600, "too_many_attempts": 300, "too_many_at_once": 10}
_STATUS = {
    "bad_key": 404,
    "file_refused": 422,
    "gallery_outdated": 409,
    "job_archived": 409,
    "key_conflict": 409,
    "manifest_invalid": 422,
    "not_authenticated": 401,
    "object_missing": 404,
    "photo_refused": 422,
    "quota_exceeded": 429,
    "rate_limited": 429,
    "request_invalid": 422,
    "request_refused": 422,
    "request_too_large": 413,
    "source_missing": 409,
    "too_many_at_once": 429,
    "too_many_attempts": 429,
    "token_read_only": 403,
    "unknown_job": 404,
    "unknown_picture": 404,
    "unknown_token": 404,
    "unknown_weight_set": 404,
    "unknown_worker": 404,
    "upload_refused": 422,
}
_PLAIN = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 503: "server_busy"}


class ProblemFault(BaseModel):
    """One thing wrong with a manifest or a request."""

    message: str
    field: str | None = None
    line: int | None = None


class Problem(BaseModel):
    """Why a request was not carried out (RFC 9457). `code` is stable; `detail` is for people."""

    type: str = Field(examples=["urn:portraits:error:unknown_job"])
    title: str
    status: int
    code: str
    detail: str
    faults: list[ProblemFault] | None = Field(None, description="What is wrong, each with its place.")
    faults_total: int | None = Field(None, description="How many faults there are, those not listed too.")


class ProblemResponse(JSONResponse):
    """A problem as an answer."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.model_dump(exclude_none=True), problem.status, headers)


def status_of(error: JobsError) -> int:
    """The HTTP status of an error: 503 for what trying again may mend, 500 for what the server lacks."""
    known = _STATUS.get(error.code)
    return known if known is not None else 503 if error.retryable else 500


def problem_of(error: JobsError) -> Problem:
    """What is told of an error."""
    status = status_of(error)
    title = (type(error).__doc__ or "").strip().splitlines()[0]
    detail = title if status >= 500 else str(error).splitlines()[0]
    faults = total = None
    if isinstance(error, ManifestInvalid):
        faults = [
            ProblemFault(message=fault.message, field=fault.field, line=fault.line)
            for fault in error.faults[:SHOWN_FAULTS]
        ]
        total = error.total
    return _problem(status, error.code, title, detail, faults, total)


def _problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    faults: list[ProblemFault] | None = None,
    total: int | None = None,
) -> Problem:
    kind = f"urn:portraits:error:{code}"
    return Problem(type=kind, title=title, status=status, code=code, detail=detail, faults=faults, faults_total=total)


def headers_of(error: JobsError) -> dict[str, str]:
    """The headers that belong to an error's status."""
    status = status_of(error)
    if status == 401:
        return {"WWW-Authenticate": 'Bearer realm="portraits"'}
    if status in (429, 503):
        return {"Retry-After": str(RETRY_SECONDS.get(error.code, 10))}
    return {}


def tell(error: JobsError, where: str) -> None:
    """Note in the log what the answer does not say."""
    if status_of(error) >= 500:
        log.error("%s: %s (%s)", where, error, error.code)


def of_request(error: RequestValidationError) -> Problem:
    """What is wrong with a request's address, fields or body; the refused values are not repeated."""
    faults = [
        ProblemFault(message=str(one["msg"]), field=".".join(str(step) for step in one["loc"]))
        for one in error.errors()[:SHOWN_FAULTS]
    ]
    detail = "; ".join(f"{one.field}: {one.message}" for one in faults[:5])
    return _problem(422, "request_invalid", "The request is not what was wanted here.", detail, faults, len(faults))


def of_status(status: int, detail: str) -> Problem:
    """A plain refusal of the framework's own: no such address, a method that is not for it."""
    code = _PLAIN.get(status, "request_refused")
    return _problem(status, code, detail, detail)


def unforeseen() -> Problem:
    """A fault of this program; the log has its traceback."""
    return _problem(500, "internal", "A fault of this program; please report it.", "The log says more.")


def add_handlers(app: Starlette) -> None:
    """Answer every error of an API with a problem."""

    def of_jobs(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, JobsError)
        tell(error, request.url.path)
        return ProblemResponse(problem_of(error), headers_of(error))

    def of_validation(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, RequestValidationError)
        return ProblemResponse(of_request(error))

    def of_http(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, HTTPException)
        headers: Any = error.headers
        return ProblemResponse(of_status(error.status_code, str(error.detail)), headers)

    def of_any(request: Request, error: Exception) -> ProblemResponse:
        return ProblemResponse(unforeseen())

    app.add_exception_handler(JobsError, of_jobs)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_any)
