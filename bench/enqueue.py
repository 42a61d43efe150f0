"""How many rows a second enqueueing writes: 10,000 renders (500 people x 20 prompts), on SQLite and PostgreSQL.

    python bench/enqueue.py [--people 500] [--postgres postgresql://postgres@127.0.0.1:5432/postgres] [--repeat 3]

The photos are tiny and few, so that what is measured is checking, hashing and writing, not decoding. Messages go to the
serverless broker. Prints a row a database: medians over the repeats.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from bench import common
from bench.queue_fill import write_manifest
from jobs import enqueue
from jobs.database import Database
from jobs.manifest import open_manifest
from jobs.settings import Settings


def measure(url: str, people: int, repeat: int) -> dict[str, Any]:
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
        "seconds": seconds,
        "seconds_check": statistics.median(checks),
        "renders_per_second": renders / seconds,
        "rows_per_second": rows / seconds,
    }


def on_postgres(address: str, people: int, repeat: int) -> dict[str, Any]:
    """The same in a database of its own, made for the time being."""
    name = f"portraits_bench_{uuid.uuid4().hex[:8]}"
    found = []
    with psycopg.connect(address, autocommit=True) as admin:
        for _ in range(repeat):
            admin.execute(f'CREATE DATABASE "{name}"')
            try:
                found.append(measure(f"{address.rsplit('/', 1)[0]}/{name}", people, 1))
            finally:
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    return sorted(found, key=lambda each: float(each["seconds"]))[len(found) // 2]


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    rows = [
        (
            name,
            each["renders"],
            f"{each['seconds']:.2f}",
            f"{each['seconds_check']:.2f}",
            round(each["rows_per_second"]),
        )
        for name, each in found["databases"].items()
    ]
    return common.table(("database", "renders", "seconds", "of it checking", "rows/s"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both databases and print what was found."""
    made = common.parser(__doc__, repeat=3)
    made.add_argument("--people", type=int, default=500)
    made.add_argument("--postgres", default="", help="address of a database whose server may make others")
    options = common.parsed(made, arguments)
    if options.toy:
        options.people = 5
    found = {"sqlite": measure("sqlite:///HOME/bench.db", options.people, options.repeat)}
    if options.postgres:
        found["postgresql"] = on_postgres(options.postgres, options.people, options.repeat)
    options.postgres = bool(options.postgres)  # an address may hold a password
    common.finish("enqueue", {"databases": found}, markdown({"databases": found}), options)


if __name__ == "__main__":
    main()
