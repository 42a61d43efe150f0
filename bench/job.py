#!/usr/bin/env python
"""A whole job through queue, database and storage, beside the loops that a user would write with diffusers.

    python bench/job.py                                         toy size: the mini pack on a CPU
    python bench/job.py --profile realvis --people 4 --prompts 16 --size 1024 --repeat 3

All of it in one process, one after the other, over and over; ratios are of medians. What is compared:

    portraits        enqueue, then a shift: photos, weight sets made anew, full batches, PNG files and rows
    bare             the same UNet, VAE and batches, the LoRAs in memory: no photos, queue, database, storage or PNG
    loop             diffusers: load_lora_weights of a stored file for each person, one picture at a time, unmerged
    batched loop     the same, one person's pictures in batches
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sqlalchemy import select

from hyperlora.batches import draw_all
from hyperlora.lora import LoRA
from hyperlora.pipeline import Sample
from jobs import enqueue, results
from jobs.database import Database
from jobs.models import Unit
from jobs.profiles import find_profile
from jobs.settings import Settings
from worker.lora_tools.drawing import load_pipeline
from worker.lora_tools.maker import LoRAMaker, Place
from worker.lora_tools.photos import read_photos
from worker.process import WorkerProcess
from worker.quiet import quiet_libraries

PHOTOS = Path(__file__).resolve().parents[1] / "examples" / "photos"
PEOPLE = ("ada", "alan", "grace", "hedy", "katherine", "linus", "omar", "tim")
TEXTS = ("in a garden", "on a beach", "in an office", "under a starry sky", "in a library", "at sunset")
WAYS = ("portraits", "bare", "loop", "batched loop")


@dataclass(frozen=True)
class Asked:
    """People, their prompts, and how all is drawn."""

    people: tuple[str, ...]
    prompts: tuple[str, ...]
    size: int
    steps: int
    guidance: float
    scheduler: str
    batch: int

    @property
    def pictures(self) -> int:
        """Of all people."""
        return len(self.people) * len(self.prompts)


class Bench:
    """One profile, loaded as each way loads it."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.settings = Settings(home=home, profile=options.profile, profiles_file=options.profiles_file)
        Database.from_settings(self.settings).upgrade()
        profile = find_profile(self.settings, options.profile)
        drawing = profile.drawing()
        place = Place.of(profile, self.settings)
        self.pipeline, self._base, self._place = load_pipeline(place), place.profile.base, place
        self.asked = Asked(
            PEOPLE[: options.people],
            tuple(f"portrait photo of a person, {TEXTS[n % len(TEXTS)]}" for n in range(options.prompts)),
            options.size or int(drawing.get("size", self.pipeline.default_size)),
            options.steps or int(drawing.get("steps", 30)),
            float(drawing.get("guidance", 5.0)),
            str(drawing.get("scheduler", "dpmpp_2m_karras")),
            options.batch or profile.batch_size,
        )
        self.process = WorkerProcess(self.settings.model_copy(update={"batch_size": self.asked.batch}))
        self.loras = self._loras(home)
        self._diffusers = self._load_diffusers()
        self.facts: dict[str, Any] = {}

    def portraits(self) -> None:
        """The product, from a manifest to recorded pictures."""
        asked = self.asked
        run = uuid.uuid4().hex
        tenant = f"bench-{run[:8]}"  # a tenant of its own has no weight set yet
        manifest = {
            "key": run,
            "tenant": tenant,
            "profile": self.settings.profile,
            "defaults": {"size": asked.size, "steps": asked.steps, "detail": {"when": "never"}},
            "prompts": [{"name": f"p{n}", "text": text, "seeds": [n]} for n, text in enumerate(asked.prompts)],
            "identities": [{"id": who, "photos": [f"{who}-1.jpg"]} for who in asked.people],
        }
        enqueue(manifest, settings=self.settings, base=PHOTOS)
        with Database.from_settings(self.settings).reading() as tx:
            unit = tx.execute(select(Unit.id).where(Unit.tenant_id == tenant).limit(1)).scalar_one()
        report = self.process.run_shift(unit, self.settings.profile)
        done = [row for row in results(run, tenant=tenant, settings=self.settings) if row["state"] == "done"]
        if len(done) != asked.pictures:
            raise SystemExit(f"{len(done)} of {asked.pictures} pictures were drawn; the ways cannot be compared")
        self.facts["idle_share_between_batches"] = round(report.idle_share, 4)

    def bare(self) -> None:
        """Merging and full batches, and nothing else."""
        asked = self.asked
        for lora, _ in self.loras.values():
            self.pipeline.apply([(lora, 0.8)])
            samples = [Sample(text, n, guidance=asked.guidance) for n, text in enumerate(asked.prompts)]
            draw_all(
                self.pipeline, samples, asked.batch, width=asked.size, height=asked.size, steps=asked.steps,
                scheduler=asked.scheduler,
            )  # fmt: skip

    def loop(self) -> None:
        """One picture at a time, the LoRA beside the weights."""
        self._with_diffusers(1)

    def batched_loop(self) -> None:
        """One person's pictures in batches."""
        self._with_diffusers(self.asked.batch)

    def _with_diffusers(self, batch: int) -> None:
        pipe, asked = self._diffusers, self.asked
        for _, file in self.loras.values():
            pipe.load_lora_weights(str(file))
            for start in range(0, len(asked.prompts), batch):
                texts = [
                    f"{self.pipeline.trigger_words}, {text}".lstrip(", ")
                    for text in asked.prompts[start : start + batch]
                ]
                dice = [torch.Generator().manual_seed(start + n) for n in range(len(texts))]
                pipe(
                    texts, num_inference_steps=asked.steps, guidance_scale=asked.guidance, generator=dice,
                    width=asked.size, height=asked.size, cross_attention_kwargs={"scale": 0.8},
                )  # fmt: skip
            pipe.unload_lora_weights()

    def _loras(self, home: Path) -> dict[str, tuple[LoRA, Path]]:
        maker = LoRAMaker.load(self._place)
        made = {}
        for who in self.asked.people:
            person = maker.read(read_photos([PHOTOS / f"{who}-1.jpg"], self.settings), ["clearest"])
            lora = maker.generate(person, "id")
            file = home / f"{who}.safetensors"
            lora.save(file, format="diffusers")
            made[who] = (lora, file)
        return made

    def _load_diffusers(self) -> Any:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

        unet = self.pipeline.components.unet
        pipe: Any = cast(Any, StableDiffusionXLPipeline).from_pretrained(self._base, dtype=unet.dtype)
        pipe.scheduler = cast(Any, DPMSolverMultistepScheduler).from_config(
            pipe.scheduler.config, use_karras_sigmas=True
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(unet.device)


def timed(act: Callable[[], None]) -> float:
    """Seconds, with everything that the device was given."""
    _wait()
    began = time.perf_counter()
    act()
    _wait()
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All ways, in turn, once to warm up and `repeat` times for the medians."""
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        ways: dict[str, Callable[[], None]] = {
            "portraits": bench.portraits, "bare": bench.bare, "loop": bench.loop, "batched loop": bench.batched_loop,
        }  # fmt: skip
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.repeat + 1):
            for name, act in ways.items():
                seconds = timed(act)
                if turn:
                    taken[name].append(seconds)
        bench.process.close()
        medians = {name: statistics.median(values) for name, values in taken.items()}
        asked = bench.asked
        return {
            "device": _device(bench.pipeline.components.unet.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "profile": options.profile,
            "people": len(asked.people),
            "prompts": len(asked.prompts),
            "size": asked.size,
            "steps": asked.steps,
            "batch": asked.batch,
            "repeat": options.repeat,
            "images_per_second": {name: round(asked.pictures / seconds, 3) for name, seconds in medians.items()},
            "portraits_against": {
                name: round(medians[name] / medians["portraits"], 3) for name in WAYS if name != "portraits"
            },
            **bench.facts,
        }


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    asked = (
        f"{found['people']} people x {found['prompts']} prompts, {found['size']} px, {found['steps']} steps, "
        f"batches of {found['batch']}, profile {found['profile']}, {found['device']}, {found['threads']} threads"
    )
    rows = [
        f"| {name} | {found['images_per_second'][name]:.2f} | {found['portraits_against'].get(name, 1.0):.2f} |"
        for name in WAYS
    ]
    return "\n".join([asked, "", "| way | images/s | portraits is so many times as fast |", "|---|---|---|", *rows])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--profiles-file", type=Path)
    parser.add_argument("--people", type=int, default=3, choices=range(1, len(PEOPLE) + 1))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--size", type=int, help="pixels; default: the profile's")
    parser.add_argument("--steps", type=int, help="default: the profile's")
    parser.add_argument("--batch", type=int, help="default: the profile's")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args(arguments)
    found = measure(options)
    print(markdown(found))
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
