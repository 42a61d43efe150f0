"""A broker that loses everything heals within a minute, and what it could not deliver is seen."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest
from queue_world import World, add_job, person, settings
from services import RABBITMQ_URL, missing
from sqlalchemy import update

from jobs.broker import SHIFT_TASK, Broker, make_app
from jobs.database import Database
from jobs.models import Unit
from jobs.settings import Settings
from worker.doctor.services import broker as broker_findings
from worker.reaper import turn
from worker.testing import FakeRenderer

HEALS_SECONDS = 60.0


def defaults(home: Path) -> tuple[float, float]:
    """The times that the product ships with."""
    shipped = Settings(home=home)
    return shipped.resend_seconds, shipped.reap_seconds


@pytest.fixture
def serverless(database: Database, database_url: str, tmp_path: Path) -> World:
    """The serverless broker, and the product's own times."""
    resend, reap = defaults(tmp_path)
    world = settings(tmp_path, database_url, resend_seconds=resend, reap_seconds=reap)
    return World(database, world, FakeRenderer(batch_size=4))


def waiting(world: World) -> int:
    broker = Broker(world.settings)
    try:
        return broker.counts().get(world.settings.queue, 0)
    finally:
        broker.close()


def reap(world: World) -> int:
    """One turn of the reaper; how many messages it sent."""
    broker = Broker(world.settings)
    try:
        return turn(world.database, broker, world.settings, "reaper-1")[2]
    finally:
        broker.close()


def test_an_emptied_broker_heals_within_a_minute(serverless: World) -> None:
    # Given three people who wait, announced at the serverless broker
    world = serverless
    add_job(world.database, [person(name, [1], world.settings) for name in ("ada", "alan", "kay")])
    assert reap(world) == 3 == waiting(world)

    # When every message is lost
    app = make_app(world.settings)
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_purge(world.settings.queue)
    app.close()
    assert waiting(world) == 0

    # Then the reaper's turns send nothing as long as the messages may still be under way
    assert reap(world) == 0

    # And the last turn within the minute sends them all again
    with world.database.transaction() as tx:
        last_turn = HEALS_SECONDS - world.settings.reap_seconds
        tx.execute(update(Unit).values(message_sent_at=Unit.message_sent_at - last_turn))
    assert reap(world) == 3 == waiting(world)


def test_the_default_times_keep_the_minute(tmp_path: Path) -> None:
    # A message is held to be lost after the one, and the next turn comes within the other.
    resend, reap = defaults(tmp_path)
    assert resend + reap <= HEALS_SECONDS


def test_doctor_tells_what_waits_at_the_broker(serverless: World) -> None:
    # Given a broker at which nobody has been, and one with a message
    before = list(broker_findings(serverless.settings))
    add_job(serverless.database, [person("ada", [1], serverless.settings)])
    reap(serverless)

    # When doctor looks
    (after,) = broker_findings(serverless.settings)

    # Then it tells the count, without an alarm, and of no dead letters where there are none by design
    assert [found.state for found in before] == ["ok"]
    assert after.state == "ok" and after.detail.endswith("1 wake-ups wait")


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[Settings]:
    """A queue of our own at the real server, removed afterwards."""
    found = Settings(home=tmp_path, broker_url=f"{RABBITMQ_URL}//", queue=f"test-{uuid.uuid4().hex[:12]}")  # type: ignore[arg-type]
    try:
        with kombu.Connection(f"{RABBITMQ_URL}//", connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            yield found
            with connection.channel() as channel:
                for name in (found.queue, f"{found.queue}.dead"):
                    channel.queue_delete(name)
    except (kombu.exceptions.OperationalError, OSError):
        missing("RabbitMQ (PORTRAITS_TEST_RABBITMQ_URL)")


@pytest.mark.rabbitmq
def test_rabbitmq_confirms_what_it_took_and_dead_letters_are_seen(rabbit: Settings) -> None:
    # Given a worker that has come up, twice
    broker = Broker(rabbit)
    broker.prepare()
    broker.prepare()
    assert list(_states(rabbit)) == [("broker", "ok"), ("dead letters", "ok")]

    # When a message is sent, and one is dead
    broker.send([uuid.uuid4()])
    with broker._app.connection_for_write() as connection:
        assert connection.transport_options["confirm_publish"] is True
        connection.Producer().publish({"lost": 1}, routing_key=f"{rabbit.queue}.dead", exchange="")

    # Then both are counted, as soon as sending returned: it waits until the server has them
    assert broker.counts() == {rabbit.queue: 1, f"{rabbit.queue}.dead": 1}
    assert list(_states(rabbit)) == [("broker", "ok"), ("dead letters", "note")]
    broker.close()


def _states(rabbit: Settings) -> Iterator[tuple[str, str]]:
    return ((found.name, found.state) for found in broker_findings(rabbit))


@pytest.mark.rabbitmq
def test_a_queue_of_an_earlier_version_is_used_as_it_is(rabbit: Settings) -> None:
    # Given a queue as version 0.1.0 declared it
    with kombu.Connection(f"{RABBITMQ_URL}//") as connection, connection.channel() as channel:
        channel.queue_declare(rabbit.queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})

    # When this version sends to it
    broker = Broker(rabbit)
    broker.prepare()
    broker.send([uuid.uuid4()])

    # Then the server takes it: the queue's arguments have not changed
    assert broker.counts()[rabbit.queue] == 1
    assert broker._app.tasks.get(SHIFT_TASK) is None
    broker.close()
