"""A plain Celery task for each image against our shift: messages, bytes at the broker, and pictures a second.

One worker process each, prefork with one child, the same broker, late acknowledgement; both take turns. All messages
are there before the worker starts; seconds run from the first picture to the last, so that starting does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import func, select, text

from bench import common
from bench.queue_fill import PROMPTS, settings_of, write_manifest
from bench.queue_plain import payload, plain_app
from jobs import enqueue
from jobs.database import Database
from jobs.models import Render

PATIENCE_SECONDS = 1_800.0
WAYS = ("plain, nothing kept", "plain, file and row", "portraits")
TASKS = {"plain, nothing kept": "bench.noop", "plain, file and row": "bench.keep"}


def versus(redis_url: str, images: int, repeat: int) -> dict[str, Any]:
    """Medians over `repeat` rounds for each way."""
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(repeat):
        for place in range(len(WAYS)):
            way = WAYS[(place + number) % len(WAYS)]
            with tempfile.TemporaryDirectory() as name:
                act = _portraits if way == "portraits" else _plain
                rounds[way].append(act(Path(name), redis_url, images, way))
            print(f"{way}: {rounds[way][-1]}", file=sys.stderr, flush=True)
    medians = {
        way: {figure: statistics.median(each[figure] for each in found) for figure in found[0]}
        for way, found in rounds.items()
    }
    return {"broker": "redis" if redis_url else "sqlite", "images": images, "ways": medians}


def versus_table(found: dict[str, Any]) -> str:
    """The three ways beside each other."""
    rows = [
        (
            way,
            f"{each['messages']:,.0f}",
            f"{each['messages_per_second']:,.0f}",
            f"{each['enqueued_per_second']:,.0f}",
            f"{each['broker_bytes']:,.0f}",
            f"{each['seconds']:.2f}",
            f"{each['images_per_second']:,.0f}",
        )
        for way, each in found["ways"].items()
    ]
    head = ("messages", "messages/s", "images enqueued/s", "bytes at the broker", "seconds to draw", "images/s")
    return common.table((f"{found['images']:,} images, {found['broker']}", *head), rows)


def _plain(home: Path, redis_url: str, images: int, way: str) -> dict[str, float]:
    queue = f"bench-plain-{uuid.uuid4().hex[:8]}"
    broker = redis_url or f"sqla+sqlite:///{home}/broker.db"
    environment = {"BENCH_HOME": str(home), "BENCH_BROKER": broker, "BENCH_QUEUE": queue, "BENCH_COUNT": str(images)}
    app = plain_app(home, broker, queue)
    try:
        before, began = _bytes(app, broker, queue, home), time.perf_counter()
        with app.producer_pool.acquire(block=True) as producer:
            for number in range(images):
                app.send_task(TASKS[way], kwargs=payload(number), producer=producer, retry=False)
        seconds_sending = time.perf_counter() - began
        kept = _bytes(app, broker, queue, home) - before
        done = home / "plain.json"
        _work("bench.queue_plain", home, environment, done.exists)
        seconds = json.loads(done.read_text())["seconds"]
    finally:
        _forget(app, redis_url, queue)
    return _figures(images, images, seconds_sending, seconds_sending, kept, seconds)


def _portraits(home: Path, redis_url: str, images: int, _: str) -> dict[str, float]:
    queue = f"bench-ours-{uuid.uuid4().hex[:8]}"
    broker = redis_url or f"sqla+sqlite:///{home}/broker.db"
    settings = settings_of(home, f"sqlite:///{home}/portraits.db", broker, queue)
    database = Database.from_settings(settings)
    database.upgrade()
    app = plain_app(home, broker, queue)
    try:
        before = _bytes(app, broker, queue, home)
        path = write_manifest(home, max(images // PROMPTS, 1), min(PROMPTS, images))
        began = time.perf_counter()
        job = enqueue(path, settings=settings, job_file=home / "job.yaml")
        seconds_enqueueing = time.perf_counter() - began
        kept = _bytes(app, broker, queue, home) - before
        names = ("home", "queue", "profiles_file", "profile")
        environment = {f"PORTRAITS_{name.upper()}": str(getattr(settings, name)) for name in names}
        environment |= {"PORTRAITS_BROKER_URL": broker, "PORTRAITS_DATABASE_URL": f"sqlite:///{home}/portraits.db"}

        def is_done() -> bool:
            with database.reading() as tx:
                waiting = select(func.count()).select_from(Render).where(Render.state == "waiting")
                return not tx.execute(waiting).scalar_one()

        _work("worker.app", home, environment, is_done)
        with database.reading() as tx:
            span = "SELECT (julianday(max(finished_at)) - julianday(min(finished_at))) * 86400 FROM renders"
            seconds = float(tx.execute(text(span)).scalar_one())
    finally:
        _forget(app, redis_url, queue)
        database.dispose()
    return _figures(job.renders, job.messages_sent, seconds_enqueueing, seconds_enqueueing, kept, seconds)


def _figures(
    images: int, messages: int, seconds_sending: float, seconds_enqueueing: float, kept: int, seconds: float
) -> dict[str, float]:
    return {
        "messages": messages,
        "messages_per_second": messages / seconds_sending,
        "enqueued_per_second": images / seconds_enqueueing,
        "broker_bytes": kept,
        "seconds": seconds,
        "images_per_second": (images - 1) / seconds if images > 1 else 0.0,
    }


def _work(module: str, home: Path, environment: dict[str, str], is_done: Callable[[], bool]) -> None:
    """One Celery worker until all is done. Raises TimeoutError with its last words."""
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "-P", "prefork", "-c", "1", "-l", "WARNING"]
    command += ["--without-gossip", "--without-mingle", "-n", f"{home.name}@%h"]
    variables = {**os.environ, "PYTHONPATH": str(common.ROOT), "OMP_NUM_THREADS": "1", **environment}
    log = home / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=home, env=variables, stdout=file, stderr=file, start_new_session=True)
    pause, ends_at = threading.Event(), time.monotonic() + PATIENCE_SECONDS
    try:
        while not is_done():
            if time.monotonic() > ends_at or process.poll() is not None:
                raise TimeoutError(f"{module} did not come to its end; it said:\n{log.read_text()[-4000:]}")
            pause.wait(0.2)
    finally:
        _end(process, gently="redis" in f"{environment}")


def _end(process: subprocess.Popen[bytes], *, gently: bool) -> None:
    """Nothing is in hand any more; on a server the worker gives back what it holds there, a file is removed anyway."""
    if gently and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _bytes(app: Celery, broker: str, queue: str, home: Path) -> int:
    """What the queue's messages take at the broker."""
    if not broker.startswith("redis"):
        return sum(path.stat().st_size for path in home.glob("broker.db*"))
    with app.connection_for_write() as connection:
        return int(connection.default_channel.client.memory_usage(queue, samples=0) or 0)


def _forget(app: Celery, redis_url: str, queue: str) -> None:
    """Remove the queue's own keys, and nobody else's."""
    if redis_url:
        with app.connection_for_write() as connection:
            connection.default_channel.client.delete(
                queue, f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"
            )
    app.close()
