"""Whether a worker does its work: its parent asks the broker, and its child, once in a shift, goes on with it.

Two small files say when that was last so, on the machine's monotonic clock, which all of its processes share and nobody
sets. A hung device, a stopped process or a broker that no longer answers leave them old; `portraits health` and
`/healthz` read them. A worker that loads and compiles a profile claims nothing meanwhile, and may take long over it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any

from jobs.settings import Settings
from worker.telemetry.runtime import RunFolder

POLL, SHIFT = "poll", "shift"
LOADING_SECONDS = 3600.0
"""How long a worker may load and compile before it counts as stuck."""


@dataclass(frozen=True)
class Health:
    """Whether a worker is well, and why, in words."""

    worker: str
    is_well: bool
    reason: str


def look(folder: RunFolder, settings: Settings, now: float | None = None) -> Health:
    """How one worker of this machine is now."""
    moment = time.monotonic() if now is None else now
    poll, shift = _read(folder, POLL), _read(folder, SHIFT)
    name = folder.path.name.rpartition("-")[0]
    if poll is None:
        return Health(name, False, "it has not asked the broker yet")
    silent = moment - float(poll["at"])
    if silent > settings.health_seconds:
        return Health(name, False, f"it has not asked the broker for {silent:.0f} s")
    if shift is None or not _lives(int(shift["pid"])):  # the next child says nothing before its first shift
        return Health(name, True, f"it asked the broker {silent:.0f} s ago, and draws nothing")
    age, doing = moment - float(shift["at"]), shift["doing"]
    if doing == "standing still":
        return Health(name, False, str(shift["reason"]))
    limit = LOADING_SECONDS if doing == "loading" else max(settings.health_seconds, settings.lease_seconds)
    told = f"it is {doing}, and went on {age:.0f} s ago, at most {limit:.0f} s"
    return Health(name, age <= limit, told)


def workers(settings: Settings) -> list[Health]:
    """Every worker of this home that runs on this machine."""
    return [look(folder, settings) for folder in RunFolder.running_here(settings.home)]


def _read(folder: RunFolder, name: str) -> dict[str, Any] | None:
    text = folder.read(name)
    if text is None:
        return None
    told: dict[str, Any] = json.loads(text)
    return told


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
