"""Where the processes of one worker count: files that its parent sums up."""

from __future__ import annotations

import os
from pathlib import Path

from worker.telemetry.runtime import RunFolder


def counts_of(folder: RunFolder) -> Path:
    """The folder of these files."""
    return folder.path / "metrics"


def begin_counting(folder: RunFolder) -> None:
    """Let this process, and those that it forks, count there, before any count is made. Raises OSError.

    The variable alone is not enough: the library reads it when it is imported, which Celery's plugins may have done.
    """
    from prometheus_client import values

    counts_of(folder).mkdir(mode=0o700, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(counts_of(folder))
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
