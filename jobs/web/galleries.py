"""A job's gallery under this server: the stored pages made anew, with thumbnails and pictures from here."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from jobs.errors import ObjectMissing, UnknownJob
from jobs.gallery import keys, page
from jobs.gallery.sign import StoredGallery, page_data
from jobs.web.services import Services

_CACHE = "private, max-age=300"


def gallery_file(services: Services, tenant: str, job: dict[str, Any], row: Any, name: str) -> Response:
    """A page of the gallery, or a sheet of its thumbnails. Raises UnknownJob, GalleryOutdated, StorageError."""
    token = row["built_token"] if row is not None else None
    file = f"{job['job_id']}/gallery/{token}/{name or keys.FIRST_PAGE}"
    if token is None or keys.parse(file) is None or name.startswith(keys.SIGNED_PREFIX):
        raise UnknownJob("this job has no gallery, or no such page of it")
    gallery = StoredGallery(tenant, job["job_id"], token, job["key"])
    if name.endswith(".css"):
        return _sheet(services, gallery, name)
    if name.endswith(".json"):
        raise UnknownJob("this job has no such page of its gallery")
    return _page(services, gallery, 1 if name in ("", keys.FIRST_PAGE) else int(name[len("page-") : -len(".html")]))


def _sheet(services: Services, gallery: StoredGallery, name: str) -> Response:
    try:
        data = services.storage.get(gallery.prefix + name)
    except ObjectMissing as error:
        raise UnknownJob("this job has no such sheet of thumbnails") from error
    return Response(data, media_type="text/css", headers={"Cache-Control": _CACHE})


def _page(services: Services, gallery: StoredGallery, number: int) -> Response:
    if not services.storage.exists(gallery.prefix + keys.data_name(number)):
        raise UnknownJob(f"the gallery of this job has no page {number}")
    told = page_data(services.storage, gallery, number)
    links = page.Links(
        sheets=told["sheets"],
        pictures=None,
        previous=keys.page_name(number - 1) if number > 1 else None,
        next=keys.page_name(number + 1) if told["has_next"] else None,
        serve="",
        back=f"/jobs/{gallery.job_id}",
    )
    # The page says itself what it may load, by the hashes of its own script and style; nobody may frame it besides.
    policy = f"{page.policy_of(links)}; frame-ancestors 'none'"
    return Response(page.render(told, links), media_type="text/html", headers={"Content-Security-Policy": policy})
