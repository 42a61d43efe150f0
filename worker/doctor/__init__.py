"""What is configured, reachable and installed, what stands beside the queue, and what is wrong with it, in words.

Every finding is `ok`, a `note` (worth knowing) or a `problem` with one sentence on how to get it right. Nothing is
changed but a probe object in the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.settings import Settings
from worker.doctor import beside, drawing, installed, marking, services, surroundings, weights
from worker.doctor.configuration import changed, configuration
from worker.doctor.findings import Finding

__all__ = ["Finding", "changed", "configuration", "examine"]


def examine(settings: Settings, *, missing: list[str], database_file: Path | None) -> Iterator[Finding]:
    """Everything, a finding at a time. `missing` are the modules of `[worker]` that are not installed;
    `database_file` is the file of an SQLite database, which is not made by looking.
    """
    yield from installed.packages(missing)
    database = services.database(settings, database_file)
    yield database
    yield from services.broker(settings)
    yield services.storage(settings)
    yield from surroundings.examine(settings, database_answers=database.state != "problem")
    if database.state != "problem":
        yield from beside.examine(settings)
    yield from beside.ports(settings)
    if missing:
        yield Finding(
            "drawing",
            "worker",
            "note",
            f"this machine enqueues and fetches, it does not draw; not installed: {', '.join(missing)}",
            "pip install 'hyperlora-portraits[worker]' makes it a worker",
        )
        return
    yield from drawing.spool(settings)
    yield drawing.device(settings)
    yield from drawing.profiles(settings)
    yield from weights.examine(settings)
    yield from drawing.memory(settings)
    yield from marking.examine(settings)
