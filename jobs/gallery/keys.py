"""Where a gallery lies in the store: `{tenant}/{job}/gallery/{token}/{name}`, beside the job's pictures."""

from __future__ import annotations

import re
import uuid

FIRST_PAGE = "index.html"
SIGNED_PREFIX = "signed-"
_FILE = re.compile(
    r"(?P<job>[0-9a-f-]{36})/gallery/(?P<token>\d{1,19})/"
    r"(?:index\.html|(?:signed-)?page-\d{4,6}\.html|page-\d{4,6}\.json|thumbnails-\d{4,7}\.css)"
)


def folder(tenant: str, job_id: uuid.UUID) -> str:
    """The prefix of all that was ever built for a job."""
    return f"{tenant}/{job_id}/gallery/"


def prefix(tenant: str, job_id: uuid.UUID, token: int) -> str:
    """The prefix of what one builder writes."""
    return f"{folder(tenant, job_id)}{token}/"


def page_name(number: int) -> str:
    """The file of a page; the first one is what somebody opens."""
    return FIRST_PAGE if number == 1 else f"page-{number:04d}.html"


def signed_name(number: int) -> str:
    """The file of a page with signed URLs."""
    return f"{SIGNED_PREFIX}page-{number:04d}.html"


def data_name(number: int) -> str:
    """What a page shows, as JSON: from it the page can be made anew with other links."""
    return f"page-{number:04d}.json"


def sheet_name(number: int) -> str:
    """A sheet of thumbnails; sheets are counted over all pages."""
    return f"thumbnails-{number:04d}.css"


def parse(name: str) -> tuple[uuid.UUID, int] | None:
    """Job and token of a key without its tenant; None for a key that is none of a gallery's."""
    found = _FILE.fullmatch(name)
    if found is None:
        return None
    try:
        return uuid.UUID(found["job"]), int(found["token"])
    except ValueError:
        return None
