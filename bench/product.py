"""The product as a benchmark uses it: a worker process with database and storage of its own, and jobs for it.

People are the drawn ones of `examples/photos`, as many as are wanted: their photos are encoded anew for each, so that
nobody's weight set is there already.
"""

from __future__ import annotations

import argparse
import io
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import select

from bench import common
from hyperlora.lora import LoRA
from jobs import enqueue, results
from jobs.database import Database
from jobs.models import Unit
from jobs.profiles import find_profile
from worker.process import WorkerProcess
from worker.renderer import Person, Renderer, Sample, Setting
from worker.shift import ShiftReport

PHOTOS = common.ROOT / "examples" / "photos"
FACES = ("ada", "alan", "grace", "hedy", "katherine", "linus", "tim")
"""Drawn people of whom there are several photos."""
TEXTS = ("in a garden", "on a beach", "in an office", "under a starry sky", "in a library", "at sunset")
LORA_WEIGHT = 0.8


@dataclass(frozen=True)
class Asked:
    """People, their photos and prompts, and how all is drawn."""

    people: int
    prompts: int
    photos: int
    size: int
    steps: int
    guidance: float
    scheduler: str
    batch: int

    @property
    def pictures(self) -> int:
        """Of all people."""
        return self.people * self.prompts

    @property
    def texts(self) -> list[str]:
        """Everybody's prompts."""
        return [f"portrait photo of a person, {TEXTS[n % len(TEXTS)]}" for n in range(self.prompts)]

    @property
    def setting(self) -> Setting:
        """What is equal in all batches."""
        return Setting(self.size, self.size, self.steps, self.scheduler)

    @property
    def samples(self) -> list[Sample]:
        """One person's pictures."""
        return [Sample(text, "", n, self.guidance) for n, text in enumerate(self.texts)]


@dataclass(frozen=True)
class Done:
    """One job, from the manifest to the last recorded picture; seconds since it was enqueued."""

    seconds: float
    first_seconds: float
    report: ShiftReport
    rows: list[dict[str, Any]]

    def stage(self, name: str) -> float:
        """All pictures' seconds of one stage: weights, merge, denoise, decode, encode, upload."""
        return sum(float(row[f"seconds_{name}"] or 0.0) for row in self.rows)


class Product:
    """One profile in one worker process."""

    def __init__(self, options: argparse.Namespace, home: Path, *, as_started: bool = False) -> None:
        """What is compiled is the size that is drawn; `as_started`: what a worker compiles if it is told nothing."""
        self.settings = common.settings(options, home)
        if options.batch:
            self.settings = self.settings.model_copy(update={"batch_size": options.batch})
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.database = Database.from_settings(self.settings)
        self.database.upgrade()
        self.profile = find_profile(self.settings, options.profile)
        side = options.pixels or self.profile.drawing().get("size")
        if side and not as_started:
            self.settings = self.settings.model_copy(update={"warm": f"{side}x{side}"})
        self.process = WorkerProcess(self.settings)

    def asked(self, options: argparse.Namespace, **changes: Any) -> Asked:
        """What the command's lines ask, the profile's values where they say nothing; `changes` go before both."""
        drawing = self.profile.drawing()
        asked = Asked(
            people=options.people,
            prompts=options.prompts,
            photos=options.photos,
            size=options.pixels or int(drawing.get("size", 1024)),
            steps=options.steps or int(drawing.get("steps", 20)),
            guidance=float(drawing.get("guidance", 5.0)),
            scheduler=str(drawing.get("scheduler", "dpmpp_2m_karras")),
            batch=self.settings.batch_size or self.profile.batch_size,
        )
        return replace(asked, **changes)

    @property
    def renderer(self) -> Renderer:
        """What the worker draws with, loaded if it is not."""
        return self.process.load(self.settings.profile)

    def job(self, asked: Asked, *, began: float | None = None) -> Done:
        """Enqueue a job of people that nobody has seen, and work until it is done; `began` is by `time.time()`.

        Ends the program where a picture is missing: what was not drawn cannot be compared.
        """
        key = uuid.uuid4().hex
        tenant = f"bench-{key[:8]}"  # a tenant of its own has no weight set yet
        manifest = self._manifest(asked, key, tenant)
        started, wall = time.perf_counter(), time.time() if began is None else began
        enqueue(manifest, settings=self.settings, base=self.home)
        with self.database.reading() as tx:
            unit = tx.execute(select(Unit.id).where(Unit.tenant_id == tenant).limit(1)).scalar_one()
        report = self.process.run_shift(unit, self.settings.profile)
        seconds = time.perf_counter() - started
        rows = [dict(row) for row in results(key, tenant=tenant, settings=self.settings) if row["state"] == "done"]
        if len(rows) != asked.pictures:
            raise SystemExit(f"{len(rows)} of {asked.pictures} pictures were drawn; nothing can be told of this job")
        first = min(row["finished_at"] for row in rows).timestamp() - wall
        return Done(seconds, first, report, rows)

    def loras(self, asked: Asked) -> list[LoRA]:
        """Everybody's LoRA, as the worker makes it from the photos."""
        made = []
        for who in range(asked.people):
            photos = [(self.home / name).read_bytes() for name in self._photos(who, asked.photos)]
            person = Person(photos, [f"{n}.jpg" for n in range(len(photos))], [None] * len(photos))
            made.append(LoRA.from_bytes(self.renderer.generate("photos", [person]).lora))
        return made

    def bare(self, asked: Asked, loras: list[LoRA]) -> None:
        """Merging and full batches by the same renderer, and nothing else: no photos, queue, database, storage, PNG."""
        for lora in loras[: asked.people]:
            self.renderer.apply([(lora, LORA_WEIGHT)])
            for start in range(0, asked.prompts, asked.batch):
                self.renderer.draw(asked.samples[start : start + asked.batch], asked.setting)

    def close(self) -> None:
        """Say goodbye."""
        self.process.close()
        self.database.dispose()

    def _manifest(self, asked: Asked, key: str, tenant: str) -> dict[str, Any]:
        drawn = {"size": asked.size, "steps": asked.steps, "guidance": asked.guidance, "scheduler": asked.scheduler}
        return {
            "key": key,
            "tenant": tenant,
            "profile": self.settings.profile,
            "defaults": {**drawn, "lora_weight": LORA_WEIGHT, "detail": {"when": "never"}},
            "prompts": [{"name": f"p{n}", "text": text, "seeds": [n]} for n, text in enumerate(asked.texts)],
            "identities": [
                {"id": f"person-{who}", "photos": self._photos(who, asked.photos)} for who in range(asked.people)
            ],
        }

    def _photos(self, who: int, count: int) -> list[str]:
        """File names in the home, written when first asked for: no two people have the same file."""
        found = sorted(PHOTOS.glob(f"{FACES[who % len(FACES)]}-*.jpg"))
        names = []
        for n in range(count):
            name = f"photo-{who}-{n}.jpg"
            if not (self.home / name).is_file():
                with Image.open(found[n % len(found)]) as picture:
                    encoded = io.BytesIO()
                    picture.save(encoded, "JPEG", quality=95, comment=name.encode())
                (self.home / name).write_bytes(encoded.getvalue())
            names.append(name)
        return names


def add_job_lines(made: argparse.ArgumentParser, *, people: int, prompts: int) -> None:
    """The lines of those that draw jobs."""
    common.add_profile_lines(made)
    made.add_argument("--people", type=int, default=people)
    made.add_argument("--prompts", type=int, default=prompts, help="for each of the people")
    made.add_argument("--photos", type=int, default=1, help="of each of the people")
    made.add_argument("--pixels", type=int, help="width and height; default: the profile's")
    made.add_argument("--steps", type=int, help="default: the profile's")
    made.add_argument("--batch", type=int, help="default: the profile's")
