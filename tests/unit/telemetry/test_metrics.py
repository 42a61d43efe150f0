"""What a worker counts, and what it tells of the queue."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import delete, insert, update
from test_events import watch

from hyperlora.errors import NoUsablePhoto
from jobs import queue_metrics
from jobs.database import Database, epoch_now
from jobs.errors import DatabaseUnavailable
from jobs.models import Unit
from jobs.models_outside import Delivery, Gallery, Webhook
from jobs.orm import utcnow
from jobs.queue_metrics import MOST_PROFILES, QueueCollector
from jobs.repository import fleet
from worker.telemetry.metrics import Counts, Metrics
from worker.testing import FakeRenderer


def values(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a scrape by its name and labels."""
    text = generate_latest(registry).decode()
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    yield CollectorRegistry()


def test_a_shift_is_counted(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry
) -> None:
    # Given two people with 5 and 3 pictures, one of which knows no face, and a device with room for two
    def refuse(photos: Any) -> Exception | None:
        return NoUsablePhoto("no face") if photos == [b"alan"] else None

    world = World(database, settings(tmp_path, database_url), FakeRenderer(fits=2, refuse=refuse, step_seconds=0.01))
    metrics = Metrics(Counts(registry))
    watch(world, monkeypatch, metrics)
    add_job(database, [person("ada", [5], world.settings), person("alan", [3], world.settings)])

    # When shifts draw until nothing waits
    metrics.shift_began("fake")
    metrics.shift_ended(world.shift())

    # Then pictures, batches, weight sets, stages and reasons are counted as they were
    found = values(registry)

    def count(name: str, **labels: str) -> float:
        return found[f"portraits_{name}", tuple(sorted(labels.items()))]

    assert count("images_total", outcome="recorded") == 5
    assert count("images_total", outcome="failed") == count("image_failures_total", code="no_usable_photo") == 3
    assert count("units_claimed_total") == 2 and count("claim_latency_seconds_count") == 2
    assert count("units_settled_total", outcome="done") == 1
    assert count("units_settled_total", outcome="failed") == 1
    assert count("out_of_memory_total", what="batch") == 1
    assert count("batch_pictures_total") == 5 and count("batches_total", mixed="no") == 3
    assert count("weight_sets_total", source="generated") == 1
    assert count("stage_seconds_count", stage="denoise") == 5 and count("stage_seconds_count", stage="commit") == 5
    assert count("batch_seconds_count") == 3
    assert count("device_seconds_total", doing="drawing") == pytest.approx(count("batch_seconds_sum"))
    assert count("device_seconds_total", doing="drawing") >= 3 * 2 * 0.01
    assert count("shifts_total") == 1
    # And nothing says whose it was
    told = " ".join(str(labels) for _, labels in found)
    assert TENANT not in told and "ada" not in told


def test_reasons_have_a_bound(registry: CollectorRegistry) -> None:
    # Given errors with more codes than anybody has written
    from jobs.errors import JobsError

    metrics = Metrics(Counts(registry))
    for number in range(500):
        kind = type("Made", (JobsError,), {"code": f"code_{number}", "__module__": "jobs.errors"})
        metrics.picture_failed(None, kind("made up"))  # type: ignore[arg-type]

    # Then a hundred have a label of their own, and none is lost
    found = {labels: value for (name, labels), value in values(registry).items() if name.endswith("failures_total")}
    assert len(found) == 102 and found[(("code", "other"),)] == 400 and found[(("code", "internal"),)] == 0
    assert sum(found.values()) == 500


def test_a_second_shift_counts_only_what_it_adds(registry: CollectorRegistry) -> None:
    # Given two shifts, each of which tells the seconds that it has come to
    from worker.drawn import Drawn
    from worker.telemetry.events import BatchDrawn

    metrics = Metrics(Counts(registry))
    for _ in range(2):
        metrics.shift_began("fake")
        for drawing, between in ((2.0, 0.0), (5.0, 1.0)):
            shift = Drawn(seconds_drawing=drawing, seconds_between=between, seconds_before=0.5)
            metrics.batch_drawn(BatchDrawn([], 4, False, 2.0, shift))

    # Then the sums are those of both
    found = values(registry)
    assert found["portraits_device_seconds_total", (("doing", "drawing"),)] == 10.0
    assert found["portraits_device_seconds_total", (("doing", "between"),)] == 2.0
    assert found["portraits_device_seconds_total", (("doing", "before"),)] == 1.0


def _collected(database: Database) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(QueueCollector(database))
    return values(registry)


def test_the_queue_is_told_by_state(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given six units: due since 100 s, due since 5 s, put off, held, held by a lost worker, and done
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    add_job(database, [person("ada", [2] * 6, world.settings)])
    with database.transaction() as tx:
        now = tx.execute(epoch_now().select()).scalar_one()
        states: list[dict[str, Any]] = [
            {"ready_at": now - 100},
            {"ready_at": now - 5},
            {"ready_at": now + 500},
            {"state": "leased", "lease_until": now + 60, "lease_owner": "a", "renders_done": 1},
            {"state": "leased", "lease_until": now - 60, "lease_owner": "b"},
            {"state": "done", "renders_done": 2},
        ]
        ids = [row.id for row in tx.execute(Unit.__table__.select().order_by(Unit.id))]
        for unit_id, state in zip(ids, states, strict=True):
            tx.execute(update(Unit).where(Unit.id == unit_id).values(**state))
        fleet.sign_of_life(tx, "w:1:a", name="w:1", pid=1, version="0", state="working")

    # When the queue is asked for
    found = _collected(database)

    # Then each is told in its state, and the oldest by its age
    def units(state: str, what: str = "units") -> float:
        return found[f"portraits_queue_{what}", (("profile", "fake"), ("state", state))]

    assert [units(state) for state in queue_metrics.STATES] == [2, 1, 1, 1, 0]
    assert units("leased", "pictures") == 1 and units("ready", "pictures") == 4
    assert found["portraits_queue_oldest_ready_seconds", (("profile", "fake"),)] == pytest.approx(100, abs=30)
    assert found["portraits_workers", (("state", "working"),)] == 1
    assert found["portraits_queue_up", ()] == 1


def test_deliveries_and_galleries_are_told(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a webhook with deliveries: one that waits, two that are tried again, one given up, one done; a gallery due
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    job = add_job(database, [person("ada", [1], world.settings)])
    with database.transaction() as tx:
        now, hook = tx.execute(epoch_now().select()).scalar_one(), uuid.uuid4()
        place = {"tenant_id": TENANT, "id": hook, "url": "https://example.com", "secret": "s", "kinds": []}
        tx.execute(insert(Webhook).values(created_at=utcnow(), **place))
        for state, attempts, due_at in (
            *(("waiting", 0, now + 60), ("waiting", 3, now - 500), ("waiting", 1, now + 5)),
            *(("failed", 9, now - 9000), ("done", 1, now - 9000)),
        ):
            row = {"tenant_id": TENANT, "id": uuid.uuid4(), "webhook_id": hook, "kind": "job.ended", "payload": {}}
            row |= {"state": state, "attempts": attempts, "due_at": due_at, "created_at": utcnow()}
            tx.execute(insert(Delivery).values(**row))
        gallery = {"tenant_id": TENANT, "job_id": job, "due_at": now - 1, "lease_token": 0, "attempts": 0}
        tx.execute(delete(Gallery))
        tx.execute(insert(Gallery).values(**gallery))

    # Then each is told in its state, and the oldest that is not over by how late it is
    found = _collected(database)
    told = {state: found["portraits_deliveries", (("state", state),)] for state in queue_metrics.DELIVERY_STATES}
    assert told == {"waiting": 1, "retrying": 2, "failed": 1}
    assert found["portraits_delivery_overdue_seconds", ()] == pytest.approx(500, abs=30)
    assert found["portraits_galleries_due", ()] == 1


def test_profiles_that_a_manifest_makes_up_have_a_bound(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given thirty profiles that people have named
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    for number in range(30):
        add_job(database, [person("ada", [1], world.settings)], key=str(number), profile=f"profile-{number}")

    # Then twenty have a label of their own, the others one together, and no unit is missing
    found = {labels: n for (name, labels), n in _collected(database).items() if name == "portraits_queue_units"}
    profiles = {dict(labels)["profile"] for labels in found}
    assert len(profiles) == MOST_PROFILES + 1 and "other" in profiles
    assert sum(found.values()) == 30


def test_the_database_is_asked_rarely(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a collector, a clock, and a database that takes 0.5 s to answer
    now, asked = [0.0], []

    def slow(_: Database) -> Any:
        asked.append(now[0])
        now[0] += 0.5
        return queue_metrics.QueueState([], {}, {}, 0.0, 0, False)

    monkeypatch.setattr(queue_metrics, "read", slow)
    collector = QueueCollector(database, clock=lambda: now[0])

    # When it is scraped every second for two minutes, then it asks for a hundredth of the time
    while now[0] < 120:
        list(collector.collect())
        now[0] += 1
    assert len(asked) == 3
    assert asked[1] - asked[0] == pytest.approx(50.5, abs=1.5)


def test_a_database_that_is_away_is_told_as_such(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a queue that was known once, and a database that does not answer any more
    now = [0.0]
    collector = QueueCollector(database, clock=lambda: now[0])
    assert {family.name: family.samples for family in collector.collect()}["portraits_queue_up"][0].value == 1

    def away(_: Database) -> Any:
        raise DatabaseUnavailable("postgresql://db does not answer")

    monkeypatch.setattr(queue_metrics, "read", away)
    now[0] += 1000

    # Then no old number is told as if it were new
    families = {family.name: family for family in collector.collect()}
    assert list(families) == ["portraits_queue_up"] and families["portraits_queue_up"].samples[0].value == 0


def test_every_metric_says_what_it_is(registry: CollectorRegistry, database: Database) -> None:
    Counts(registry)
    registry.register(QueueCollector(database))
    for family in registry.collect():
        assert re.fullmatch(r"portraits_[a-z_]+", family.name)
        assert family.documentation.endswith("."), family.name


def test_no_label_holds_an_id(database: Database, database_url: str, tmp_path: Path) -> None:
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    job: uuid.UUID = add_job(database, [person("ada", [1], world.settings)])
    told = str(_collected(database))
    assert str(job) not in told and TENANT not in told
