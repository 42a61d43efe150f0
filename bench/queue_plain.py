"""What a user would write instead: a plain Celery task for each image, for `bench/queues.py` to compare with.

`noop` does nothing; `keep` draws the flat picture of the fake renderer's size, encodes it, writes a file and inserts a
row: what our worker keeps of a picture, without leases, status or metrics. Where things are is told by BENCH_BROKER,
BENCH_QUEUE and BENCH_HOME. The child notes in BENCH_HOME/plain.json when it ran its first task and its BENCH_COUNTth.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from celery import Celery
from PIL import Image

from jobs.broker import make_app
from jobs.settings import Settings

HOME = Path(os.environ.get("BENCH_HOME", "."))
COUNT = int(os.environ.get("BENCH_COUNT", "0"))


def plain_app(home: Path, broker_url: str, queue: str) -> Celery:
    """An app with the transport settings of the product: late acknowledgement, one message ahead."""
    urls: dict[str, Any] = {"broker_url": broker_url, "queue": queue}
    return make_app(Settings(home=home, **urls))


app = plain_app(HOME, os.environ.get("BENCH_BROKER", ""), os.environ.get("BENCH_QUEUE", "plain"))
_seen = {"count": 0, "began": 0.0}


def _note() -> None:
    """Called at the end of every task."""
    if not _seen["count"]:
        _seen["began"] = time.time()
    _seen["count"] += 1
    if _seen["count"] == COUNT:
        told = {"count": COUNT, "seconds": time.time() - _seen["began"]}
        part = HOME / "plain.json.part"
        part.write_text(json.dumps(told))
        part.rename(HOME / "plain.json")


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]
def noop(**_: Any) -> None:
    """Nothing but the task itself."""
    _note()


@app.task(name="bench.keep")  # type: ignore[untyped-decorator]
def keep(*, number: int, prompt: str, seed: int, width: int, height: int, **_: Any) -> None:
    """A picture, a file, a row."""
    digest = hashlib.sha256(f"{prompt} {seed}".encode()).digest()
    image = Image.new("RGB", (width, height), (digest[0], digest[1], digest[2]))
    path = HOME / "plain" / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    image.save(path)
    database = sqlite3.connect(HOME / "plain.db", timeout=60)
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS results (number INTEGER PRIMARY KEY, key TEXT, seed INTEGER)")
        database.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (number, path.name, seed))
    database.close()
    _note()


def payload(number: int) -> dict[str, Any]:
    """What a task for one image is told."""
    asked = {"prompt": f"portrait {number % 20} of a person", "negative_prompt": "", "width": 128, "height": 128}
    drawn = {"steps": 8, "guidance": 5.0, "scheduler": "dpmpp_2m_karras", "lora_weight": 0.8, "seed": number}
    person = {"person": f"person-{number // 20}", "photos": [f"{number // 20 % 10}.png"]}
    return {"number": number, **person, **asked, **drawn}
