"""A tenant with everything that can be made of people: mixes, pictures of two, sliders, several files, candidates, jobs
that are archived, done and waiting, photos sent ahead, webhooks, galleries. And another tenant with the same names.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from queue_world import TENANT, World
from sqlalchemy import Connection, insert, select, update

from jobs.archive import archive
from jobs.intake import enqueue
from jobs.models import ARCHIVED_UNITS, Identity, Job, Output, Photo, Render, Unit
from jobs.models_outside import Delivery, Gallery, Upload, Webhook
from jobs.orm import new_id, utcnow
from jobs.repository import galleries
from jobs.settings import Settings
from worker.spool import Spool

OTHER = "globex"
PEOPLE = ("ada-quill", "bob-rook", "cyd-vane", "dan-yew")
COMPOSED = {
    "ada-and-bob": {"ada-quill", "bob-rook"},
    "bob-beside-cyd": {"bob-rook", "cyd-vane"},
}


class PrivacyWorld:
    """Builds it, and tells what of it is whose."""

    def __init__(self, world: World, folder: Path, *, tenants: Iterable[str] = (TENANT, OTHER)) -> None:
        self.world, self.folder = world, folder
        chosen = list(tenants)
        for tenant in chosen:
            self._fill(tenant)
        for tenant in chosen:
            # The last job waits: without sliders, as their people would all be enqueued with it.
            self.enqueue(tenant, "waits", only=PEOPLE[:3])
            self._lead_out(tenant)

    @property
    def settings(self) -> Settings:
        return self.world.settings

    def photo(self, name: str, tenant: str) -> Path:
        """A person's photo, other than anybody else's."""
        digest = hashlib.sha256(f"{tenant} {name}".encode()).digest()
        file = self.folder / f"{tenant}-{name}.png"
        if not file.exists():
            Image.frombytes("RGB", (2, 4), digest[:24]).resize((48, 48)).save(file)
        return file

    def manifest(self, tenant: str, key: str, *, only: Iterable[str] | None = None) -> dict[str, Any]:
        """Everybody, or only some; each drawn twice, in two files, with a candidate that is not chosen."""
        people: list[dict[str, Any]] = [
            {"id": name, "subject": f"somebody called {name}", "photos": [self.photo(name, tenant).name]}
            for name in PEOPLE
        ]
        people += [
            {"id": "ada-and-bob", "identity": {"mix": {"ada-quill": 0.6, "bob-rook": 0.4}}},
            {"id": "bob-beside-cyd", "identity": {"together": {"bob-rook": "left", "cyd-vane": "right"}}},
        ]
        people[3]["prompts"] = [{"name": "smiling", "text": "a smile", "sliders": {"smile": 1.0}}]
        chosen = [one for one in people if only is None or one["id"] in set(only)]
        sliders = {"smile": {"edited": "ada-quill", "original": "cyd-vane"}} if only is None else None
        return {
            "tenant": tenant,
            "key": key,
            "profile": "fake",
            "defaults": {"size": 64, "steps": 2, "attempts": 2, "outputs": [{}, {"name": "small", "format": "jpeg"}]},
            "prompts": [{"name": "office", "text": "a portrait", "seeds": [1, 2]}],
            "identities": chosen,
            **({"sliders": sliders} if sliders else {}),
        }

    def enqueue(self, tenant: str, key: str, *, only: Iterable[str] | None = None) -> uuid.UUID:
        """A job that waits."""
        told = enqueue(self.manifest(tenant, key, only=only), settings=self.settings, base=self.folder)
        return told.job_id

    def draw(self) -> None:
        """Everything that waits."""
        while True:
            with self.world.database.reading() as tx:
                first = select(Unit.id).where(Unit.state == "ready").order_by(Unit.id).limit(1)
                unit = tx.execute(first).scalar_one_or_none()
            if unit is None:
                return
            self.world.shift(unit)

    def _fill(self, tenant: str) -> None:
        self.enqueue(tenant, "old")
        self.draw()
        assert archive(older_than_seconds=0, tenant=tenant, settings=self.settings).jobs == 1
        self.enqueue(tenant, "new")
        self.draw()

    def _lead_out(self, tenant: str) -> None:
        """Deliveries that name people, photos that were sent ahead, galleries with pages that name them."""
        own = {"tenant_id": tenant}
        hook = new_id()
        with self.world.database.transaction() as tx:
            tx.execute(insert(Webhook).values(**own, id=hook, url="https://x.test", secret="s", kinds=["unit"]))
            units = select(Unit.id, Unit.job_id, Identity.external_id).join(Identity, Identity.id == Unit.identity_id)
            for row in tx.execute(units.where(Unit.tenant_id == tenant)).all():
                told = {"external_id": row.external_id, "unit": str(row.id)}
                rows = {"webhook_id": hook, "kind": "unit", "job_id": row.job_id, "unit_id": row.id, "payload": told}
                tx.execute(insert(Delivery).values(**own, id=new_id(), due_at=0.0, **rows))
            for photo in tx.execute(select(Photo).where(Photo.tenant_id == tenant)).all():
                key = f"{tenant}/uploads/{photo.sha256}"
                self.world.storage.put(key, b"sent", content_type="image/png")
                until = utcnow() + dt.timedelta(days=1)
                sent = {"sha256": photo.sha256, "storage_key": key, "media_type": "image/png", "size_bytes": 4}
                tx.execute(insert(Upload).values(**own, id=new_id(), expires_at=until, **sent))
            for job in tx.execute(select(Job.id).where(Job.tenant_id == tenant)).scalars().all():
                built = {"lease_token": 1, "attempts": 0, "built_token": 1, "built_at": utcnow()}
                galleries.make_due(tx, tenant, job)
                tx.execute(update(Gallery).where(Gallery.job_id == job).values(due_at=None, **built))
                page = f"{tenant}/{job}/gallery/1/index.html"
                named = f"<p>{', '.join(sorted(self._people_of(tx, job)))}</p>".encode()
                self.world.storage.put(page, named, content_type="text/html")

    @staticmethod
    def _people_of(tx: Connection, job: uuid.UUID) -> set[str]:
        found: set[str] = set()
        for units in (Unit.__table__, ARCHIVED_UNITS):
            of_job = select(Identity.external_id).join(units, units.c.identity_id == Identity.id)
            found |= set(tx.execute(of_job.where(units.c.job_id == job)).scalars())
        return found

    def names(self, tenant: str = TENANT) -> set[str]:
        """Who is known."""
        with self.world.database.reading() as tx:
            return set(tx.execute(select(Identity.external_id).where(Identity.tenant_id == tenant)).scalars())

    def pictures(self, tenant: str, gone: set[str]) -> dict[str, bytes]:
        """Every object of pictures, of whoever is not in `gone`, as the rows name them, with its bytes."""
        with self.world.database.reading() as tx:
            whose = Identity.external_id.not_in(gone)
            mine = (Render.tenant_id == tenant, whose)
            of_renders = select(Render.storage_key).join(Identity, Identity.id == Render.identity_id).where(*mine)
            of_outputs = (
                select(Output.storage_key)
                .join(Render, Render.id == Output.render_id)
                .join(Identity, Identity.id == Render.identity_id)
                .where(*mine)
            )
            keys = [*tx.execute(of_renders).scalars(), *tx.execute(of_outputs).scalars()]
        return {key: self.world.storage.get(key) for key in keys if key is not None}

    def spool(self) -> Spool:
        return Spool.from_settings(self.settings)


def gone_with(name: str) -> set[str]:
    """Who goes with a person: those that were made of it."""
    return {name} | {one for one, members in COMPOSED.items() if name in members}
