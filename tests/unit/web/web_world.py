"""An application over a small queue: two tenants, jobs that a fake renderer draws, and clients with tokens."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from queue_world import World
from starlette.testclient import TestClient

from hyperlora.errors import NoUsablePhoto
from jobs import tokens
from jobs.database import Database
from jobs.intake import enqueue
from jobs.settings import Settings
from jobs.web.app import create_app
from worker.testing import FakeRenderer

ACME, GLOBEX = "acme", "globex"
ADDRESS = "http://portraits.test"


def photo_bytes(colour: str = "red", *, width: int = 96, height: int = 64) -> bytes:
    """A PNG that is a photo as far as enqueueing can tell."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """The hash by which a photo is named."""
    return hashlib.sha256(data).hexdigest()


def announced(data: bytes, **changes: Any) -> dict[str, Any]:
    """What `POST /photos` is told of a photo."""
    return {"sha256": sha256(data), "size_bytes": len(data), "media_type": "image/png", **changes}


def manifest(*people: str, key: str = "spring", photo: str = "red.png", **changes: Any) -> dict[str, Any]:
    """A manifest of these people with two pictures each."""
    return {
        "key": key,
        "profile": "fake",
        "defaults": {"size": 64, "steps": 2},
        "prompts": [{"name": "office", "text": "portrait of {subject}", "seeds": 2}],
        "identities": [{"id": who, "subject": "somebody", "photos": [photo]} for who in people],
        **changes,
    }


@dataclass
class Site:
    """The application, its database and store, and a token of each tenant."""

    settings: Settings
    database: Database
    folder: Path
    texts: dict[tuple[str, bool], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for colour in ("red", "blue"):
            (self.folder / f"{colour}.png").write_bytes(photo_bytes(colour))
        self.renderer = FakeRenderer()
        self.world = World(self.database, self.settings, self.renderer)
        self.app = create_app(self.settings)
        self.client = TestClient(self.app, ADDRESS, raise_server_exceptions=False, follow_redirects=False)

    def token(self, tenant: str = ACME, *, write: bool = True) -> str:
        """The text of a token of this tenant, made when it is first asked for."""
        if (tenant, write) not in self.texts:
            made = tokens.create(self.database, tenant, f"{tenant} {write}", may_write=write)
            self.texts[tenant, write] = made.text
        return self.texts[tenant, write]

    def ask(self, method: str, path: str, *, tenant: str = ACME, write: bool = True, **more: Any) -> Any:
        """A request to the API with that tenant's token."""
        headers = {"Authorization": f"Bearer {self.token(tenant, write=write)}", **more.pop("headers", {})}
        return self.client.request(method, f"/api/v1{path}", headers=headers, **more)

    def get(self, path: str, **more: Any) -> Any:
        """What the API answers to a GET that must succeed."""
        answer = self.ask("GET", path, **more)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    def enqueue(self, *people: str, tenant: str = ACME, **changes: Any) -> uuid.UUID:
        """A job from a file's manifest, as the command line makes it."""
        told = manifest(*people, **changes)
        return enqueue(told, settings=self.settings, base=self.folder, overrides={"tenant": tenant}).job_id

    def draw(self) -> None:
        """Let the fake renderer draw all that waits."""
        while self.world.shift().units:
            continue

    def fail(self) -> None:
        """Let all that waits fail for its photos."""
        refuse = FakeRenderer(refuse=lambda photos: NoUsablePhoto("no face was found; take one from the front"))
        World(self.database, self.settings, refuse, owner="worker-2").shift()

    def send(self, data: bytes, *, tenant: str = ACME) -> str:
        """Announce and send a photo; how manifests name it."""
        place = self.ask("POST", "/photos", tenant=tenant, json=announced(data)).json()
        if not place["known"]:
            answer = self.client.put(place["url"], content=data, headers=place["headers"])
            assert answer.status_code == 204, answer.text
        return str(place["source"])

    def log_in(self, tenant: str = ACME) -> Any:
        """Log this client in."""
        return self.client.post("/login", data={"token": self.token(tenant)})


def keys(site: Site, prefix: str = "") -> Sequence[str]:
    """What lies in the store."""
    return sorted(site.world.storage.list(prefix))
