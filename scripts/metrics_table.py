"""Write docs/reference/metrics.md from what workers count: `python scripts/metrics_table.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from jobs.queue_metrics import QueueState, gauges
from worker.telemetry.metrics import Counts

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "metrics.md"
HEAD = """# Metrics

What a worker tells at `http://HOST:PORT/metrics` (`PORTRAITS_METRICS_PORT`), and `portraits serve` of the queue
(`PORTRAITS_SERVE_METRICS`); see [Watching a fleet](../telemetry.md). No label holds a tenant, job, person or picture,
and every label has a bound. This page is written by `scripts/metrics_table.py`.
"""
OF_WORKERS = """
## Of a worker

Sums over the processes that the worker has had. Of a histogram `_bucket`, `_sum` and `_count` are told.

| metric | kind | labels | meaning |
|---|---|---|---|
"""
OF_THE_QUEUE = """
## Of the queue

Read from the database, at most every 15 seconds; the same whoever tells them, so take `max` over all who do, not `sum`.

| metric | kind | labels | meaning |
|---|---|---|---|
"""


def table() -> str:
    """The whole page."""
    return HEAD + OF_WORKERS + "\n".join(_of_workers()) + "\n" + OF_THE_QUEUE + "\n".join(_of_the_queue()) + "\n"


def _of_workers() -> Iterator[str]:
    for instrument in vars(Counts(CollectorRegistry())).values():
        if isinstance(instrument, MetricWrapperBase):
            family = next(iter(instrument.collect()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield _row(name, family.type, instrument._labelnames, family.documentation)


def _of_the_queue() -> Iterator[str]:
    unit = {"profile": "p", "state": "ready", "units": 1, "pictures": 1, "oldest_seconds": 1.0}
    yield _row("portraits_queue_up", "gauge", (), "Whether the database told the queue's state.")
    for family in gauges(QueueState([unit], {}, {}, 0.0, 0, False)):
        labels = tuple(family.samples[0].labels)
        yield _row(family.name, family.type, labels, family.documentation)


def _row(name: str, kind: str, labels: tuple[str, ...], told: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {told} |"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != table():
            sys.exit("docs/reference/metrics.md is not what workers count; run python scripts/metrics_table.py")
    else:
        TARGET.write_text(table(), encoding="utf-8")
