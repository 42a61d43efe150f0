"""The workers in a sentence: who works, who waits, who cannot and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from worker.cli.output import ago, short

SHOWN_REASONS = 3


def fleet(rows: Sequence[Mapping[str, Any]], now: float, *, silent_after: float) -> list[dict[str, Any]]:
    """The workers as plain values; one in the middle of work whose sign of life is old is `silent`."""
    workers = []
    for row in rows:
        age = max(0.0, now - row["last_seen_at"])
        state = "silent" if row["state"] in {"working", "starting"} and age > silent_after else row["state"]
        kept = {name: row[name] for name in ("name", "profile", "device", "version", "error")}
        workers.append({**kept, "state": state, "seen_seconds_ago": round(age, 1)})
    return workers


def fleet_line(workers: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many workers are in which state, and why some are unfit."""
    told = [worker for worker in workers if worker["state"] != "stopped"]
    if not told:
        return "workers: none running; `portraits worker` starts one"
    counts = Counter(worker["state"] for worker in told)
    parts = [
        f"{counts[state]} {state}" for state in ("working", "starting", "idle", "unfit", "silent") if counts[state]
    ]
    newest = min(worker["seen_seconds_ago"] for worker in told)
    line = f"workers: {', '.join(parts)}; last sign of life {ago(newest)} ago"
    return "; ".join([line, *unfit_reasons(told)])


def unfit_reasons(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why workers take no unit, each reason once."""
    reasons = dict.fromkeys(short(worker["error"], 300) for worker in workers if worker["state"] == "unfit")
    return [f"unfit: {reason}" for reason in reasons][:SHOWN_REASONS]
