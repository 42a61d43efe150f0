"""The queue's state as Prometheus gauges, read from the database: for a worker's port and for `portraits serve`.

Whoever answers, the numbers are the whole fleet's: a dashboard takes the maximum over all who answer, not the sum. The
database is asked at most every `LEAST_SECONDS`, and so rarely that asking takes a hundredth of its time at most. Where
it cannot be asked, `portraits_queue_up` is 0 and nothing else is told: an old number would look like a new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs.database import Database
from jobs.errors import JobsError
from jobs.repository import backlog, control
from jobs.repository.sight import require_sight

log = logging.getLogger(__name__)
LEAST_SECONDS, SHARE = 15.0, 100.0
MOST_PROFILES = 20
STATES = ("ready", "put off", "leased", "expired", "paused")
WORKER_STATES = ("working", "starting", "idle", "unfit", "silent", "drained")
DELIVERY_STATES = ("waiting", "retrying", "failed")


@dataclass(frozen=True)
class QueueState:
    """What was found."""

    units: Sequence[dict[str, Any]]
    workers: dict[str, int]
    deliveries: dict[str, int]
    delivery_overdue_seconds: float
    galleries_due: int
    is_paused: bool


def read(database: Database) -> QueueState:
    """The queue now. Raises DatabaseUnavailable; SettingsInvalid for a login that does not see every tenant."""
    with database.reading() as tx:
        require_sight(tx)
        backlog.bound(tx)
        deliveries, overdue = backlog.deliveries(tx)
        return QueueState(
            units=_bounded([dict(row) for row in backlog.units(tx)]),
            workers=backlog.workers(tx),
            deliveries=deliveries,
            delivery_overdue_seconds=overdue,
            galleries_due=backlog.galleries_due(tx),
            is_paused=control.fleet_paused_at(tx) is not None,
        )


def _bounded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest profiles, and all others as `other`: a manifest may name any profile, and so make up a label."""
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row["profile"]] = sizes.get(row["profile"], 0) + row["units"]
    kept = set(sorted(sizes, key=lambda name: -sizes[name])[:MOST_PROFILES])
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        profile = row["profile"] if row["profile"] in kept else "other"
        found = merged.setdefault((profile, row["state"]), {**row, "profile": profile, "units": 0, "pictures": 0})
        found["units"] += row["units"]
        found["pictures"] += int(row["pictures"] or 0)
        found["oldest_seconds"] = max(found["oldest_seconds"], row["oldest_seconds"])
    return list(merged.values())


class QueueCollector(Collector):
    """Tells the queue's state to a registry; several threads may ask at once."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._state: QueueState | None = None
        self._due = clock()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing is asked when the collector is registered."""
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        with self._lock:
            if self._clock() >= self._due:
                self._refresh()
            state = self._state
        up = GaugeMetricFamily("portraits_queue_up", "Whether the database told the queue's state.")
        up.add_metric([], 0.0 if state is None else 1.0)
        yield up
        if state is not None:
            yield from gauges(state)

    def _refresh(self) -> None:
        began = self._clock()
        try:
            self._state = read(self._database)
        except JobsError as error:
            self._state = None
            log.warning("the queue's state is not known: %s", error)
        except Exception:
            self._state = None
            log.exception("the queue's state could not be read")
        self._due = self._clock() + max(LEAST_SECONDS, SHARE * (self._clock() - began))


def gauges(state: QueueState) -> Iterator[GaugeMetricFamily]:
    """The queue as it was found, for a registry."""
    units = _family("queue_units", "Units that are not over.", "profile", "state")
    pictures = _family("queue_pictures", "Pictures of these units that are not over.", "profile", "state")
    oldest = _family("queue_oldest_ready_seconds", "For how long the oldest due unit has waited.", "profile")
    for profile in sorted({row["profile"] for row in state.units}):
        found = {row["state"]: row for row in state.units if row["profile"] == profile}
        for name in STATES:
            units.add_metric([profile, name], found[name]["units"] if name in found else 0)
            pictures.add_metric([profile, name], found[name]["pictures"] if name in found else 0)
        oldest.add_metric([profile], max(0.0, found["ready"]["oldest_seconds"]) if "ready" in found else 0.0)
    yield from (units, pictures, oldest)
    yield _counts("workers", "Workers that gave a sign of life within an hour.", WORKER_STATES, state.workers)
    yield _counts("deliveries", "Webhook deliveries that are not done.", DELIVERY_STATES, state.deliveries)
    yield _one(
        "delivery_overdue_seconds", "For how long the oldest delivery is overdue.", state.delivery_overdue_seconds
    )
    yield _one("galleries_due", "Galleries that are to be made now.", state.galleries_due)
    yield _one("fleet_paused", "Whether the fleet is paused.", state.is_paused)


def _family(name: str, told: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"portraits_{name}", told, labels=list(labels))


def _counts(name: str, told: str, states: Sequence[str], found: dict[str, int]) -> GaugeMetricFamily:
    family = _family(name, told, "state")
    for state in dict.fromkeys((*states, *found)):
        family.add_metric([state], found.get(state, 0))
    return family


def _one(name: str, told: str, value: float) -> GaugeMetricFamily:
    family = _family(name, told)
    family.add_metric([], float(value))
    return family
