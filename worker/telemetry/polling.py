"""When a worker's parent last went round its loop and asked the broker, as a step of Celery's consumer."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from worker.telemetry import parent

SECONDS = 2.0


class Polling(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Begins with each connection to the broker, and ends with it: a broker that is away is not asked."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._entry: Any = None

    def start(self, consumer: Any) -> None:
        """Note each round of the loop: of an event loop by its timer, else of the loop that waits for messages."""
        if consumer.hub is not None:
            self._entry = consumer.timer.call_repeatedly(SECONDS, parent.polled)
        else:
            _note_each_wait(consumer.connection)
        parent.polled()

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker ends."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None


def _note_each_wait(connection: Any) -> None:
    waited = connection.drain_events

    def drain_events(**options: Any) -> Any:
        parent.polled()
        return waited(**options)

    connection.drain_events = drain_events
