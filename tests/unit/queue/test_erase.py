"""Erasing a person reaches everything that was made from it, and nothing else; whoever holds a unit is fenced out."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from pathlib import Path

import pytest
from queue_world import TENANT, World, add_job, only_postgres, person, settings
from sqlalchemy import Connection, Uuid, event, select, text, update
from test_cast import compose, photo_set_of
from test_quarantine import claim, drawn

from jobs import verify
from jobs.archive import archive
from jobs.database import Database
from jobs.errors import BadKey
from jobs.models import METADATA, Event, Identity, Job, Photo, Render, Share, Unit, WeightSet
from jobs.options import ControlOption, GateOption, OutputOption, Picture, RenderOptions, StartOption
from jobs.privacy.clearing import purge
from jobs.repository import erasure, late, units
from jobs.repository import jobs as job_rows
from jobs.repository import people as people_rows
from jobs.repository import renders as render_rows
from jobs.repository import weight_sets as weight_rows
from jobs.repository.writer import PersonRows
from jobs.sweep import sweep
from worker.testing import FakeRenderer

FILES = RenderOptions(
    gate=GateOption(min_id_similarity=None, attempts=2), outputs=(OutputOption(), OutputOption(name="small"))
).dump()


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url, tenant=TENANT), FakeRenderer(alike=lambda image: 0.5))


def identity_of(world: World, name: str) -> uuid.UUID:
    with world.database.reading() as tx:
        return tx.execute(select(Identity.id).where(Identity.external_id == name)).scalar_one()


def names(world: World) -> set[str]:
    with world.database.reading() as tx:
        return set(tx.execute(select(Identity.external_id)).scalars())


def erase(world: World, name: str) -> erasure.Erased:
    with world.database.transaction() as tx:
        erased = erasure.erase(tx, TENANT, identity_of(world, name))
    assert erased is not None
    return erased


def keys(tx: Connection) -> set[str]:
    """Every storage key that a row names."""
    tables = [table for table in METADATA.sorted_tables if "storage_key" in table.c]
    found = {key for table in tables for key in tx.execute(select(table.c.storage_key)).scalars()}
    return {key for key in found if key is not None}


def ids(tx: Connection) -> dict[str, set[uuid.UUID]]:
    """The ids of every row that has one, by table."""
    tables = [table for table in METADATA.sorted_tables if "id" in table.c and isinstance(table.c.id.type, Uuid)]
    return {table.name: set(tx.execute(select(table.c.id)).scalars()) for table in tables}


def mentions(tx: Connection, gone: set[uuid.UUID]) -> list[str]:
    """Where a row still holds an id of a row that is gone; `rerun_of` and the like included."""
    found = []
    for table in METADATA.sorted_tables:
        for column in table.c:
            if isinstance(column.type, Uuid):
                left = gone & set(tx.execute(select(column)).scalars())
                found += [f"{table.name}.{column.name}"] * len(left)
    return found


def assert_counted(world: World, job: uuid.UUID) -> None:
    """The job's counters are what its rows say, and no reference dangles."""
    assert verify.differences(world.database, TENANT, job) == []
    if world.database.is_sqlite:
        with world.database.reading() as tx:
            assert tx.execute(text("PRAGMA foreign_key_check")).all() == []


def drawn_job(world: World, people: tuple[str, ...], key: str = "job") -> uuid.UUID:
    """A job of people with two units of two pictures, all drawn, each with one not chosen and a further file."""
    job = add_job(world.database, [person(name, [2, 2], world.settings, options=FILES) for name in people], key=key)
    with world.database.transaction() as tx:
        for number, render_id in enumerate(tx.execute(select(Render.id).where(Render.job_id == job)).scalars().all()):
            tx.execute(update(Render).where(Render.id == render_id).values(ordinal=number))
    while world.job(job)["waiting"]:
        world.shift()
    return job


@pytest.mark.parametrize("is_archived", [False, True])
def test_every_row_of_a_person_goes_and_the_keys_of_its_objects_are_told(world: World, is_archived: bool) -> None:
    # Given a drawn job of two people, and another that waits
    job, waits = (
        drawn_job(world, ("ada", "bob")),
        add_job(world.database, [person("ada", [3], world.settings), person("bob", [1], world.settings)], key="next"),
    )
    if is_archived:
        assert archive(older_than_seconds=0, settings=world.settings).jobs == 1
    with world.database.reading() as tx:
        keys_before, ids_before = keys(tx), ids(tx)

    # When one of them is erased
    erased = erase(world, "ada")

    # Then no row names her or what was hers, and the keys that are told are those that no row names any more
    with world.database.reading() as tx:
        gone = {row for name, rows in ids_before.items() for row in rows - ids(tx)[name]}
        assert mentions(tx, gone) == [] and keys_before - keys(tx) == set(erased.keys)
    assert names(world) == {"bob"} and (erased.people, erased.units, erased.renders) == (1, 3, 7)
    # her photo, her weight set, and of each of her four pictures three files
    assert len(erased.keys) == 14 and all(key in world.storage.list("") for key in erased.keys)

    # And both jobs count what is left
    told, left = world.job(job), world.job(waits)
    assert (told["identities"], told["units"], told["renders"], told["done"]) == (1, 2, 4, 4)
    assert (left["identities"], left["units"], left["renders"], left["waiting"]) == (1, 1, 1, 1)
    for one in (job, waits):
        assert_counted(world, one)

    # And when these objects are removed, nothing of hers is left for the sweep
    for key in erased.keys:
        world.storage.delete(key)
    assert sweep(world.settings, older_than_seconds=0).orphans == 0


def test_it_reaches_mixes_pictures_together_refined_sets_and_who_is_given_by_one(world: World) -> None:
    # Given a person who is part of a mix, of a picture for two and of a slider, and whose weights were refined
    members = [{"member_photo_set_id": photo_set_of(world, name)} for name in ("ada", "bob")]
    compose(world, "mixed", "mix", members)
    compose(world, "pair", "together", [{**one, "region": [0, 0, 1, 1]} for one in members])
    compose(world, "older", "slider", members)
    job = drawn_job(world, ("ada", "bob", "mixed", "pair"))
    with world.database.transaction() as tx:
        hers = tx.execute(select(WeightSet).where(WeightSet.kind == "photos").order_by(WeightSet.id)).all()
        source = next(one for one in hers if one.fingerprint in fingerprints_of(tx, "ada"))
        refined = {"source_weight_set_fingerprint": source.fingerprint, "hyperlora_fingerprint": "h" * 64}
        stored = {"storage_key": f"{TENANT}/weights/refined", "sha256": "0" * 64, "size_bytes": 1}
        made = {"recogniser": "fake", "reference_embedding": b"", "seconds": 0.0}
        assert weight_rows.add_refined(tx, TENANT, fingerprint="r" * 64, **refined, **stored, **made)  # type: ignore[arg-type]
    compose(world, "given", "weights", [], weight_set_fingerprint="r" * 64)
    assert names(world) == {"ada", "bob", "mixed", "pair", "older", "given"}

    # When that one is erased
    erased = erase(world, "ada")

    # Then whatever was made from it is gone with it, and the other one's pictures and weights are all there
    assert names(world) == {"bob"} and erased.people == 5
    assert f"{TENANT}/weights/refined" in erased.keys
    told = world.job(job)
    assert (told["identities"], told["renders"], told["done"]) == (1, 4, 4)
    with world.database.reading() as tx:
        assert [one.kind for one in tx.execute(select(WeightSet))] == ["photos"]
    assert_counted(world, job)


def fingerprints_of(tx: Connection, name: str) -> set[str]:
    """The weight sets that a person's pictures were drawn with."""
    of_person = select(Identity.id).where(Identity.external_id == name).scalar_subquery()
    rows = tx.execute(select(Render.weight_set_fingerprint).where(Render.identity_id == of_person)).scalars()
    return {row for row in rows if row is not None}


def twin_of_ada(world: World) -> PersonRows:
    """Somebody else with the same photo."""
    return dataclasses.replace(person("ada", [1], world.settings), external_id="twin")


def test_photos_that_somebody_else_uses_stay(world: World) -> None:
    # Given two people who are given by the same photo, and so share a weight set
    job = add_job(world.database, [person("ada", [1], world.settings), twin_of_ada(world)])
    while world.job(job)["waiting"]:
        world.shift()

    # When one is erased
    erased = erase(world, "ada")

    # Then the photo stays, and the weight set goes, as it was made from her photos under her name too
    with world.database.reading() as tx:
        (photo,) = tx.execute(select(Photo.storage_key)).scalars()
        assert photo not in erased.keys
        assert tx.execute(select(WeightSet.id)).all() == []

    # And the other one is drawn again all the same
    again = add_job(world.database, [twin_of_ada(world)], key="again")
    world.shift()
    assert world.job(again)["done"] == 1 and world.job(job)["done"] == 1


def given(world: World, name: str) -> Picture:
    """A given picture in the store and in the tables."""
    row = person(name, [], world.settings).photos[0]
    with world.database.transaction() as tx:
        people_rows.register(tx, TENANT, [])
        people_rows.register_pictures(tx, TENANT, [row])
    return Picture(sha256=row["sha256"], key=row["storage_key"], media_type="image/jpeg")


def test_given_pictures_that_only_this_person_was_drawn_with_go(world: World) -> None:
    # Given a start picture of one person, and a pose that both of a job's people are drawn in
    photo_set_of(world, "ada")
    start, pose = given(world, "start"), given(world, "pose")
    posed = ControlOption(net="pose", image=pose)
    hers = RenderOptions(start=StartOption(image=start, strength=0.5), control=(posed,)).dump()
    his = RenderOptions(control=(posed,)).dump()
    people = [person("ada", [1], world.settings, options=hers), person("bob", [1], world.settings, options=his)]
    job = add_job(world.database, people)
    with world.database.transaction() as tx:
        people_rows.name_pictures(tx, TENANT, job, [start.sha256, pose.sha256])

    # When she is erased, then her start picture goes and the pose stays
    erased = erase(world, "ada")
    assert start.key in erased.keys and pose.key not in erased.keys

    # When he is too, then the job is gone with all that it was given
    erased = erase(world, "bob")
    assert pose.key in erased.keys and erased.jobs == [job]
    with world.database.reading() as tx:
        assert tx.execute(select(Photo.id)).all() == [] and tx.execute(select(Job.id)).all() == []


def test_a_jobs_pictures_are_looked_for_in_one_pass_however_many_there_are(world: World) -> None:
    # Given somebody drawn with four start pictures of whom a job keeps one
    photo_set_of(world, "ada")
    starts = [given(world, f"start{number}") for number in range(4)]
    options = [RenderOptions(start=StartOption(image=one, strength=0.5)).dump() for one in starts]
    people = [person(f"p{number}", [1], world.settings, options=one) for number, one in enumerate(options)]
    shared = person("bob", [1], world.settings, options=options[0])
    job = add_job(world.database, [*people, shared])
    with world.database.transaction() as tx:
        people_rows.name_pictures(tx, TENANT, job, [one.sha256 for one in starts])
        heard: list[str] = []
        listener = lambda conn, cursor, sql, *_: heard.append(sql)  # noqa: E731

        # When it is asked which of them the job still names
        event.listen(world.database.engine, "before_cursor_execute", listener)
        found = erasure._still_named(tx, TENANT, job, {one.sha256 for one in starts})
        event.remove(world.database.engine, "before_cursor_execute", listener)

    # Then all are found, and live and archived renders and masks were read once each
    assert found == {one.sha256 for one in starts} and len(heard) == 4

    # And when one goes, then what nobody else is drawn with goes too
    assert starts[0].key not in erase(world, "p0").keys
    assert starts[1].key in erase(world, "p1").keys


def test_a_worker_that_holds_a_unit_is_fenced_out(world: World) -> None:
    # Given a worker in the middle of a person's unit, with a picture on its disk too
    job = add_job(world.database, [person("ada", [2], world.settings), person("bob", [1], world.settings)])
    held = next(unit for unit in claim(world.database) if unit.identity_id == identity_of(world, "ada"))
    with world.database.transaction() as tx:
        first, second = render_rows.waiting(tx, [held])
        charged = tx.execute(select(Share.virtual_time)).scalar_one()

    # When the person is erased
    erase(world, "ada")

    # Then nothing that the worker says changes anything, and it learns so
    key = f"{TENANT}/{job}/{first.id}/1.png"
    with world.database.transaction() as tx:
        assert units.heartbeat(tx, "w", {held.id: held.lease_token}, lease_seconds=30) == {}
        assert not render_rows.complete(tx, first, "w", drawn(key))
        assert not render_rows.fail(tx, second, "w", error_code="refused", error="told")
        assert not units.release(tx, held, "w") and not units.recount(tx, held, "w")
        assert late.standing(tx, held, "w", first.id, key) == "too late" and late.take_back(tx, held, "w") is None
        assert key not in keys(tx)
        # and the tenant does not pay for what was not drawn
        assert tx.execute(select(Share.virtual_time)).scalar_one() < charged
    assert_counted(world, job)


def test_one_event_is_left_and_it_names_nobody(world: World) -> None:
    # Given a person with a unit of which something is told
    job = drawn_job(world, ("ada",))
    with world.database.transaction() as tx:
        unit_id = tx.execute(select(Unit.id).limit(1)).scalar_one()
        job_rows.record_event(tx, TENANT, "unit.quarantined", job_id=job, unit_id=unit_id)

    # When it is erased, then one event says how much went
    erase(world, "ada")
    with world.database.reading() as tx:
        (event,) = tx.execute(select(Event))
    assert (event.kind, event.job_id, event.unit_id, event.render_id, event.worker) == (erasure.ERASED, *[None] * 4)
    assert event.data == {"people": 1, "units": 2, "renders": 4, "jobs": 1, "objects": 14}


def test_nobody_and_another_tenants_person_are_left_alone(world: World) -> None:
    job = drawn_job(world, ("ada",))
    with world.database.transaction() as tx:
        assert erasure.erase(tx, "globex", identity_of(world, "ada")) is None
        assert erasure.erase(tx, TENANT, uuid.uuid4()) is None
    assert world.job(job)["done"] == 4


@only_postgres
def test_erasing_and_recording_do_not_lock_each_other_out(world: World) -> None:
    # Given a worker that draws a person's pictures and beats, while the person is erased many times over
    failures: list[BaseException] = []
    for round_ in range(5):
        add_job(world.database, [person("ada", [4, 4], world.settings)], key=f"job{round_}")
        began = threading.Event()
        world.renderer._at_step = lambda _step, began=began: began.set()  # type: ignore[misc]

        def draw() -> None:
            try:
                world.shift()
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        # When both run at the same time
        thread = threading.Thread(target=draw)
        thread.start()
        assert began.wait(30)
        erase(world, "ada")
        thread.join(60)

        # Then both end, and nothing of the person is left
        assert not thread.is_alive() and failures == [] and names(world) == set()
        with world.database.reading() as tx:
            assert tx.execute(select(Unit.id)).all() == tx.execute(select(Render.id)).all() == []


def test_objects_of_somebody_who_was_erased_go_but_for_those_that_are_named_again(world: World) -> None:
    # Given two people who were drawn and erased, of whom one was enqueued and drawn again before the objects go
    add_job(world.database, [person(name, [1], world.settings) for name in ("ada", "alan")])
    world.shift()
    world.shift()
    told = [key for name in ("ada", "alan") for key in erase(world, name).keys]
    assert set(world.storage.list(f"{TENANT}/")) <= set(told)
    again = add_job(world.database, [person("ada", [1], world.settings)])
    world.shift()
    with world.database.reading() as tx:
        named = keys(tx)

    for key in told:
        world.storage.put(key, b"x", content_type="image/png")

    # When they are removed, then a photo that a row names again stays
    assert len(named & set(told)) == 1
    assert purge(world.database, world.storage, TENANT, told) == len(set(told) - named)
    assert set(world.storage.list(f"{TENANT}/")) == named
    assert [row["state"] for row in world.renders(again)] == ["done"]

    # And a key that no row of this tenant can have told is refused
    world.storage.put("else/photos/x", b"x", content_type="image/png")
    with pytest.raises(BadKey, match="no key of tenant"):
        purge(world.database, world.storage, TENANT, ["else/photos/x"])
    assert world.storage.exists("else/photos/x")


@only_postgres
def test_a_second_look_at_what_is_to_go_begins_without_locks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a person of whom more is found when the first has been locked
    add_job(world.database, [person("ada", [1], world.settings)])
    ada, looks = identity_of(world, "ada"), iter(range(9))
    made_from, jobs_of, free = erasure._made_from, erasure._jobs_of, []

    def more(tx: Connection, tenant: str, identity: uuid.UUID) -> erasure.Made:
        found = made_from(tx, tenant, identity)
        return erasure.Made([], []) if next(looks) == 0 else found

    def look(tx: Connection, tenant: str, sets: list[uuid.UUID]) -> list[uuid.UUID]:
        with world.database.transaction() as other:
            skipped = select(Identity.id).where(Identity.id == ada).with_for_update(skip_locked=True)
            free.append(other.execute(skipped).one_or_none() is not None)
        return jobs_of(tx, tenant, sets)

    monkeypatch.setattr(erasure, "_made_from", more)
    monkeypatch.setattr(erasure, "_jobs_of", look)

    # When it is erased, then the second round has let go of the person before it takes the job, and nothing is left
    erase(world, "ada")
    assert free == [True, True, False] and names(world) == set()
