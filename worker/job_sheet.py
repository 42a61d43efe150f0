"""The contact sheet of a job: its first people and prompts, fetched from the database and the store."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from jobs.database import Database
from jobs.digital_source import ASSEMBLED, png_of
from jobs.errors import ObjectMissing, PhotoRefused
from jobs.photos import load_photo
from jobs.reports import results
from jobs.repository import summaries
from jobs.repository.jobs import JobRow
from jobs.settings import Settings
from jobs.storage import Storage, open_storage
from worker.contact_sheet import CELL, MAX_IN_CELL, MAX_PEOPLE, MAX_PROMPTS, Person, Picture, Sheet, draw_sheet
from worker.picture_file import record_of

Row = Mapping[str, Any]
_THREADS = 8


@dataclass(frozen=True)
class WrittenSheet:
    """The file, and what the renderer wanted said beside every picture."""

    file: Path
    notice: str | None


def write_job_sheet(job: JobRow, settings: Settings, file: Path) -> WrittenSheet:
    """Draw the contact sheet of a job and save it as a PNG."""
    rows = _first_rows(job, settings)
    storage = open_storage(settings.storage_url, settings)
    by_person: dict[str, dict[str, list[Row]]] = {}
    prompts: dict[str, None] = {}
    for row in rows:
        prompts.setdefault(row["prompt_name"])
        by_person.setdefault(row["external_id"], {}).setdefault(row["prompt_name"], []).append(row)
    names = list(by_person)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sheet") as pool:
        photos = _photos(job, settings, storage, names, pool)
        shown = [
            row
            for own in by_person.values()
            for name in list(prompts)[:MAX_PROMPTS]
            for row in own.get(name, [])[:MAX_IN_CELL]
        ]
        images = dict(
            zip((row["render_id"] for row in shown), pool.map(lambda r: _image(storage, r), shown), strict=True)
        )
    people = [
        Person(
            name,
            photos.get(name, []),
            {
                prompt: [_picture(row, images.get(row["render_id"])) for row in own]
                for prompt, own in by_person[name].items()
            },
        )
        for name in names
    ]
    sheet = Sheet(
        title=job.name or f"Job {job.key}",
        subtitle=f"{job.renders_total} pictures of {job.identities_total} people  ·  profile {job.profile}",
        prompts=list(prompts),
        people=people,
        notice=next((n for image in images.values() if image and (n := _notice(image))), None),
        note=_note(job, len(people)),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png_of(draw_sheet(sheet), ASSEMBLED))
    return WrittenSheet(file, sheet.notice)


def _first_rows(job: JobRow, settings: Settings) -> list[Row]:
    """The renders of the first people; pictures are in the order of people, so the rest need not be read."""
    rows: list[Row] = []
    people: set[str] = set()
    found = results(job.id, tenant=job.tenant_id, settings=settings)
    for row in found:
        people.add(row["external_id"])
        if len(people) > MAX_PEOPLE:
            break
        rows.append(row)
    return rows


def _photos(
    job: JobRow, settings: Settings, storage: Storage, names: list[str], pool: ThreadPoolExecutor
) -> dict[str, list[Image.Image]]:
    """The first reference photos of each person, as thumbnails; a photo that is gone is left out."""
    database = Database.from_settings(settings)
    try:
        with database.reading(job.tenant_id) as tx:
            found = summaries.reference_photos(tx, job.tenant_id, job.id, names)
    finally:
        database.dispose()
    keys: dict[str, list[str]] = {}
    for row in found:
        own = keys.setdefault(row["external_id"], [])
        if len(own) < MAX_IN_CELL:
            own.append(row["storage_key"])

    def thumbnail(key: str) -> Image.Image | None:
        try:
            image = load_photo(storage.get(key), settings)
        except (ObjectMissing, PhotoRefused):
            return None
        image.thumbnail((2 * CELL, 2 * CELL))
        return image

    return {name: [image for image in pool.map(thumbnail, own) if image] for name, own in keys.items()}


def _image(storage: Storage, row: Row) -> Image.Image | None:
    if not row["storage_key"]:
        return None
    try:
        image = Image.open(io.BytesIO(storage.get(row["storage_key"])))
        image.load()
    except (ObjectMissing, OSError, SyntaxError, ValueError):
        return None
    image.thumbnail((2 * CELL, 2 * CELL))
    return image


def _picture(row: Row, image: Image.Image | None) -> Picture:
    alike = f"ID similarity {row['id_similarity']:.2f}" if row["id_similarity"] is not None else ""
    if image is not None:
        return Picture(image, row["seed"], alike)
    if row["state"] == "done":
        return Picture(None, row["seed"], alike, "failed", "the picture is not in the store any more")
    return Picture(None, row["seed"], "", row["state"], row["error"] or "")


def _notice(image: Image.Image) -> str | None:
    """What the renderer wanted said beside every picture, from the picture's own record."""
    told = record_of(image).get("notice")
    return str(told) if told else None


def _note(job: JobRow, shown: int) -> str | None:
    rest = job.identities_total - shown
    return f"{rest} more people are not on this sheet" if rest > 0 else None
