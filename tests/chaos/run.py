"""A chaos run: six workers draw, and everything around them fails on a seeded clock.

Workers are killed (child or parent), stopped past their leases, and told to stop; messages are doubled, reordered and
stolen; once the queue is wiped, once the database crashes, once the store answers 503 and once it is slow. These four
come when a certain part of the pictures is recorded, so that they are never missed.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gates
import kombu
import redis
from cluster import Cluster, own_cluster
from fleet import ChaosWorker, Fleet, Nursery, until
from proxy import Proxy, Weather
from s3_server import S3Server
from services import REDIS_URL
from sqlalchemy import func, select
from stacks import PHOTOS, Stack, people_manifest

from jobs import enqueue
from jobs.broker import Broker
from jobs.errors import DatabaseUnavailable
from jobs.models import Render, Unit

WORKERS = 6
PER_PERSON = 10
GAP_SECONDS = 0.7
"""Between two faults, on average."""
STOPPED_SECONDS = (1.2, 2.5)
BAD_WEATHER_SECONDS = 4.0
# Each kill costs whatever its worker holds an attempt: with a kill every other second innocent units lose several
# workers, and the default of three would end them, as it should where a unit loses one worker after the other.
MOST_LOST = 30
TIMES = {
    "PORTRAITS_LEASE_SECONDS": "1",
    "PORTRAITS_REAP_SECONDS": "0.5",
    "PORTRAITS_RESEND_SECONDS": "1",
    "PORTRAITS_RETRY_SECONDS": "0.2",
    "PORTRAITS_STORAGE_WAIT_SECONDS": "1",
    "PORTRAITS_RENDERS_PER_UNIT": "4",
    "PORTRAITS_MAX_ATTEMPTS": str(MOST_LOST),
    "PORTRAITS_MAX_LOST_WORKERS": str(MOST_LOST),
    "PORTRAITS_FAKE_STEP_SECONDS": "0.1",
}
STEPS = 5


@dataclass
class Report:
    """What was done and what was found."""

    seed: int
    counts: gates.Counts
    faults: Counter[str] = field(default_factory=Counter)
    most_attempts: int = 0
    most_lost_workers: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"chaos run, seed {self.seed}: {self.faults.total()} faults ({faults}); {self.counts.renders} renders, "
            f"losses {self.counts.losses}, duplicates {self.counts.duplicates}, orphans before the sweep "
            f"{self.counts.orphans}, leases lost {self.counts.lost_workers} (at most {self.most_lost_workers} of one "
            f"unit, {self.most_attempts} attempts), generations {self.counts.generations}, {self.seconds:.0f} s"
        )


@contextmanager
def fragile_stack(home: Path, server: S3Server) -> Iterator[tuple[Stack, Cluster, Proxy]]:
    """PostgreSQL of its own, Redis, and S3 behind a proxy."""
    proxy = Proxy(server.endpoint)
    queue = f"portraits-chaos-{os.getpid()}-{time.time_ns()}"
    environment = {**server.environment, "PORTRAITS_S3_ENDPOINT_URL": proxy.endpoint}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with own_cluster() as cluster:
            stack = Stack(
                home,
                {
                    **environment,
                    **TIMES,
                    "PORTRAITS_DATABASE_URL": cluster.url,
                    "PORTRAITS_BROKER_URL": f"{REDIS_URL}/14",
                    "PORTRAITS_QUEUE": queue,
                    "PORTRAITS_STORAGE_URL": f"s3://{server.bucket}/{queue}",
                },
            )
            yield stack, cluster, proxy
            stack.database.dispose()
    finally:
        proxy.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        forget_queue(queue)


def forget_queue(queue: str) -> None:
    """Remove from Redis whatever bears the name of a run's own queue: messages waiting and taken, bindings, keys."""
    with redis.Redis.from_url(f"{REDIS_URL}/14") as server:
        for key in list(server.scan_iter(match=f"*{queue}*", count=1000)):
            server.delete(key)
        for tag, taken in list(server.hscan_iter("unacked", count=1000)):
            if json.loads(taken)[2] == queue:  # message, exchange, routing key
                server.hdel("unacked", tag)
                server.zrem("unacked_index", tag)


def enqueue_renders(stack: Stack, renders: int) -> int:
    """So many pictures of people known by one, two or three photos each. Returns how many people."""
    photos = sorted(path.name for path in PHOTOS.glob("*.jpg"))
    sets = itertools.chain.from_iterable(itertools.combinations(photos, count) for count in (1, 2, 3))
    people = [
        {"id": f"person-{number}", "subject": "a person", "photos": list(chosen)}
        for number, chosen in enumerate(itertools.islice(sets, renders // PER_PERSON))
    ]
    manifest = people_manifest(identities=people, defaults={"size": 64, "steps": STEPS, "seeds": PER_PERSON})
    manifest["prompts"] = manifest["prompts"][:1]
    assert enqueue(manifest, settings=stack.settings, base=PHOTOS).renders == renders
    return len(people)


class Chaos:
    """The clock of faults, and the hand that does them."""

    def __init__(self, stack: Stack, fleet: Fleet, cluster: Cluster, proxy: Proxy, seed: int) -> None:
        self._stack, self._fleet, self._cluster, self._proxy = stack, fleet, cluster, proxy
        self._chance = random.Random(seed)
        self._broker = Broker(stack.settings)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._pause = threading.Event()
        self._stopped: set[int] = set()
        self.faults: Counter[str] = Counter()
        with stack.database.reading() as tx:
            self._units = list(tx.execute(select(Unit.id)).scalars())
            self._renders = tx.execute(select(func.count()).select_from(Render)).scalar_one()
        self._milestones: list[tuple[float, Callable[[], None]]] = [
            (0.1, lambda: self._turn_weather("503")),
            (0.3, self._wipe_queue),
            (0.45, self._crash_database),
            (0.6, lambda: self._turn_weather("slow")),
        ]
        for _ in range(WORKERS):
            self._hire()

    def run(self, *, seconds: float) -> None:
        """Do faults until everything is at rest and each was done. Raises AssertionError when that takes too long."""
        ends_at = time.monotonic() + seconds
        next_fault = time.monotonic() + self._gap()
        while not (self._is_at_rest() and not self._milestones and not self._due):
            if time.monotonic() > ends_at:
                raise AssertionError(f"not at rest after {seconds:g} s, done {self._done()}; {self._fleet.logs()}")
            self._do_what_is_due()
            if time.monotonic() >= next_fault:
                self._do_harm()
                next_fault = time.monotonic() + self._gap()
            self._replace_the_dead()
            self._pause.wait(0.05)

    def close(self) -> None:
        """Let go the broker."""
        self._broker.close()

    def _gap(self) -> float:
        return self._chance.expovariate(1 / GAP_SECONDS)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), act))

    def _do_what_is_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if self._milestones and self._done() >= self._milestones[0][0] * self._renders:
            self._milestones.pop(0)[1]()

    def _done(self) -> int:
        """How many pictures are recorded; 0 while the database is away."""
        try:
            with self._stack.database.reading() as tx:
                return tx.execute(select(func.count()).where(Render.state == "done")).scalar_one()
        except DatabaseUnavailable:
            return 0

    def _is_at_rest(self) -> bool:
        try:
            return gates.is_at_rest(self._stack)
        except DatabaseUnavailable:
            return False

    def _do_harm(self) -> None:
        harms: list[Callable[[], None]] = [
            *[self._kill_child, self._kill_parent, self._stop_a_while, self._tell_to_stop],
            *[self._double_messages, self._steal_messages],
        ]
        self._chance.choice(harms)()

    def _someone(self) -> ChaosWorker | None:
        able = [one for one in self._fleet.workers if one.ended_with() is None and one.pid not in self._stopped]
        able = [one for one in able if one.is_ready()]
        return self._chance.choice(able) if able else None

    def _kill_child(self) -> None:
        worker = self._someone()
        for child in worker.children()[:1] if worker else []:
            os.kill(child, signal.SIGKILL)
            self.faults["child killed"] += 1

    def _kill_parent(self) -> None:
        if worker := self._someone():
            worker.signal(signal.SIGKILL)
            self.faults["parent killed"] += 1

    def _tell_to_stop(self) -> None:
        if worker := self._someone():
            worker.signal(signal.SIGTERM)
            self._stopped.add(worker.pid)
            self.faults["SIGTERM"] += 1

    def _stop_a_while(self) -> None:
        worker = self._someone()
        if worker is None:
            return
        worker.signal(signal.SIGSTOP, group=True)
        self._stopped.add(worker.pid)
        self.faults["stopped past the lease"] += 1

        def go_on() -> None:
            worker.signal(signal.SIGCONT, group=True)
            self._stopped.discard(worker.pid)

        self._later(self._chance.uniform(*STOPPED_SECONDS), go_on)

    def _double_messages(self) -> None:
        """Messages of units waiting, held and done, several of each, in any order."""
        units = self._chance.choices(self._units, k=6) * 2
        self._chance.shuffle(units)
        self._broker.send(units)
        self.faults["messages doubled"] += len(units)

    def _steal_messages(self) -> None:
        """A few messages are taken by somebody who does nothing with them."""
        with self._queue() as queue:
            for _ in range(4):
                message = queue.get()
                if message is not None:
                    message.ack()
                    self.faults["messages lost"] += 1

    def _wipe_queue(self) -> None:
        with self._queue() as queue:
            queue.purge()
        self.faults["queue wiped"] += 1

    @contextmanager
    def _queue(self) -> Iterator[Any]:
        with kombu.Connection(f"{REDIS_URL}/14") as connection, connection.channel() as channel:
            yield kombu.Queue(self._stack.settings.queue, channel=channel)

    def _crash_database(self) -> None:
        self._cluster.crash()
        self.faults["database crashed"] += 1

    def _turn_weather(self, weather: Weather) -> None:
        self._proxy.weather = weather
        self.faults[f"store {weather}"] += 1

        def clear() -> None:
            self._proxy.weather = "fair"

        self._later(BAD_WEATHER_SECONDS, clear)

    def _replace_the_dead(self) -> None:
        running = sum(one.ended_with() is None for one in self._fleet.workers)
        for _ in range(WORKERS - running):
            self._hire()

    def _hire(self) -> None:
        self._fleet.start(f"w{len(self._fleet.workers)}")


def run(home: Path, server: S3Server, nursery: Nursery, *, renders: int, seed: int, seconds: float) -> Report:
    """Draw so many pictures while everything fails, and hold the outcome against the gates."""
    print(f"chaos run, seed {seed}")
    began = time.monotonic()
    with fragile_stack(home, server) as (stack, cluster, proxy):
        people = enqueue_renders(stack, renders)
        fleet = Fleet(nursery, home, stack.environment)
        chaos = Chaos(stack, fleet, cluster, proxy, seed)
        try:
            chaos.run(seconds=seconds)
            leave(fleet)
        finally:
            chaos.close()
            fleet.close()
        counts = gates.check(stack, renders=renders, people=people)
        with stack.database.reading() as tx:
            most = tx.execute(select(func.max(Unit.attempts), func.max(Unit.lost_workers))).one()
    report = Report(seed, counts, chaos.faults, *most)
    report.seconds = time.monotonic() - began
    return report


def leave(fleet: Fleet) -> None:
    """Those who still run are told to stop, and end well, so that nobody writes any more."""
    running = [one for one in fleet.workers if one.ended_with() is None]
    for worker in running:
        until(worker.is_ready, f"the start of {worker.name}")
        # One that was told before may be in its last moments, when Python has given signals back their own meaning.
        if not worker.was_told_to_stop():
            worker.signal(signal.SIGTERM)
    codes = {worker.name: worker.wait() for worker in running}
    assert set(codes.values()) == {0}, f"{codes}\n{fleet.logs()}"
