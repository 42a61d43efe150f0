"""A unit that ends its workers ends alone: after three of them, and nobody beside it pays."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import Connection, func, select, update
from test_mixed import CHEAP

from jobs.database import Database, epoch_now
from jobs.errors import DatabaseUnavailable, JobsError
from jobs.models import Event, Render, Unit, WeightSet
from jobs.repository import again, control, late, queries, reaping, units, weight_sets
from jobs.repository import renders as render_rows
from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from worker.renderer import GeneratedWeights, Order
from worker.testing import FakeRenderer
from worker.weights import Request, weight_set_fingerprint

TERMS: dict[str, Any] = {"lease_seconds": 30.0, "max_attempts": 5}
CLEAN, POISON = "a portrait", "poison"


def expire(database: Database) -> None:
    """Every lease has run out, without a wait."""
    with database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.state == "leased").values(lease_until=epoch_now() - 1.0, ready_at=0.0))
        tx.execute(update(WeightSet).where(WeightSet.state == "generating").values(lease_until=epoch_now() - 1.0))


class Deadly(FakeRenderer):
    """Ends its process when it draws the prompt `poison`, or looks at the photo `deadly`: from then on the process
    writes nothing.
    """

    def __init__(self, dead: threading.Event, deadly: bytes = b"", **options: Any) -> None:
        super().__init__(**options)
        self.dead, self.deadly = dead, deadly

    def generate_many(self, orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        if any(self.deadly in person.photos for order in orders for person in order.people):
            self.dead.set()
        if self.dead.is_set():
            raise DatabaseUnavailable("killed")
        return super().generate_many(orders)

    def draw(self, samples: Any, setting: Any, **options: Any) -> Any:
        if any(sample.prompt == POISON for sample in samples):
            self.dead.set()
        if self.dead.is_set():
            raise DatabaseUnavailable("killed")
        return super().draw(samples, setting, **options)


class Fleet:
    """One worker after the other on one database; each lives until it is killed, or nothing waits."""

    def __init__(self, database: Database, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self.dead, self.deaths = database, threading.Event(), 0
        self.settings = settings(tmp_path, url, max_attempts=5)
        self.deadly = b""
        real = database.transaction

        @contextmanager
        def transaction() -> Iterator[Connection]:
            if self.dead.is_set():
                raise DatabaseUnavailable("killed")
            with real() as tx:
                yield tx

        monkeypatch.setattr(database, "transaction", transaction)
        monkeypatch.setattr("worker.recorder.FIRST_WAIT_SECONDS", 0.001)  # a killed worker tries nothing again

    def work(self, *, together: bool) -> None:
        """Until nothing waits; every lease of a killed worker runs out, and a reaper comes."""
        for number in range(20):
            world = World(
                self.database, self.settings, Deadly(self.dead, self.deadly, batch_size=4), f"worker-{number}"
            )
            world.costs = CHEAP if together else None
            try:
                world.shift()
            except JobsError:
                assert self.dead.is_set()
            if not self.dead.is_set():
                return
            self.deaths += 1
            self.dead.clear()
            expire(self.database)
            with self.database.transaction() as tx:
                reaping.reap(tx, max_attempts=5)
        raise AssertionError("the work goes round in circles")


@pytest.mark.parametrize("together", [False, True])
def test_one_poison_unit_ends_alone_and_all_others_are_done(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    # Given a person with ten units, one of which ends every process that draws it, and other people
    fleet = Fleet(database, tmp_path, database_url, monkeypatch)
    job = add_job(database, [person(name, [1] * 10 if name == "ada" else [2, 2], fleet.settings) for name in PEOPLE])
    with database.transaction() as tx:
        fifth = tx.execute(select(Render.id, Render.unit_id).order_by(Render.unit_id).offset(4).limit(1)).one()
        tx.execute(update(Render).where(Render.id == fifth.id).values(prompt=POISON))

    # When workers come, one after the other
    fleet.work(together=together)

    # Then it took three workers along, the last two of them with nothing else in hand, and is quarantined
    assert fleet.deaths == 3
    with database.reading() as tx:
        rows = {row.id: row for row in tx.execute(select(Unit))}
        (told,) = queries.failures(tx, TENANT, job)
    poison = rows.pop(fifth.unit_id)
    assert (poison.state, poison.error_code, poison.lost_workers, poison.attempts) == ("failed", "quarantined", 3, 3)
    assert (told["error_code"], told["renders"]) == ("quarantined", 1)
    assert "portraits retry JOB --quarantined" in told["example"]

    # And everybody else is done, and was lost with it once at most
    assert {row.state for row in rows.values()} == {"done"}
    assert max(row.lost_workers for row in rows.values()) == 1


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("units_of_ada", [1, 6])
def test_photos_that_end_their_workers_cost_three_however_many_units_their_person_has(
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
    units_of_ada: int,
) -> None:
    # Given a person whose photo ends every process that looks at it, and other people
    fleet = Fleet(database, tmp_path, database_url, monkeypatch)
    fleet.deadly = b"ada"
    count = {"ada": units_of_ada}
    job = add_job(database, [person(name, [1] * count.get(name, 2), fleet.settings) for name in PEOPLE])

    # When workers come and go until nothing waits
    fleet.work(together=together)

    # Then three were lost, each picture of the person has the reason, and everybody else's are done
    assert fleet.deaths == 3
    found = select(Render.state, Render.error_code, func.count()).group_by(Render.state, Render.error_code)
    ended = {("failed", "quarantined", units_of_ada), ("done", None, 6)}
    with database.reading() as tx:
        assert {tuple(row) for row in tx.execute(found)} == ended

    # When somebody asks for the quarantined ones, with the photos still as they are, then it is the same once more
    with database.transaction() as tx:
        assert again.retry(tx, TENANT, job, again.Which(failed=False, quarantined=True))[0] == units_of_ada
    fleet.work(together=together)
    with database.reading() as tx:
        assert {tuple(row) for row in tx.execute(found)} == ended
    assert 3 < fleet.deaths <= 6

    # And when the fault is mended, they are done
    fleet.deadly = b""
    with database.transaction() as tx:
        again.retry(tx, TENANT, job, again.Which(failed=False, quarantined=True))
    fleet.work(together=together)
    with database.reading() as tx:
        assert [tuple(row) for row in tx.execute(found)] == [("done", None, units_of_ada + 6)]


def test_a_set_that_lost_a_worker_is_made_with_no_other_set_in_hand(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given three people, and a worker that was lost while it made the set of the first
    world = World(database, settings(tmp_path, database_url), FakeRenderer())
    add_job(database, [person(name, [1], world.settings) for name in ("ada", "bob", "cleo")])
    sources = [world.weight_sets.source(TENANT, unit.photo_set_id) for unit in claim(database)]
    first = weight_set_fingerprint(TENANT, sources[0].fingerprint, world.renderer)
    with database.transaction() as tx:
        weight_sets.begin(tx, TENANT, first, hyperlora_fingerprint="h")
        assert weight_sets.claim(tx, TENANT, first, "lost", lease_seconds=30.0)
    expire(database)

    # When all three are wanted at once, then the two others are made together, and it alone
    found = world.weight_sets.obtain_many([Request(TENANT, source, lambda: True) for source in sources])
    assert not any(one is None or isinstance(one, Exception) for one in found)
    assert world.renderer.together == [2, 1]


PEOPLE = ("ada", "bob", "cleo", "dora")


def claim(database: Database, owner: str = "w", *, limit: int = 9, beside_others: bool = False) -> list[ClaimedUnit]:
    with database.transaction() as tx:
        return units.claim_next(tx, "fake", owner, limit=limit, beside_others=beside_others, **TERMS)


def test_a_reported_fault_is_no_lost_worker(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a unit that was tried and told to have met a fault
    add_job(database, [person("ada", [1], settings(tmp_path, database_url))])
    (held,) = claim(database)
    with database.transaction() as tx:
        units.release(tx, held, "w", error_code="storage_unavailable", error="503")

    # Then its attempt counts, and nobody suspects it
    (again,) = claim(database)
    assert (again.attempts, again.lost_workers, again.is_suspected) == (2, 0, False)


def test_a_suspected_unit_is_claimed_alone_and_its_person_is_drawn_without_it(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given three units of a person, with the second of which a worker was lost
    add_job(database, [person("ada", [1, 1, 1], settings(tmp_path, database_url))])
    with database.transaction() as tx:
        ids = list(tx.execute(select(Unit.id).order_by(Unit.sort_key, Unit.id)).scalars())
        tx.execute(update(Unit).where(Unit.id == ids[1]).values(lost_workers=1))

    # When they are claimed, then what comes first takes the other along, and not that one
    (first,) = claim(database, limit=1)
    with database.transaction() as tx:
        others = units.claim_same_person(tx, first, "w", limit=9, **TERMS)
    assert [first.id, *(unit.id for unit in others)] == [ids[0], ids[2]]

    # And that one is claimed beside nobody, and takes nobody along
    assert claim(database, beside_others=True) == []
    (alone,) = claim(database)
    with database.transaction() as tx:
        units.release(tx, first, "w")
        assert alone.id == ids[1] and units.claim_same_person(tx, alone, "w", limit=9, **TERMS) == []


def test_nobody_passes_a_suspected_unit_whose_turn_it_is(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a suspected unit that comes first, and one behind it
    add_job(database, [person("ada", [1], settings(tmp_path, database_url))], key="first", priority=9)
    add_job(database, [person("bob", [1], settings(tmp_path, database_url))], key="second")
    with database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.priority == 9).values(lost_workers=1))

    # Then a worker that holds others is given nothing, so that its hands become empty; it waits for no second turn
    assert claim(database, beside_others=True) == []
    assert [unit.lost_workers for unit in claim(database)] == [1]
    assert [unit.lost_workers for unit in claim(database, beside_others=True)] == [0]


def test_an_expired_lease_is_a_lost_worker_whoever_finds_it(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given a unit whose lease is found expired by a claim, by the reaper, and by a pause
    job = add_job(database, [person("ada", [1], settings(tmp_path, database_url))])
    counts = []
    claim(database)
    expire(database)
    assert claim(database, beside_others=True) == []
    counts += [unit.lost_workers for unit in claim(database)]
    expire(database)
    with database.transaction() as tx:
        assert reaping.reap(tx, max_attempts=5, max_lost_workers=9) == (1, 0)
    with database.transaction() as tx:
        counts += [unit.lost_workers for unit in units.claim_next(tx, "fake", "w", limit=1, **TERMS)]
    expire(database)
    with database.transaction() as tx:
        control.pause_job(tx, TENANT, job)
        counts.append(tx.execute(select(Unit.lost_workers)).scalar_one())

    # Then each counts one
    assert counts == [1, 2, 3]


def test_what_was_drawn_before_stays_and_one_event_tells_of_the_quarantine(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given a unit of three pictures of which one was recorded before its third worker was lost
    job = add_job(database, [person("ada", [3], settings(tmp_path, database_url))])
    with database.transaction() as tx:
        tx.execute(update(Unit).values(lost_workers=2))
    (held,) = claim(database, "host:7:a")
    with database.transaction() as tx:
        first, *_ = render_rows.waiting(tx, [held])
        assert render_rows.complete(tx, first, "host:7:a", drawn(f"{TENANT}/{job}/{first.id}/1.png"))
    expire(database)

    # When the reaper comes
    with database.transaction() as tx:
        assert reaping.reap(tx, max_attempts=5) == (0, 1)

    # Then the picture stays, the others have the reason, and the event names the worker
    with database.reading() as tx:
        row = queries.job(tx, TENANT, job)
        (event,) = tx.execute(select(Event).where(Event.kind == "unit.quarantined"))
    assert row is not None and (row["state"], row["done"], row["failed"]) == ("partial", 1, 2)
    assert event.worker == "host:7:a" and event.data == {"renders": 2, "lost_workers": 3, "attempts": 1}


def lose_the_third_worker(database: Database) -> tuple[ClaimedUnit, WaitingRender]:
    """The one unit in the hands of a worker whose lease has run out, after two others were lost, and its picture."""
    with database.transaction() as tx:
        tx.execute(update(Unit).values(lost_workers=2))
    (held,) = claim(database)
    with database.reading() as tx:
        (render,) = render_rows.waiting(tx, [held])
    expire(database)
    return held, render


def test_late_pictures_of_a_unit_about_to_be_quarantined_still_count(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given a unit whose third worker is lost, with the picture of it on that worker's disk
    job = add_job(database, [person("ada", [1], settings(tmp_path, database_url))])
    held, render = lose_the_third_worker(database)

    # When the reaper sees it, then it is left alone for the grace, by the reaper and by whoever claims
    with database.transaction() as tx:
        assert reaping.reap(tx, max_attempts=5, grace_seconds=60.0) == (0, 0)
        assert reaping.reap(tx, max_attempts=5, grace_seconds=60.0) == (0, 0)
    assert claim(database, "other") == []

    # And its own worker, back in time, records what it has
    with database.transaction() as tx:
        key = f"{TENANT}/{job}/{render.id}/1.png"
        assert late.standing(tx, held, "w", render.id, key) == "wanted"
        assert render_rows.complete(tx, render, "w", drawn(key))
    with database.reading() as tx:
        assert tx.execute(select(Unit.state, Unit.lost_workers)).one() == ("done", 2)


def test_a_worker_whose_unit_the_reaper_has_ended_writes_nothing_even_after_a_retry(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given a unit that the reaper ended while its third worker was silent, and that somebody asked for again
    job = add_job(database, [person("ada", [1], settings(tmp_path, database_url))])
    held, render = lose_the_third_worker(database)
    with database.transaction() as tx:
        assert reaping.reap(tx, max_attempts=5) == (0, 1)
        assert again.retry(tx, TENANT, job, again.Which(failed=False, quarantined=True)) == (1, [held.id])

    # When the worker wakes with the picture, then it is nobody's
    key = f"{TENANT}/{job}/{render.id}/1.png"
    with database.transaction() as tx:
        assert not render_rows.complete(tx, render, "w", drawn(key))
        assert late.standing(tx, held, "w", render.id, key) == "too late"
        assert late.take_back(tx, held, "w") is None

    # And the render waits for whoever claims it next
    with database.reading() as tx:
        assert tx.execute(select(Render.state, Render.storage_key)).one() == ("waiting", None)
    (next_one,) = claim(database)
    assert next_one.lease_token > held.lease_token


def test_a_cap_that_was_lowered_ends_what_waits(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a waiting unit that lost two workers
    add_job(database, [person("ada", [1], settings(tmp_path, database_url))])
    with database.transaction() as tx:
        tx.execute(update(Unit).values(lost_workers=2))

    # When two are too many from now on
    with database.transaction() as tx:
        assert units.claim_next(tx, "fake", "w", limit=1, max_lost_workers=2, **TERMS) == []
        assert reaping.reap(tx, max_attempts=5, max_lost_workers=2) == (0, 1)

    # Then it does not wait for ever
    with database.reading() as tx:
        assert tx.execute(select(Render.error_code, func.count()).group_by(Render.error_code)).one() == (
            "quarantined",
            1,
        )


def drawn(key: str) -> render_rows.Drawn:
    """What a worker records of a picture under this key."""
    texts = {"media_type": "image/png", "sha256": "0" * 64, "final_prompt": CLEAN, "recogniser": "fake"}
    names = {"model_fingerprint": "m", "weight_set_fingerprint": "w", "device": "fake", "worker": "w"}
    seconds = {f"seconds_{step}": 0.0 for step in ("weights", "merge", "denoise", "decode", "encode", "upload")}
    return render_rows.Drawn(
        storage_key=key,
        size_bytes=1,
        id_similarity=None,
        id_similarity_reason=None,
        batch_size=1,
        **texts,
        **names,
        **seconds,  # type: ignore[arg-type]
    )
