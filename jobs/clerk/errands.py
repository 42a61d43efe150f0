"""What the clerk does: each errand is one function that takes a turn and tells how much it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.database import Database
from jobs.repository import deliveries, ends
from jobs.settings import Settings
from jobs.storage import Storage

LOOK_SECONDS, SWEEP_SECONDS, DROP_SECONDS = 2.0, 60.0, 3600.0
GALLERIES_AT_ONCE, ENDPOINTS_AT_ONCE, DROPPED_AT_ONCE = 4, 8, 5_000
IsOver = Callable[[], bool]


@dataclass(frozen=True)
class Errand:
    """Something that the clerk looks after every so often; `wakes` names those that a turn leaves work for."""

    name: str
    turn: Callable[[IsOver], int]
    seconds: float = LOOK_SECONDS
    wakes: tuple[str, ...] = ()


def errands(database: Database, storage: Storage, settings: Settings, owner: str) -> list[Errand]:
    """All of them, in the order in which one makes work for the next."""

    def galleries(is_over: IsOver) -> int:
        from jobs.gallery import build_due

        return build_due(database, storage, settings, owner=owner, limit=GALLERIES_AT_ONCE, is_over=is_over)

    def webhooks(is_over: IsOver) -> int:
        from jobs.webhooks import deliver_due

        return deliver_due(database, settings, owner=owner, limit=ENDPOINTS_AT_ONCE, is_over=is_over)

    def sweeping(_is_over: IsOver) -> int:
        from jobs.privacy import retention

        return retention.turn(database, storage, settings)

    return [
        Errand("ends", lambda is_over: tell_ends(database, is_over=is_over), wakes=("galleries", "webhooks")),
        Errand("galleries", galleries),
        Errand("webhooks", webhooks),
        Errand("retention", sweeping, SWEEP_SECONDS),
        Errand("deliveries", lambda is_over: drop_old_deliveries(database, is_over=is_over), DROP_SECONDS),
    ]


def tell_ends(database: Database, *, is_over: IsOver = lambda: False) -> int:
    """Tell all ends that are untold, some of a job and then some of the next; how many units' were told.

    So a job of very many does not keep others waiting. Where nothing is untold, nothing is locked.
    """
    told, of_round, last = 0, 0, None
    while not is_over():
        with database.reading() as tx:
            found = ends.next_job(tx, after=last)
        if found is None:
            if not of_round:
                break
            of_round, last = 0, None
            continue
        with database.transaction() as tx:
            units = ends.tell(tx, *found).units
        told, of_round, last = told + units, of_round + units, found
    return told


def drop_old_deliveries(database: Database, *, is_over: IsOver = lambda: False) -> int:
    """Remove deliveries that nobody asks for any more; how many. Some at a time: a job of a million has as many."""
    dropped = 0
    while not is_over():
        with database.reading() as tx:
            if not deliveries.any_old(tx):
                break
        with database.transaction() as tx:
            dropped += deliveries.drop_old(tx, limit=DROPPED_AT_ONCE)
    return dropped
