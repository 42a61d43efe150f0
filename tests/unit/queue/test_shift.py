"""A shift over real rows and a real store, with a renderer that draws flat colours and counts."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update

from hyperlora.errors import NoUsablePhoto
from jobs.database import Database
from jobs.errors import StorageUnavailable
from jobs.models import Candidate, Unit, WeightSet
from jobs.repository import again
from jobs.repository import jobs as job_rows
from jobs.repository.units import ClaimedUnit
from worker.leases import Leases
from worker.plan import BatchSizes
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


def second_generated(world: World) -> threading.Event:
    """Set when the second weight set is being generated, by whatever thread."""
    reached = threading.Event()

    def seen(photos: Sequence[bytes]) -> None:
        if world.renderer.calls["generate"] == 2:
            reached.set()

    world.renderer._refuse = seen
    return reached


def test_forty_jobs_of_one_person_are_one_generation_one_merge_full_batches(world: World) -> None:
    # Given 40 jobs of one prompt each for one person
    jobs = [add_job(world.database, [person("ada", [1], world.settings)], key=f"job{n}") for n in range(40)]

    # When one shift runs
    report = world.shift()

    # Then the weight set was generated once and merged once, and 40 pictures were 10 batches of 4
    assert report.renders == 40
    assert world.renderer.calls["generate"] == 1
    assert world.renderer.calls["merge"] == 1
    assert world.renderer.batch_sizes == [4] * 10
    assert {world.job(job)["state"] for job in jobs} == {"done"}


def test_three_workers_on_twenty_people_generate_twenty(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given two jobs of the same 20 people, 5 pictures each, and three workers
    common = settings(tmp_path, database_url, claim_units=1)
    jobs = [add_job(database, [person(f"p{n}", [2, 3], common) for n in range(20)], key=key) for key in ("one", "two")]
    worlds = [World(Database(database_url), common, FakeRenderer(batch_size=4), f"w{n}") for n in range(3)]

    # When they race
    threads = [threading.Thread(target=world.shift) for world in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then 20 weight sets were generated in all, and each of the 200 renders has one picture
    assert sum(world.renderer.calls["generate"] for world in worlds) == 20
    with database.reading() as tx:
        assert sorted(tx.execute(select(WeightSet.generations)).scalars()) == [1] * 20
    assert [worlds[0].job(job)["done"] for job in jobs] == [100, 100]
    assert len(worlds[0].pictures()) == 200
    for world in worlds:
        world.database.dispose()


def test_every_render_is_recorded_with_its_making(world: World) -> None:
    # Given a job of two pictures
    job = add_job(world.database, [person("ada", [2], world.settings)])

    # When it is drawn
    world.shift()

    # Then each row names an object with the recorded hash, whose text chunks tell the same
    rows = world.renders(job)
    assert [row["state"] for row in rows] == ["done", "done"]
    for row in rows:
        data = world.storage.get(row["storage_key"])
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert len(data) == row["size_bytes"]
        assert row["storage_key"] == f"{TENANT}/{job}/{row['render_id']}/1.png"
        with Image.open(io.BytesIO(data)) as picture:
            told = json.loads(picture.info["portraits"])
            parameters = picture.info["parameters"]
        assert told["seed"] == row["seed"]
        assert told["weight_set_fingerprint"] == row["weight_set_fingerprint"]
        assert told["model_fingerprint"] == row["model_fingerprint"]
        assert f"Seed: {row['seed']}, Size: 16x16" in parameters
        assert row["id_similarity"] is None
        assert row["id_similarity_reason"] == "no_face"
        times = [value for name, value in row.items() if name.startswith("seconds_")]
        assert len(times) == 8
        assert all(value is not None and value >= 0 for value in times)
        assert row["device"] == "fake"
    with world.database.reading() as tx:
        chosen = tx.execute(select(Candidate.storage_key).where(Candidate.chosen)).scalars()
        assert sorted(chosen) == sorted(row["storage_key"] for row in rows)


def test_pixels_depend_on_person_prompt_and_seed_not_on_the_worker(world: World) -> None:
    # Given two people with the same prompt and seeds
    job = add_job(world.database, [person("ada", [2], world.settings), person("alan", [2], world.settings)])

    # When they are drawn
    world.shift()

    # Then all four pictures differ
    pixels = {Image.open(io.BytesIO(world.storage.get(key))).getpixel((0, 0)) for key in world.pictures()}
    assert len(pixels) == 4
    assert world.job(job)["done"] == 4


def test_a_person_without_a_face_fails_alone_with_a_reason(world: World) -> None:
    # Given two people, one of whose photos shows no face
    bad = b"nobody"

    def refuse(photos: Any) -> Exception | None:
        return NoUsablePhoto("no face was found in photo 1; send one that shows the face") if bad in photos else None

    world.renderer._refuse = refuse
    job = add_job(world.database, [person("nobody", [3], world.settings), person("ada", [2], world.settings)])

    # When they are drawn
    world.shift()

    # Then one has pictures and the other a reason on every render, at the first attempt
    rows = world.renders(job)
    assert [(r["state"], r["error_code"]) for r in rows if r["external_id"] == "nobody"] == [
        ("failed", "no_usable_photo")
    ] * 3
    assert [r["state"] for r in rows if r["external_id"] == "ada"] == ["done"] * 2
    assert world.job(job)["state"] == "partial"
    assert all("send one" in row["error"] for row in rows if row["external_id"] == "nobody")

    # When it is retried with a better photo finder
    world.renderer._refuse = lambda photos: None
    with world.database.transaction() as tx:
        assert again.retry(tx, TENANT, job)[0] == 3
    world.shift()

    # Then it is whole
    assert world.job(job)["state"] == "done"


def test_out_of_memory_halves_the_batch_and_remembers(world: World) -> None:
    # Given a device that fits two pictures, and a worker that begins with eight
    world.renderer._fits = 2
    world.sizes = BatchSizes(8)
    job = add_job(world.database, [person("ada", [7], world.settings)])

    # When they are drawn
    world.shift()

    # Then all are there, in batches of two and the remainder
    assert world.job(job)["done"] == 7
    assert world.renderer.batch_sizes == [2, 2, 2, 1]

    # When pictures of another size come, then they begin with eight again
    world.renderer._fits = None
    other = add_job(world.database, [person("ada", [7], world.settings, width=8)], key="small")
    world.shift()
    assert world.job(other)["done"] == 7
    assert world.renderer.batch_sizes[-1] == 7


def test_not_even_one_fits(world: World) -> None:
    # Given a device on which not even one picture fits
    world.renderer._fits = 0
    job = add_job(world.database, [person("ada", [2], world.settings)])

    # When it is tried as often as a unit may be
    for _ in range(3):
        world.shift()
        with world.database.transaction() as tx:
            tx.execute(update(Unit).values(ready_at=0.0))

    # Then both renders have failed with the reason
    assert [row["error_code"] for row in world.renders(job)] == ["out_of_memory"] * 2


class FlakyStorage:
    """A store whose picture writes fail as often as told."""

    def __init__(self, inner: Any, failures: int) -> None:
        self._inner, self.failures = inner, failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, key: str, data: bytes, **options: Any) -> None:
        if key.endswith(".png") and self.failures > 0:
            self.failures -= 1
            raise StorageUnavailable("503")
        self._inner.put(key, data, **options)


def test_a_store_that_stumbles_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a store that fails three times and then answers
    monkeypatch.setattr("worker.recorder.FIRST_WAIT_SECONDS", 0.001)
    world.use_storage(FlakyStorage(world.storage, 3))
    job = add_job(world.database, [person("ada", [1], world.settings)])

    # When the picture is recorded
    world.shift()

    # Then it was drawn once and is there
    assert world.job(job)["state"] == "done"
    assert world.renderer.calls["draw"] == 1


def test_a_store_that_stays_away_releases_the_unit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a store that takes no picture
    monkeypatch.setattr("worker.recorder.FIRST_WAIT_SECONDS", 0.001)
    flaky = FlakyStorage(world.storage, 1_000)
    world.use_storage(flaky)
    job = add_job(world.database, [person("ada", [2], world.settings)])

    # When a shift runs
    world.shift()

    # Then the unit waits for another try with the reason noted, nothing is lost
    with world.database.reading() as tx:
        unit = tx.execute(select(Unit)).one()
    assert (unit.state, unit.error_code, unit.attempts) == ("ready", "storage_unavailable", 1)
    assert world.job(job)["waiting"] == 2

    # When the store is back
    flaky.failures = 0
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(ready_at=0.0))
    world.shift()

    # Then every render has one picture
    assert world.job(job)["state"] == "done"
    assert len(world.pictures()) == 2


def test_told_to_stop_finishes_the_batch_and_hands_the_rest_back(world: World) -> None:
    # Given a person with three batches of pictures, and a stop that comes in the first
    job = add_job(world.database, [person("ada", [12], world.settings)])
    world.renderer._at_step = lambda step: world.stop.set()

    # When the shift runs
    world.shift()

    # Then one batch is recorded, the unit is ready at once and has its attempt back
    with world.database.reading() as tx:
        unit = tx.execute(select(Unit)).one()
    assert (unit.state, unit.attempts, unit.renders_done) == ("ready", 0, 4)
    assert unit.message_sent_at is None
    assert world.job(job)["waiting"] == 8


def test_a_shift_that_is_over_hands_back_what_it_has_not_drawn(world: World) -> None:
    # Given a shift of no length, and a person with three batches
    short = World(world.database, world.settings.model_copy(update={"shift_seconds": 1e-9}), world.renderer, "worker-2")
    job = add_job(world.database, [person("ada", [12], world.settings)])

    # When it runs, and then a normal one
    report = short.shift()
    left = world.job(job)["waiting"]
    world.shift()

    # Then the first drew one batch and said what it handed back, and the second drew the rest
    assert len(report.handed_back) == 1
    assert left == 8
    assert world.job(job)["done"] == 12


def test_cancelled_in_the_middle_stops_at_the_next_step(world: World) -> None:
    # Given a job that is cancelled while its first batch is at step 0
    job = add_job(world.database, [person("ada", [8], world.settings)])
    steps: list[int] = []

    def at_step(step: int) -> None:
        steps.append(step)
        with world.database.transaction() as tx:
            job_rows.cancel(tx, TENANT, job)
        assert world.leases is not None
        world.leases.beat()

    world.renderer._at_step = at_step

    # When the shift runs
    world.shift()

    # Then no further step was drawn and nothing was stored
    assert steps == [0]
    assert world.pictures() == []
    assert world.job(job)["state"] == "cancelled"


def test_a_stale_worker_leaves_no_trace(world: World) -> None:
    # Given a worker that is overtaken in the middle of a batch and does not notice
    job = add_job(world.database, [person("ada", [8], world.settings)])
    other = World(world.database, world.settings, FakeRenderer(batch_size=4), "worker-2")

    def overtaken(step: int) -> None:
        if step == 0:
            with world.database.transaction() as tx:
                tx.execute(update(Unit).values(lease_until=0.0))
            other.shift(world.renders(job)[0]["unit_id"])

    world.renderer._at_step = overtaken

    # When both have drawn
    world.shift()

    # Then the rows name the second worker's objects, and the first one's are gone
    rows = world.renders(job)
    assert {row["worker"] for row in rows} == {"worker-2"}
    assert world.pictures() == sorted(row["storage_key"] for row in rows)
    assert {row["storage_key"].rpartition("/")[2] for row in rows} == {"2.png"}


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_damaged_weight_set_is_generated_anew(world: World, damage: str) -> None:
    # Given a stored weight set that was lost or changed, and a worker that does not have it in memory
    add_job(world.database, [person("ada", [1], world.settings)], key="first")
    world.shift()
    (key,) = [key for key in world.storage.list("") if key.endswith(".safetensors")]
    world.storage.delete(key)
    if damage == "corrupt":
        world.storage.put(key, b"changed", content_type="application/octet-stream")
    job = add_job(world.database, [person("ada", [1], world.settings)], key="second")
    fresh = World(world.database, world.settings, FakeRenderer(batch_size=4), "worker-2")

    # When another job of the person is drawn
    fresh.shift()

    # Then the set was generated once more and the picture is there
    assert fresh.renderer.calls["generate"] == 1
    assert fresh.job(job)["state"] == "done"


def test_a_stored_weight_set_is_loaded_not_generated(world: World) -> None:
    # Given a person drawn before by another worker
    add_job(world.database, [person("ada", [1], world.settings)], key="first")
    world.shift()
    add_job(world.database, [person("ada", [1], world.settings)], key="second")
    fresh = World(world.database, world.settings, FakeRenderer(batch_size=4), "worker-2")

    # When a fresh worker draws the person
    fresh.shift()

    # Then it took the set from storage
    assert fresh.renderer.calls["generate"] == 0
    assert fresh.renderer.calls["load"] == 1


@pytest.fixture
def second_message(world: World) -> Iterator[uuid.UUID]:
    add_job(world.database, [person("ada", [1], world.settings)])
    with world.database.reading() as tx:
        yield tx.execute(select(Unit.id)).scalar_one()


def test_a_doubled_message_is_harmless(world: World, second_message: uuid.UUID) -> None:
    # Given a unit whose message came twice
    # When both are worked off
    first, second = world.shift(second_message), world.shift(second_message)

    # Then the second found nothing to do
    assert (first.renders, second.renders) == (1, 0)
    assert len(world.pictures()) == 1


def test_the_next_person_is_prepared_while_this_one_is_drawn(world: World) -> None:
    # Given two people with two batches each, and a last batch of the first one that waits for the second's weights
    job = add_job(world.database, [person("ada", [8], world.settings), person("alan", [8], world.settings)])
    generated: list[int] = []
    second = second_generated(world)

    def at_step(step: int) -> None:
        if step == 0:
            if len(world.renderer.batch_sizes) == 1:
                assert second.wait(60)
            generated.append(world.renderer.calls["generate"])

    world.renderer._at_step = at_step

    # When one shift runs
    report = world.shift()

    # Then they came, and not before that batch: until then others may claim who waits
    assert generated == [1, 2, 2, 2] and world.job(job)["done"] == 16
    assert (report.groups, report.batches, report.generated) == (2, 4, 2)
    assert 0.0 <= report.idle_share < 1.0


def test_a_person_who_was_prepared_for_nothing_is_handed_back_unharmed(world: World) -> None:
    # Given two people, and a stop that comes when the second one has been claimed ahead
    job = add_job(world.database, [person("ada", [4], world.settings), person("alan", [4], world.settings)])
    second = second_generated(world)

    def at_step(step: int) -> None:
        assert second.wait(60)
        world.stop.set()

    world.renderer._at_step = at_step

    # When the shift runs
    report = world.shift()

    # Then the first is drawn, and the second waits with all attempts left
    assert world.job(job)["done"] == 4
    with world.database.reading() as tx:
        units = tx.execute(select(Unit.state, Unit.attempts).order_by(Unit.state)).all()
    assert [tuple(unit) for unit in units] == [("done", 1), ("ready", 0)]
    assert len(report.handed_back) == 1


def test_a_unit_that_was_lost_and_claimed_anew_is_not_let_go_by_its_first_claim(world: World) -> None:
    # Given leases on one unit, claimed twice by the same worker
    leases = Leases(world.database, world.owner, lease_seconds=60)
    first = ClaimedUnit(TENANT, *(uuid.uuid4() for _ in range(4)), profile="fake", attempts=1, lease_token=1)
    second = dataclasses.replace(first, lease_token=first.lease_token + 1)
    leases.hold([first])
    leases.hold([second])

    # When the first is settled
    leases.let_go(first)

    # Then the second is still in hand
    assert leases.holds(second) and not leases.holds(first)
