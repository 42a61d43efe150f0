"""The workers in a sentence: who works, who waits, who cannot and why; and what their last shifts did."""

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
        if state in {"working", "starting"} and row.get("drain_requested_at") is not None:
            state = "draining"
        kept = {name: row[name] for name in ("name", "profile", "device", "version", "error", "drawing_share")}
        workers.append({**kept, "state": state, "seen_seconds_ago": round(age, 1)})
    return workers


def at_work(
    rows: Sequence[Mapping[str, Any]], workers: Sequence[dict[str, Any]], owners: Sequence[str]
) -> list[dict[str, Any]]:
    """Those of these workers, given as rows and as `fleet` tells them, that hold leases under one of these names."""
    processes = {owner.rpartition(":")[0] for owner in owners}
    told = zip(rows, workers, strict=True)
    return [worker for row, worker in told if f"{row['name'].rpartition(':')[0]}:{row['pid']}" in processes]


def fleet_line(workers: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many workers are in which state, and why some are unfit."""
    told = [worker for worker in workers if worker["state"] != "stopped"]
    if not told:
        return "workers: none running; `portraits worker` starts one"
    counts = Counter(worker["state"] for worker in told)
    shown = ("working", "starting", "idle", "unfit", "draining", "drained", "silent")
    parts = [f"{counts[state]} {state}" for state in shown if counts[state]]
    newest = min(worker["seen_seconds_ago"] for worker in told)
    line = f"workers: {', '.join(parts)}; last sign of life {ago(newest)} ago"
    return "; ".join([line, *unfit_reasons(told)])


def unfit_reasons(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why workers take no unit, each reason once."""
    reasons = dict.fromkeys(short(worker["error"], 300) for worker in workers if worker["state"] == "unfit")
    return [f"unfit: {reason}" for reason in reasons][:SHOWN_REASONS]


def fleet_shifts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each worker's last shifts together, in the order of `rows`; shares are of all their seconds and places.

    None where there is nothing to share: nothing was drawn, or no time passed.
    """
    workers: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        workers.setdefault(row["worker"], []).append(row)
    return [_together(shifts) for shifts in workers.values()]


def _together(shifts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = ("units", "people", "renders", "pictures", "places", "batches", "mixed", "generated")
    spent = ("seconds", "seconds_before", "seconds_drawing", "seconds_between", "seconds_preparing")
    told = {name: shifts[0][name] for name in ("worker", "profile", "device", "version", "ended_at")}
    told |= {"shifts": len(shifts)} | {name: sum(shift[name] for shift in shifts) for name in (*counts, *spent)}
    return told | {
        "idle_share": _share(told["seconds_between"], told["seconds_between"] + told["seconds_drawing"]),
        "busy_share": _share(told["seconds_drawing"], told["seconds"]),
        "fill": _share(told["pictures"], told["places"]),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
