"""How many rows a second enqueueing writes: 10,000 renders (500 people x 20 prompts), on SQLite and PostgreSQL.

    python bench/enqueue.py [--people 500] [--postgres postgresql://postgres@127.0.0.1:5432/postgres] [--repeat 3]

The photos are tiny and few, so that what is measured is checking, hashing and writing, not decoding. Messages go to the
serverless broker. Prints one JSON object a database: medians over the repeats.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import psycopg
from PIL import Image

from jobs import enqueue
from jobs.database import Database
from jobs.manifest import open_manifest
from jobs.settings import Settings

PROMPTS = 20


def write_manifest(folder: Path, people: int) -> Path:
    """A CSV of people who share ten photos, and the job beside it."""
    for n in range(10):
        Image.new("RGB", (64, 64), (n * 20, 90, 120)).save(folder / f"{n}.png")
    prompts = "\n".join(f"  - {{name: p{n}, text: 'portrait {n} of {{subject}}'}}" for n in range(PROMPTS))
    (folder / "job.yaml").write_text(f"defaults: {{size: 128, steps: 8}}\nprompts:\n{prompts}\n")
    with (folder / "people.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "subject", "photos"])
        table.writerows([f"person-{n}", "a person", f"{n % 10}.png"] for n in range(people))
    return folder / "people.csv"


def measure(url: str, people: int, repeat: int) -> dict[str, object]:
    """Medians of the seconds for the check alone and for the whole, and rows a second."""
    checks, wholes, renders = [], [], 0
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path = write_manifest(folder, people)
            settings = Settings(home=folder / "home", database_url=url.replace("HOME", name))  # type: ignore[arg-type]
            database = Database.from_settings(settings)
            database.upgrade()
            with open_manifest(path, settings=settings, job_file=folder / "job.yaml") as manifest:
                began = time.perf_counter()
                manifest.check()
                checks.append(time.perf_counter() - began)
            began = time.perf_counter()
            job = enqueue(path, settings=settings, job_file=folder / "job.yaml")
            wholes.append(time.perf_counter() - began)
            renders = job.renders
            rows = job.renders + job.units + 3 * job.identities
            database.dispose()
    seconds = statistics.median(wholes)
    return {
        "renders": renders,
        "rows": rows,
        "seconds": round(seconds, 2),
        "seconds_check": round(statistics.median(checks), 2),
        "renders_per_second": round(renders / seconds),
        "rows_per_second": round(rows / seconds),
    }


def main() -> None:
    """Measure both databases and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--postgres", default="")
    options = parser.parse_args()
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    sqlite = measure("sqlite:///HOME/bench.db", options.people, options.repeat)
    print(json.dumps({"database": "sqlite", **sqlite, **machine}))
    if options.postgres:
        name = f"portraits_bench_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(options.postgres, autocommit=True) as admin:
            for _ in range(options.repeat):
                admin.execute(f'CREATE DATABASE "{name}"')
                try:
                    url = f"{options.postgres.rsplit('/', 1)[0]}/{name}"
                    found = measure(url, options.people, 1)
                finally:
                    admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        print(json.dumps({"database": "postgresql", **found, **machine}))


if __name__ == "__main__":
    main()
