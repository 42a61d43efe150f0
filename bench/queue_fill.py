"""A job of many people with shared photos, and how one enqueueing of it goes: seconds and peak memory.

    python bench/queue_fill.py DATABASE_URL BROKER_URL PEOPLE [PROMPTS]

A process of its own for `bench/queues.py`, without torch, so that its peak memory is that of enqueueing. The photos are
tiny and few, so that what is measured is checking, hashing and writing, not decoding. Prints one JSON object.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from jobs import enqueue, intake
from jobs.manifest import Manifest
from jobs.settings import Settings

PROMPTS = 20
PROFILES = '[profiles.fake]\nrenderer = "fake"\nbatch_size = 8\n'
PARTS = {
    "check": (Manifest, "check"),
    "people": (intake, "_register_people"),
    "rows": (intake, "_write_rows"),
    "messages": (intake, "send_messages"),
}
"""What is timed apart."""


def write_manifest(folder: Path, people: int, prompts: int = PROMPTS) -> Path:
    """A CSV of people who share ten photos, and the job beside it."""
    for n in range(10):
        Image.new("RGB", (64, 64), (n * 20, 90, 120)).save(folder / f"{n}.png")
    texts = "\n".join(f"  - {{name: p{n}, text: 'portrait {n} of {{subject}}'}}" for n in range(prompts))
    (folder / "job.yaml").write_text(f"defaults: {{size: 128, steps: 8}}\nprompts:\n{texts}\n")
    with (folder / "people.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "subject", "photos"])
        table.writerows([f"person-{n}", "a person", f"{n % 10}.png"] for n in range(people))
    return folder / "people.csv"


def settings_of(home: Path, database_url: str, broker_url: str, queue: str = "portraits", **more: Any) -> Settings:
    """For a profile that draws flat colours."""
    (home / "profiles.toml").write_text(PROFILES)
    urls: dict[str, Any] = {"database_url": database_url, "broker_url": broker_url, "queue": queue}
    return Settings(home=home, profile="fake", profiles_file=home / "profiles.toml", **urls, **more)


def fill(database_url: str, broker_url: str, people: int, prompts: int = PROMPTS) -> dict[str, Any]:
    """Enqueue the job into a migrated database."""
    seconds: dict[str, float] = {}
    for name, (owner, attribute) in PARTS.items():
        setattr(owner, attribute, _timed(getattr(owner, attribute), name, seconds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_manifest(folder, people, prompts)
        before, began = peak_bytes(), time.perf_counter()
        job = enqueue(path, settings=settings_of(folder, database_url, broker_url), job_file=folder / "job.yaml")
        whole = time.perf_counter() - began
    return {
        "job_id": str(job.job_id),
        "tenant": job.tenant,
        "renders": job.renders,
        "units": job.units,
        "seconds": whole,
        "seconds_of": seconds,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
    }


def peak_bytes() -> int:
    """The most memory that this process had at once."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _timed(act: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return act(*given, **named)
        finally:
            seconds[name] = time.perf_counter() - began

    return timed


if __name__ == "__main__":
    print(json.dumps(fill(*sys.argv[1:3], *map(int, sys.argv[3:]))))
