"""Pictures as answers: from the store through here, or by a presigned address where clients reach it."""

from __future__ import annotations

import re
import uuid
from typing import Any

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from jobs.errors import ObjectMissing, UnknownPicture
from jobs.web.services import Services

REDIRECT_SECONDS = 300
# A picture never changes; yet what was erased must not be shown for long by a browser that has it.
_CACHE = "private, max-age=300"
_TYPES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def picture_answer(services: Services, request: Request, picture: dict[str, Any], output: str | None) -> Response:
    """The picture's file, or a further one. Raises UnknownPicture, StorageError."""
    file = _file(picture, output)
    if _has(request, file["sha256"]):
        return _unchanged(file["sha256"])
    if services.is_direct:
        url = services.storage.url(file["storage_key"], REDIRECT_SECONDS)
        return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
    name = f"{picture['external_id']}-{picture['prompt_name']}-{picture['seed']}"
    name = _NO_NAME.sub("_", f"{name}-{output}" if output else name)[:150]
    media_type = file["media_type"] if file["media_type"] in _TYPES else "application/octet-stream"
    ending = _TYPES.get(media_type, "bin")
    told = {"Content-Disposition": f'inline; filename="{name}.{ending}"', "ETag": f'"{file["sha256"]}"'}
    data = _stored(services, file, picture["render_id"])
    return Response(data, media_type=media_type, headers={**told, "Cache-Control": _CACHE})


def thumbnail_answer(services: Services, request: Request, picture: dict[str, Any]) -> Response:
    """A small picture. Raises UnknownPicture, StorageError, PhotoRefused."""
    file = _file(picture, None)
    mark = f"{file['sha256']}-small"
    if _has(request, mark):
        return _unchanged(mark)
    small = services.thumbnails.get(file["sha256"])
    if small is None:
        data = _stored(services, file, picture["render_id"])
        small = services.thumbnails.make(file["sha256"], data, services.settings)
    return Response(small, media_type="image/webp", headers={"ETag": f'"{mark}"', "Cache-Control": _CACHE})


def _file(picture: dict[str, Any], output: str | None) -> dict[str, Any]:
    found: dict[str, Any] | None
    if output:
        found = next((one for one in picture["outputs"] if one["name"] == output), None)
    else:
        found = picture if picture["state"] == "done" and picture["storage_key"] else None
    if found is None:
        what = f"no file {output!r}" if output else f"no file: it is {picture['state']}"
        raise UnknownPicture(f"the picture {picture['render_id']} has {what}")
    return found


def _stored(services: Services, file: dict[str, Any], render_id: uuid.UUID) -> bytes:
    try:
        return services.storage.get(file["storage_key"])
    except ObjectMissing as error:
        raise UnknownPicture(f"the file of picture {render_id} is no longer in the store") from error


def _has(request: Request, mark: str) -> bool:
    told = request.headers.get("if-none-match", "")
    return f'"{mark}"' in told


def _unchanged(mark: str) -> Response:
    return Response(status_code=304, headers={"ETag": f'"{mark}"', "Cache-Control": _CACHE})
