"""How the queue grows: claims, enqueueing, status, pages and the reaper at 10,000 to 1,000,000 pictures that wait.

    python bench/queues.py [--sizes 10000,100000,1000000] [--postgres postgresql://postgres@127.0.0.1:5432/postgres]
                           [--redis redis://127.0.0.1:6379/7] [--images 2000]

Each size is a job of people with 20 prompts in a database of its own: SQLite, and PostgreSQL if a server is named. Then
the same number of pictures through a plain Celery task for each image and through our shift, with one worker process
each, on Redis if it is named and otherwise on the broker without a server. Prints the tables of both.

Not called `queue`: beside programs that are run as files, that would hide the standard library's module.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import text

from bench import common
from bench.queue_fill import PROMPTS
from bench.queue_versus import versus, versus_table
from jobs.database import Database
from jobs.repository import queries, reaping, units

CLAIMERS = 4
SIZES = (10_000, 100_000, 1_000_000)
FIGURES = {
    "enqueued_per_second": "pictures enqueued a second",
    "peak_mib": "peak memory of enqueueing, MiB",
    "status_ms": "status of the job, ms",
    "first_page_ms": "first 1,000 pictures, ms",
    "people_ms": "first 1,000 people, ms",
    "claims_per_second": "claims a second, 1 claimer",
    "claims_per_second_many": f"claims a second, {CLAIMERS} claimers",
    "heartbeat_ms": "heartbeat of 64 leases, ms",
    "reap_idle_ms": "reaper with nothing to do, ms",
    "unsent_ms": "reaper looks for messages to send, ms",
    "reap_ms": "reaper returns 500 expired leases, ms",
}


def measure(url: str, renders: int, repeat: int) -> dict[str, Any]:
    """All figures of one size, in an empty database."""
    database = Database(url)
    database.upgrade()
    try:
        with tempfile.TemporaryDirectory() as name:
            filled = _fill(database, f"sqla+sqlite:///{name}/broker.db", max(renders // PROMPTS, 1))
        tenant, job_id = filled["tenant"], uuid.UUID(filled["job_id"])
        found: dict[str, Any] = {
            "renders": filled["renders"],
            "units": filled["units"],
            "seconds": filled["seconds"],
            "seconds_of": filled["seconds_of"],
            "enqueued_per_second": filled["renders"] / filled["seconds"],
            "peak_mib": filled["peak_bytes"] / 2**20,
        }
        found["status_ms"] = _milliseconds(database, lambda tx: queries.job(tx, tenant, job_id), repeat)
        first = lambda tx: list(islice(queries.renders(tx, tenant, job_id), queries.PAGE))  # noqa: E731
        found["first_page_ms"] = _milliseconds(database, first, repeat)
        found["people_ms"] = _milliseconds(database, lambda tx: queries.people(tx, tenant, job_id), repeat)
        found["unsent_ms"] = _milliseconds(database, lambda tx: units.unsent(tx, resend_seconds=0.0, limit=8), repeat)
        return found | _leases(database, filled["units"], repeat)
    finally:
        database.dispose()


def _fill(database: Database, broker_url: str, people: int) -> dict[str, Any]:
    url = database.engine.url.render_as_string(hide_password=False)
    database.dispose()
    program = Path(__file__).with_name("queue_fill.py")
    line = [sys.executable, str(program), url, broker_url, str(people)]
    told = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=_environment()).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    """So that a program of this folder finds the packages."""
    return {**os.environ, "PYTHONPATH": str(common.ROOT), "OMP_NUM_THREADS": "1"}


def _leases(database: Database, waiting: int, repeat: int) -> dict[str, float]:
    """Claims, heartbeats and the reaper; at most a quarter of the units is claimed."""
    number = min(200, max(waiting // 8, 1))
    found = {"reap_idle_ms": _milliseconds(database, lambda tx: reaping.reap(tx, max_attempts=3), repeat)}
    found["claims_per_second"] = _claims(database, 1, number)
    found["claims_per_second_many"] = _claims(database, CLAIMERS, max(number // CLAIMERS, 1))
    with database.transaction() as tx:
        held = units.claim_next(tx, "fake", "held", limit=64, lease_seconds=600, max_attempts=3)
    tokens = {unit.id: unit.lease_token for unit in held}
    found["heartbeat_ms"] = _milliseconds(
        database, lambda tx: units.heartbeat(tx, "held", tokens, lease_seconds=600), repeat
    )
    spent = []
    for _ in range(repeat):
        with database.transaction() as tx:
            units.claim_next(tx, "fake", "lost", limit=500, lease_seconds=600, max_attempts=99)
            tx.execute(text("UPDATE units SET lease_until = 1.0, lost_workers = 0 WHERE lease_owner = 'lost'"))
        spent.append(_milliseconds(database, lambda tx: reaping.reap(tx, max_attempts=99, max_lost_workers=99), 1))
    found["reap_ms"] = statistics.median(spent)
    return found


def _claims(database: Database, claimers: int, each: int) -> float:
    """Units a second, claimed one in each transaction."""
    barrier, taken = threading.Barrier(claimers + 1), []

    def claim(owner: str) -> None:
        barrier.wait()
        for _ in range(each):
            with database.transaction() as tx:
                taken.append(units.claim_next(tx, "fake", owner, limit=1, lease_seconds=600, max_attempts=3))

    threads = [threading.Thread(target=claim, args=(f"claimer-{n}",)) for n in range(claimers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(map(len, taken)) / (time.perf_counter() - began)


def _milliseconds(database: Database, act: Callable[[Any], object], repeat: int) -> float:
    """The median of one transaction."""
    spent = []
    for _ in range(repeat):
        began = time.perf_counter()
        with database.transaction() as tx:
            act(tx)
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent)


@contextmanager
def _databases(kind: str, address: str) -> Iterator[str]:
    """The URL of an empty database, removed afterwards."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as name:
            yield f"sqlite:///{name}/bench.db"
        return
    name = f"portraits_bench_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        try:
            yield f"{address.rsplit('/', 1)[0]}/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]


def growth_table(kind: str, rows: Sequence[dict[str, Any]]) -> str:
    """A figure a row: its value at each size, and its ratio from size to size."""
    head = [kind, *(f"{row['renders']:,}" for row in rows)]
    head += [f"x{after['renders'] / before['renders']:.3g}" for before, after in pairwise(rows)]
    lines = []
    for figure, told in FIGURES.items():
        values = [row[figure] for row in rows]
        ratios = [f"{after / before:.2f}" for before, after in pairwise(values)]
        lines.append([told, *(f"{value:,.4g}" if value < 1e3 else f"{value:,.0f}" for value in values), *ratios])
    return common.table(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sizes on all databases, then both ways of drawing, and print what was found."""
    made = common.parser(__doc__, repeat=5)
    made.add_argument(
        "--sizes", type=common.numbers, default=[10_000, 100_000, 1_000_000], help="pictures, with commas"
    )
    made.add_argument("--postgres", default="", help="address of a database whose server may make others")
    made.add_argument("--redis", default="", help="address of a Redis database for queues of our own")
    made.add_argument("--images", type=int, default=2_000, help="pictures of the comparison with plain tasks")
    options = common.parsed(made, arguments)
    if options.toy:
        options.sizes, options.images, options.repeat = [40, 80], 4, 1
    found = {"databases": _grown(options), "versus": versus(options.redis, options.images, options.repeat)}
    tables = [growth_table(kind, rows) for kind, rows in found["databases"].items()]
    for name in ("postgres", "redis"):  # an address may hold a password
        setattr(options, name, bool(getattr(options, name)))
    common.finish("queues", found, "\n\n".join([*tables, versus_table(found["versus"])]), options)


def _grown(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    kinds = {"sqlite": "", **({"postgresql": options.postgres} if options.postgres else {})}
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, address in kinds.items():
        for size in options.sizes:
            with _databases(kind, address) as url:
                found.setdefault(kind, []).append(measure(url, size, options.repeat))
            print(f"{kind}, {size:,}: {found[kind][-1]}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
