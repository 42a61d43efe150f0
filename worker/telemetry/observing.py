"""Who is told of a process's shifts: what the settings ask for, and nothing else is loaded."""

from __future__ import annotations

from jobs import tracing
from jobs.database import Database
from jobs.settings import Settings
from worker.telemetry import runtime
from worker.telemetry.events import Observer, Observers
from worker.telemetry.health import Pulse
from worker.telemetry.lines import Lines


def observer_of(settings: Settings, database: Database, *own: Observer) -> Observer:
    """Everybody who is to be told of this process's shifts, and `own` ones. Raises SettingsInvalid where spans cannot
    be sent.
    """
    observers: list[Observer] = [*own, Lines()]
    folder = runtime.mine()
    if folder is not None:
        observers.append(Pulse(folder))
        if settings.metrics_port:
            observers.append(metrics_observer())
    tracer = tracing.tracer(settings, "worker")
    if tracer is not None:
        from worker.telemetry.spans import Spans

        observers.append(Spans(tracer, database))
    return Observers(observers)


def metrics_observer() -> Observer:
    """One that counts, in a process of a worker whose metrics are asked for."""
    from prometheus_client import CollectorRegistry

    from worker.telemetry.metrics import Counts, Metrics

    return Metrics(Counts(CollectorRegistry()))
