"""The pages: what the tables say, for people; each for the tenant whose token somebody has logged in with."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from jobs.errors import JobsError, UnknownJob, UnknownPicture
from jobs.reports import FINISHED_STATES
from jobs.repository.browse import People, Pictures
from jobs.web import login
from jobs.web.access import Caller
from jobs.web.files import picture_answer, thumbnail_answer
from jobs.web.galleries import gallery_file
from jobs.web.problems import headers_of, problem_of, tell
from jobs.web.reading import Reading
from jobs.web.rendering import page, static_file
from jobs.web.services import services_of

log = logging.getLogger(__name__)
JOBS, PEOPLE, PICTURES = 30, 100, 60
OTHER_JOBS = 20
PICTURE_STATES = ("done", "failed", "waiting", "cancelled")
_ORDINAL = re.compile(r"-1|[0-9]{1,9}")

Shown = Callable[[Request, Reading, Caller], Response]


def _for_visitors(show: Shown) -> Callable[[Request], Response]:
    """A page for who is logged in; everybody else is asked to, and comes back."""

    def answer(request: Request) -> Response:
        caller = login.visitor(request)
        if caller is None:
            if request.headers.get("x-requested-with") == "live":
                return Response(status_code=401)
            then = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?{urlencode({'next': then})}", 303)
        request.state.caller = caller  # an error's page keeps the navigation
        return show(request, Reading(services_of(request), caller), caller)

    return answer


def home(request: Request) -> Response:
    """The jobs are the home page."""
    return RedirectResponse("/jobs", 303)


def jobs(request: Request, reading: Reading, caller: Caller) -> Response:
    """The tenant's jobs."""
    after = _id(request, "after")
    found = reading.jobs(limit=JOBS, after=after)
    further = f"/jobs?after={found[-1]['job_id']}" if len(found) == JOBS else None
    is_open = any(job["state"] not in FINISHED_STATES for job in found)
    values = {"jobs": found, "next": further, "is_first": after is None, "is_open": is_open}
    return page(_fragment(request, "jobs.html", "_jobs.html"), values, caller=caller, headers=_live(is_open))


def job(request: Request, reading: Reading, caller: Caller) -> Response:
    """One job: how far it is, why pictures failed, its people."""
    found = reading.job(request.path_params["job"])
    is_open = found["state"] not in FINISHED_STATES
    values: dict[str, Any] = {"job": found, "is_open": is_open, "strip": reading.strip(found)}
    if _is_live(request):
        return page("_progress.html", values, caller=caller, headers=_live(is_open))
    having, named = request.query_params.get("having"), request.query_params.get("named", "").strip()[:200]
    which = People(having if having in ("failed", "open") else None, named or None)  # type: ignore[arg-type]
    people = reading.people(found["job_id"], which, limit=PEOPLE, after=_id(request, "after"))
    more = {"having": which.having, "named": which.named, "after": people[-1]["identity_id"] if people else None}
    values |= {
        "people": people,
        "which": which,
        "next": _query(more) if len(people) == PEOPLE else None,
        "is_first": "after" not in request.query_params,
        "gallery": reading.gallery(found["job_id"]),
    }
    return page("job.html", values, caller=caller)


def pictures(request: Request, reading: Reading, caller: Caller) -> Response:
    """Pictures of a job, by state, prompt or reason."""
    found = reading.job(request.path_params["job"])
    return _grid(request, reading, caller, found, None)


def person(request: Request, reading: Reading, caller: Caller) -> Response:
    """A person's pictures of a job, and the person's other jobs."""
    found = reading.job(request.path_params["job"])
    identity_id = request.path_params["identity"]
    return _grid(request, reading, caller, found, reading.person(found["job_id"], identity_id))


def gallery(request: Request, reading: Reading, caller: Caller) -> Response:
    """A file of a job's gallery; its first page where none is named."""
    found = reading.job(request.path_params["job"])
    row = reading.gallery(found["job_id"])
    return gallery_file(services_of(request), caller.tenant, found, row, request.path_params.get("name", ""))


def _grid(
    request: Request, reading: Reading, caller: Caller, job: dict[str, Any], person: dict[str, Any] | None
) -> Response:
    asked = request.query_params
    state = asked.get("state") if asked.get("state") in PICTURE_STATES else None
    after = asked.get("after", "")
    which = Pictures(
        person["identity_id"] if person else None,
        state,
        asked.get("prompt", "")[:200] or None,
        asked.get("error_code", "")[:64] or None,
    )
    start = int(after) if _ORDINAL.fullmatch(after) else -1
    rows = reading.pictures(job["job_id"], which, limit=PICTURES, after=start)
    more = {"state": state, "prompt": which.prompt_name, "error_code": which.error_code}
    others = reading.jobs_of_person(person["identity_id"], limit=OTHER_JOBS) if person else []
    values = {
        "job": job,
        "person": person,
        "pictures": rows,
        "which": which,
        "states": PICTURE_STATES,
        "next": _query({**more, "after": rows[-1]["ordinal"]}) if len(rows) == PICTURES else None,
        "is_first": start < 0,
        "others": [other for other in others if other.id != job["job_id"]],
    }
    return page("pictures.html", values, caller=caller)


def picture(request: Request, reading: Reading, caller: Caller) -> Response:
    """One picture, with everything that is known of it."""
    found = reading.picture(request.path_params["render"])
    before, after = reading.beside(found)
    return page("picture.html", {"picture": found, "before": before, "after": after}, caller=caller)


def picture_file(request: Request, reading: Reading, caller: Caller) -> Response:
    """The picture's file."""
    found = reading.picture(request.path_params["render"])
    return picture_answer(services_of(request), request, found, request.query_params.get("output", "")[:64])


def picture_thumbnail(request: Request, reading: Reading, caller: Caller) -> Response:
    """A small picture."""
    found = reading.picture(request.path_params["render"])
    return thumbnail_answer(services_of(request), request, found)


def workers(request: Request, reading: Reading, caller: Caller) -> Response:
    """The fleet's workers."""
    values = reading.workers()
    return page(_fragment(request, "workers.html", "_workers.html"), values, caller=caller, headers=_live(True))


def api(request: Request, reading: Reading, caller: Caller) -> Response:
    """What programs can ask, from the API's own document."""
    return page("api.html", {"document": request.app.state.document()}, caller=caller)


def _is_live(request: Request) -> bool:
    return request.headers.get("x-requested-with") == "live"


def _fragment(request: Request, whole: str, part: str) -> str:
    return part if _is_live(request) else whole


def _live(is_open: bool) -> dict[str, str]:
    """Whether a page's script is to ask again."""
    return {"X-Live": "more" if is_open else "over"}


def _id(request: Request, name: str) -> uuid.UUID | None:
    """An id of the query; what is none is as good as nothing."""
    try:
        return uuid.UUID(request.query_params[name])
    except (KeyError, ValueError):
        return None


def _query(values: dict[str, Any]) -> str:
    return "?" + urlencode({name: value for name, value in values.items() if value is not None}, quote_via=quote)


def _visitor(request: Request) -> Caller | None:
    """Whoever is logged in, where no page has asked yet; nobody while the database does not say."""
    try:
        return _known(request) or login.visitor(request)
    except JobsError:
        return None


def _known(request: Request) -> Caller | None:
    """Whom a page has found logged in before it failed."""
    found: Caller | None = getattr(request.state, "caller", None)
    return found


def of_jobs_error(request: Request, error: Exception) -> Response:
    """A page for an error of ours."""
    assert isinstance(error, JobsError)
    tell(error, request.url.path)
    problem = problem_of(error)
    title = "Not found" if isinstance(error, UnknownJob | UnknownPicture) else problem.title.rstrip(".")
    values = {"status": problem.status, "title": title, "detail": problem.detail, "code": problem.code}
    headers = headers_of(error)
    return page("error.html", values, caller=_known(request), status=problem.status, headers=headers)


def of_http_error(request: Request, error: Exception) -> Response:
    """A page for a refusal of the framework's."""
    assert isinstance(error, HTTPException)
    title = "Not found" if error.status_code == 404 else str(error.detail)
    detail = "There is no such page." if error.status_code == 404 else str(error.detail)
    values = {"status": error.status_code, "title": title, "detail": detail, "code": ""}
    return page("error.html", values, caller=_visitor(request), status=error.status_code)


def of_any_error(request: Request, error: Exception) -> Response:
    """A page for a fault of this program; the log has its traceback."""
    detail = "This is a fault of this program; the log says more."
    values = {"status": 500, "title": "Something went wrong", "detail": detail, "code": "internal"}
    return page("error.html", values, caller=_known(request), status=500)


ROUTES = [
    Route("/", home),
    Route("/login", login.show_login, methods=["GET"]),
    Route("/login", login.log_in, methods=["POST"]),
    Route("/logout", login.log_out, methods=["POST"]),
    Route("/static/{name}", static_file),
    Route("/jobs", _for_visitors(jobs)),
    Route("/jobs/{job}", _for_visitors(job)),
    Route("/jobs/{job}/pictures", _for_visitors(pictures)),
    Route("/jobs/{job}/gallery/", _for_visitors(gallery)),
    Route("/jobs/{job}/gallery/{name}", _for_visitors(gallery)),
    Route("/jobs/{job}/people/{identity:uuid}", _for_visitors(person)),
    Route("/pictures/{render:uuid}", _for_visitors(picture)),
    Route("/pictures/{render:uuid}/file", _for_visitors(picture_file)),
    Route("/pictures/{render:uuid}/thumbnail", _for_visitors(picture_thumbnail)),
    Route("/workers", _for_visitors(workers)),
    Route("/api", _for_visitors(api)),
]
HANDLERS: dict[Any, Any] = {JobsError: of_jobs_error, HTTPException: of_http_error, Exception: of_any_error}
