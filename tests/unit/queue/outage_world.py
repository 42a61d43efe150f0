"""A world whose store, database and disk go away on command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from queue_world import World
from sqlalchemy import Connection, select

from jobs.database import Database
from jobs.errors import DatabaseUnavailable, StorageDenied, StorageUnavailable
from jobs.models import Unit
from worker.aside import Outages
from worker.breaker import Breaker
from worker.committer import commit_all
from worker.spool import Spool

LONG = 60.0  # seconds after which what should have come is missing


class FaultyStore:
    """A store that answers with `fault` while `away` is set, and refuses what lies under `denied` at all times;
    `refused` is called with each key it refuses."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.away = inner, threading.Event()
        self.fault: Exception = StorageUnavailable("503 from the store")
        self.denied: str | None = None
        self.refused: list[str] = []
        self.on_refusal = lambda: None

    def _answer(self, name: str, key: str) -> None:
        if self.away.is_set():
            self.refused.append(f"{name} {key}")
            self.on_refusal()
            raise self.fault

    def put(self, key: str, *args: Any, **named: Any) -> None:
        self._answer("put", key)
        if self.denied is not None and key.startswith(self.denied):
            raise StorageDenied(f"{key} is refused")
        self.inner.put(key, *args, **named)

    def get(self, key: str) -> bytes:
        self._answer("get", key)
        return bytes(self.inner.get(key))

    def delete(self, key: str) -> None:
        self._answer("delete", key)
        self.inner.delete(key)

    def check(self) -> None:
        self._answer("check", "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class OutageWorld:
    """`world` lives through outages with `breaker` and `spool`; `store` is its store."""

    def __init__(self, world: World, tmp_path: Path, *, patience: float = 0.0, limit: int = 10_000_000) -> None:
        self.world, self.store = world, FaultyStore(world.storage)
        world.use_storage(self.store)
        self.changes: list[str | None] = []
        self.breaker = Breaker(self.store.check, first_wait_seconds=0.001, on_change=self._changed)
        self.spool = Spool(tmp_path / "spool", limit)
        self.changed = threading.Event()
        world.outages = Outages(
            self.breaker, self.spool, patience_seconds=patience, hold_seconds=3600.0, is_over=world.stop.is_set
        )

    def _changed(self) -> None:
        self.changes.append(self.breaker.reason)
        self.changed.set()

    def commit(self) -> int:
        """One turn of the committer, with a database and a store of its own."""
        return commit_all(self.world.database, self.store, self.spool)  # type: ignore[arg-type]

    @contextmanager
    def no_commits(self, monkeypatch: Any) -> Iterator[threading.Event]:
        """A database that refuses transactions while the event is set."""
        real, away = self.world.database.transaction, threading.Event()

        @contextmanager
        def transaction() -> Iterator[Connection]:
            if away.is_set():
                raise DatabaseUnavailable("the database is away")
            with real() as tx:
                yield tx

        with monkeypatch.context() as patched:
            patched.setattr(self.world.database, "transaction", transaction)
            yield away


def units(world: World) -> list[Any]:
    """All units, the first one first."""
    return units_of(world.database)


def units_of(database: Database) -> list[Any]:
    """All units, the first one first."""
    with database.reading() as tx:
        return list(tx.execute(select(Unit.__table__).order_by(Unit.id)))


def away_from_the_first_picture(outage: OutageWorld) -> None:
    """The store goes away when the device begins to draw."""
    outage.world.renderer._at_step = lambda step: outage.store.away.set()


def shift_until_put_aside(outage: OutageWorld) -> None:
    """A shift that is told to stop when its pictures are put aside: it would wait for the store otherwise."""
    put, stop = outage.spool.put, outage.world.stop
    waiting = [render for unit in units(outage.world) for render in range(unit.renders_total)]

    def counted(picture: Any) -> None:
        put(picture)
        if len(outage.spool.names()) == len(waiting):
            stop.set()

    outage.spool.put = counted  # type: ignore[method-assign]
    with suppress(DatabaseUnavailable):  # where it cannot claim on; what it drew is put aside all the same
        outage.world.shift()
    outage.spool.put = put  # type: ignore[method-assign]
    stop.clear()
    outage.world.renderer._at_step = lambda step: None
