"""Several people prepared in one pass: once each in the whole fleet, and every fault with its own person."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update

from hyperlora.errors import NoUsablePhoto
from jobs.database import Database
from jobs.models import Identity, PhotoSet, Unit, WeightSet
from worker.costs import Costs
from worker.errors import OutOfMemory, PeopleOutOfMemory
from worker.lessons import FIRST_SECONDS, Lessons
from worker.plan import BatchKey
from worker.renderer import Batch, GeneratedWeights, Order, Sample, Setting
from worker.testing import FakeRenderer
from worker.weight_making import MOST_TOGETHER
from worker.weights import Request, Weights, WeightSetRefused, WeightSets

CHEAP = Costs(base=1.0, each=0.1, dearer=0.1, merge=0.0, own=0.0, pixels=64 * 64)
"""A device on which a nearly empty batch costs as much as a full one: people are claimed together."""


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    made = World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))
    made.costs = CHEAP
    return made


def generations(world: World) -> list[int]:
    with world.database.reading() as tx:
        return sorted(tx.execute(select(WeightSet.generations)).scalars())


def requests(world: World, names: Sequence[str]) -> list[Request]:
    """A request for each person, whom a job made known."""
    found = select(PhotoSet.id).join(Identity, Identity.id == PhotoSet.identity_id)
    with world.database.reading() as tx:
        ids = [tx.execute(found.where(Identity.external_id == name)).scalar_one() for name in names]
    return [Request(TENANT, world.weight_sets.source(TENANT, each), lambda: True) for each in ids]


def photos_of(orders: Sequence[Order]) -> list[bytes]:
    """Everybody's photos."""
    return [photo for order in orders for person in order.people for photo in person.photos]


def test_people_who_share_a_batch_are_prepared_in_one_pass(world: World) -> None:
    # Given four people with one picture each, where people are drawn together
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])

    # When they are drawn
    report = world.shift()

    # Then one pass made all four sets, each was made once, and everybody's picture is done
    assert world.renderer.together == [4]
    assert generations(world) == [1, 1, 1, 1]
    assert (report.groups, report.generated, report.batches) == (4, 4, 1)
    assert world.job(job)["done"] == 4


def test_who_has_no_face_harms_nobody_else(world: World) -> None:
    # Given four people of whom one has no usable photo
    world.renderer = FakeRenderer(
        batch_size=4, refuse=lambda photos: NoUsablePhoto("no face in any photo") if photos == [b"p2"] else None
    )
    world.use_storage(world.storage)
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])

    # When they are drawn
    world.shift()

    # Then they were prepared in one pass all the same, and the one fails with the reason
    assert world.renderer.together == [4]
    states = {row["external_id"]: (row["state"], row["error_code"]) for row in world.renders(job)}
    failed = states.pop("p2")
    assert failed == ("failed", "no_usable_photo") and set(states.values()) == {("done", None)} and len(states) == 3
    assert generations(world) == [0, 1, 1, 1]


def test_too_little_memory_makes_fewer_people_at_once_and_no_smaller_batches(world: World) -> None:
    # Given a device on which no more than one person can be prepared beside the drawing
    world.renderer.fits_people = 1
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])

    # When four are drawn, and then four more
    world.shift()
    again = add_job(world.database, [person(f"q{n}", [1], world.settings) for n in range(4)], key="again")
    world.shift()

    # Then everybody is prepared alone, the worker remembers, and batches are as large as ever
    assert world.renderer.together == [1] * 8
    assert world.weight_sets._maker.most_together == 1
    assert world.renderer.batch_sizes == [4, 4]
    assert world.job(job)["done"] == world.job(again)["done"] == 4


def test_as_many_as_before_are_prepared_together_when_there_is_room_again(world: World) -> None:
    # Given a device on which two people fitted at once an hour ago
    seconds = [0.0]
    maker = world.weight_sets._maker
    maker._lessons = Lessons(now=lambda: seconds[0])
    world.renderer.fits_people = 2
    add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])
    world.shift()
    assert (maker.most_together, world.renderer.together) == (2, [2, 2])
    seconds[0], world.renderer.fits_people = FIRST_SECONDS, None

    # When four more come
    add_job(world.database, [person(f"q{n}", [1], world.settings) for n in range(4)], key="again")
    world.shift()

    # Then they are prepared together, and more will be
    assert world.renderer.together == [2, 2, 4] and maker.most_together == MOST_TOGETHER


def test_who_does_not_fit_beside_the_drawing_is_prepared_when_nobody_is_drawn(world: World) -> None:
    # Given two people with full batches, and a device without room to prepare one beside a batch that is drawn
    jobs = [add_job(world.database, [person(name, [4], world.settings)], key=name) for name in ("ada", "alan")]
    tried, renderer, drawn_before = threading.Event(), world.renderer, list[list[int]]()
    make = renderer.generate_many

    def at_step(_step: int) -> None:
        assert tried.wait(30)

    def generate_many(orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        if photos_of(orders) == [b"alan"]:
            drawn_before.append(list(renderer.batch_sizes))
            if not tried.is_set():
                tried.set()
                raise OutOfMemory
        return make(orders)

    renderer._at_step = at_step
    renderer.generate_many = generate_many  # type: ignore[method-assign]

    # When one shift runs
    report = world.shift()

    # Then both are done in it, the second prepared when the first was drawn, and no try was counted
    assert drawn_before == [[], [4]] and report.groups == 2 and report.handed_back == []
    assert [world.job(job)["done"] for job in jobs] == [4, 4]
    with world.database.reading() as tx:
        assert list(tx.execute(select(Unit.attempts)).scalars()) == [1, 1]


@pytest.mark.parametrize(("beside", "tried", "size"), [(True, [4, 4], 4), (False, [4, 2, 2], 2)])
def test_what_does_not_fit_beside_people_who_are_prepared_makes_no_batch_smaller(
    world: World, beside: bool, tried: list[int], size: int
) -> None:
    # Given a first batch that runs out of memory, with the next person's photos on the device or without
    add_job(world.database, [person("ada", [4], world.settings)], key="ada", priority=9)
    if beside:
        add_job(world.database, [person("alan", [4], world.settings)], key="alan")
    renderer, sizes, at_photos = world.renderer, [], threading.Event()
    make, draw = renderer.generate_many, renderer.draw

    def generate_many(orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        if photos_of(orders) == [b"alan"]:
            at_photos.set()
        return make(orders)

    def draw_short_of_memory(samples: Sequence[Sample], setting: Setting, **more: Any) -> Batch:
        sizes.append(len(samples))
        if len(sizes) == 1:
            assert not beside or at_photos.wait(30)
            raise OutOfMemory
        return draw(samples, setting, **more)

    renderer.generate_many = generate_many  # type: ignore[method-assign]
    renderer.draw = draw_short_of_memory  # type: ignore[method-assign]

    # When a shift runs
    world.shift()

    # Then the batch was tried once more as it was, and nothing was learned, where that may have been the reason alone
    assert sizes[: len(tried)] == tried
    assert world.sizes.of(BatchKey(0.8, 0.0, (), -1, 16, 16, 2, "euler", True, 1.0, "", (), 1, 1)) == size


def test_one_person_who_does_not_fit_is_tried_again_and_halves_nothing(world: World) -> None:
    # Given a device on which not even one person can be prepared now
    world.renderer.fits_people = 0
    add_job(world.database, [person("ada", [2], world.settings)])

    # When the person is asked for, and a shift is run
    (found,) = world.weight_sets.obtain_many(requests(world, ["ada"]))
    world.shift()

    # Then the fault is not the one that halves the drawing's batches, it may pass, and the row is free again
    assert isinstance(found, PeopleOutOfMemory) and found.retryable and not isinstance(found, OutOfMemory)
    with world.database.reading() as tx:
        assert tx.execute(select(WeightSet.state)).scalar_one() == "pending"
        assert tx.execute(select(Unit.state)).scalar_one() == "ready"
    # And when memory is free again, somebody else's pictures come in full batches
    world.renderer.fits_people = None
    add_job(world.database, [person("alan", [8], world.settings)], key="later")
    world.shift()
    assert world.renderer.batch_sizes == [4, 4]


class Unforeseen(FakeRenderer):
    """Stops at one person's photos, without saying whose they were."""

    def generate_many(self, orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        if any(person.photos == [b"p2"] for order in orders for person in order.people):
            raise ZeroDivisionError
        return super().generate_many(orders)


def test_an_unforeseen_fault_is_found_out_by_halves(world: World) -> None:
    # Given a renderer that cannot bear one of four people
    world.renderer = Unforeseen(batch_size=4)
    world.use_storage(world.storage)
    job = add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])

    # When they are drawn
    world.shift()

    # Then the other three are done, and the one is tried again later
    assert world.renderer.together == [2, 1]
    assert world.job(job)["done"] == 3
    with world.database.reading() as tx:
        assert sorted(tx.execute(select(Unit.state)).scalars()) == ["done", "done", "done", "ready"]


def test_a_person_whose_worker_was_lost_is_prepared_alone(world: World) -> None:
    # Given four people, one of whom was in a worker's hands when it was lost
    add_job(world.database, [person(f"p{n}", [1], world.settings) for n in range(4)])
    (third,) = requests(world, ["p2"])
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.photo_set_id == third.source.photo_set_id).values(lost_workers=1))
    passes: list[list[bytes]] = []
    make = world.renderer.generate_many

    def generate_many(orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        passes.append(photos_of(orders))
        return make(orders)

    world.renderer.generate_many = generate_many  # type: ignore[method-assign]

    # When they are drawn
    report = world.shift()

    # Then nobody is prepared in that person's company
    assert [b"p2"] in passes and sorted(photo for each in passes for photo in each) == [b"p0", b"p1", b"p2", b"p3"]
    assert report.generated == 4 and generations(world) == [1, 1, 1, 1]
    # And nobody is handed back to be claimed a second time
    assert report.handed_back == [] and report.groups == 4


class Slow(FakeRenderer):
    """Stays in its first pass until it is let go, and tells when it is there."""

    def __init__(self) -> None:
        super().__init__(batch_size=4)
        self.inside, self.go = threading.Event(), threading.Event()

    def generate_many(self, orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        self.inside.set()
        assert self.go.wait(30)
        return super().generate_many(orders)


def test_two_workers_never_make_the_same_set(world: World) -> None:
    # Given one worker in the middle of three people, and another that wants two of them and one more
    names = ["p0", "p1", "p2", "p3"]
    add_job(world.database, [person(name, [1], world.settings) for name in names])
    slow, quick = Slow(), Slow()
    quick.go.set()
    terms = {"lease_seconds": world.settings.lease_seconds}
    one = WeightSets(world.database, world.storage, slow, "one", **terms)
    other = WeightSets(world.database, world.storage, quick, "other", **terms)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(one.obtain_many, requests(world, names[:3]))
        assert slow.inside.wait(30)
        second = threads.submit(other.obtain_many, requests(world, names[1:]))
        # When the second is at the one that was free, and then the first goes on
        assert quick.inside.wait(30)
        slow.go.set()
        found = [first.result(30), second.result(30)]

    # Then each set was made once, and the second loaded those of the first
    assert (slow.together, quick.together) == ([3], [1])
    assert generations(world) == [1, 1, 1, 1]
    assert [each.source for each in found[0] if isinstance(each, Weights)] == ["generated"] * 3
    assert [each.source for each in found[1] if isinstance(each, Weights)] == ["storage", "storage", "generated"]


def test_signs_of_life_prolong_every_claim_in_hand(world: World) -> None:
    # Given a worker in the middle of three people, whose claims are about to run out
    names = ["p0", "p1", "p2"]
    add_job(world.database, [person(name, [1], world.settings) for name in names])
    slow = Slow()
    sets = WeightSets(world.database, world.storage, slow, "one", lease_seconds=30.0)
    with ThreadPoolExecutor(1) as threads:
        made = threads.submit(sets.obtain_many, requests(world, names))
        assert slow.inside.wait(30)
        with world.database.transaction() as tx:
            tx.execute(update(WeightSet).values(lease_until=0))
        # When it gives a sign of life
        with world.database.transaction() as tx:
            sets.heartbeat(tx)
        with world.database.reading() as tx:
            until = list(tx.execute(select(WeightSet.lease_until)).scalars())
        slow.go.set()
        made.result(30)
    # Then all three are prolonged
    assert len(until) == 3 and all(value > 0 for value in until)


def test_the_same_person_asked_for_twice_is_made_once(world: World) -> None:
    add_job(world.database, [person("ada", [1], world.settings)])
    one, other = world.weight_sets.obtain_many(requests(world, ["ada", "ada"]))
    assert isinstance(one, Weights) and isinstance(other, Weights) and one.fingerprint == other.fingerprint
    assert world.renderer.together == [1] and generations(world) == [1]


def test_who_is_not_wanted_any_more_is_not_prepared(world: World) -> None:
    # Given two people, of whom nobody waits for the second
    add_job(world.database, [person(name, [1], world.settings) for name in ("ada", "alan")])
    ada, alan = requests(world, ["ada", "alan"])
    # When both are asked for
    found = world.weight_sets.obtain_many([ada, Request(TENANT, alan.source, lambda: False)])
    # Then only the first is made
    assert isinstance(found[0], Weights) and found[1] is None
    assert world.renderer.together == [1]


def test_faults_before_the_pass_are_the_persons_too(world: World) -> None:
    # Given a person, one whose photo is gone from the store, and a pinned set that nobody has
    add_job(world.database, [person(name, [1], world.settings) for name in ("ada", "alan", "pinned")])
    ada, alan, pinned = requests(world, ["ada", "alan", "pinned"])
    world.storage.delete(alan.source.photos[0].storage_key)
    with world.database.transaction() as tx:
        values = {"kind": "weights", "weight_set_fingerprint": "f" * 64}
        tx.execute(update(PhotoSet).where(PhotoSet.id == pinned.source.photo_set_id).values(**values))
    # When all are asked for
    (pinned,) = requests(world, ["pinned"])
    found = world.weight_sets.obtain_many([ada, alan, pinned])
    # Then each hears the own fault
    assert isinstance(found[0], Weights)
    assert getattr(found[1], "code", None) == "object_missing"
    assert isinstance(found[2], WeightSetRefused) and found[2].code == "weight_set_missing"
