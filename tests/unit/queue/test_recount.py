"""Verifying: every counter that is not what the rows say is told, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, only_postgres, person, settings
from sqlalchemy import Connection, Engine, delete, event, func, select, update

from jobs import verify as verify_module
from jobs.archive import archive
from jobs.database import Database
from jobs.models import ARCHIVED_UNITS, Candidate, Job, Render, Unit, WeightSet
from jobs.storage_folder import FolderStorage
from jobs.verify import differences, verify, weight_set_differences
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    """A queue with a fake renderer."""
    return World(database, settings(tmp_path, database_url, tenant=TENANT), FakeRenderer())


@pytest.fixture
def job(world: World) -> uuid.UUID:
    """A drawn job of two people with three renders each."""
    made = add_job(world.database, [person(name, [3], world.settings) for name in ("ada", "alan")])
    while world.job(made)["waiting"]:
        world.shift()
    return made


def kinds(world: World, job: uuid.UUID) -> list[str]:
    """The kinds of what differs."""
    return sorted(one.kind for one in differences(world.database, TENANT, job))


def first(tx: Connection, column: Any) -> Any:
    """The least of a column's values."""
    return tx.execute(select(column).order_by(column).limit(1)).scalar_one()


def break_unit(tx: Connection) -> None:
    """One unit counts a picture too few."""
    tx.execute(update(Unit).where(Unit.id == first(tx, Unit.id)).values(renders_done=2, renders_failed=1))


def break_state(tx: Connection) -> None:
    """A unit waits in which nothing waits."""
    tx.execute(update(Unit).where(Unit.id == first(tx, Unit.id)).values(state="ready"))


def lose_candidate(tx: Connection) -> None:
    """A finished picture has no chosen candidate."""
    tx.execute(delete(Candidate).where(Candidate.id == first(tx, Candidate.id)))


def swap_candidate(tx: Connection) -> None:
    """The chosen candidate is another object than the render's."""
    tx.execute(update(Candidate).where(Candidate.id == first(tx, Candidate.id)).values(storage_key="acme/other"))


def break_total(tx: Connection) -> None:
    """The job says that it has more renders than it has."""
    tx.execute(update(Job).values(renders_total=7))


def lose_render(tx: Connection) -> None:
    """A render is not there any more."""
    render = first(tx, Render.id)
    tx.execute(delete(Candidate).where(Candidate.render_id == render))
    tx.execute(delete(Render).where(Render.id == render))


@pytest.mark.parametrize(
    ("breaking", "wanted"),
    [
        (break_unit, ["unit_counters"]),
        (break_state, ["unit_state"]),
        (lose_candidate, ["chosen"]),
        (swap_candidate, ["chosen"]),
        (break_total, ["job_counters"]),
        (lose_render, ["job_counters", "unit_counters"]),
    ],
)
def test_each_difference_is_told(
    world: World, job: uuid.UUID, breaking: Callable[[Connection], None], wanted: list[str]
) -> None:
    # Given a job that is as counted
    assert kinds(world, job) == []

    # When something is broken, then exactly that is told
    with world.database.transaction() as tx:
        breaking(tx)
    assert kinds(world, job) == wanted


def test_a_job_that_waits_or_is_half_drawn_is_as_counted(world: World) -> None:
    # Given a job of which one unit failed, one was cancelled with it, and one that waits
    job = add_job(world.database, [person("ada", [2], world.settings)])
    assert kinds(world, job) == []
    with world.database.transaction() as tx:
        render = first(tx, Render.id)
        tx.execute(update(Render).where(Render.id == render).values(state="failed", error_code="x"))
        tx.execute(update(Unit).values(renders_failed=1))

    # Then it is as counted
    assert kinds(world, job) == []


def test_settled_units_are_set_right_and_others_are_left_alone(world: World, job: uuid.UUID) -> None:
    # Given a settled and an open unit with wrong counters
    open_job = add_job(world.database, [person("grace", [2], world.settings)], key="open")
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.job_id == job).values(renders_done=1, renders_cancelled=2))
        tx.execute(update(Unit).where(Unit.job_id == open_job).values(renders_done=1))

    # When all is verified and set right
    found = verify(every=True, fix=True, settings=world.settings)

    # Then the settled ones are right and the other is told
    assert (found.jobs, found.corrected) == (2, 2)
    assert kinds(world, job) == []
    assert [one.job_id for one in found.differences] == [open_job]


@only_postgres
def test_setting_right_locks_the_job_and_then_units_by_their_ids(world: World, job: uuid.UUID) -> None:
    # Given a job whose units all count wrongly, and whoever hears which rows are locked
    with world.database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.job_id == job).values(renders_done=1, renders_cancelled=2))
        ids = sorted(tx.execute(select(Unit.id)).scalars())
    heard: list[Any] = []

    def hear(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if "FOR UPDATE" in statement:
            heard.append(next(one for one in parameters.values() if isinstance(one, uuid.UUID)))

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        # When they are set right, then the job comes first, as for everybody who locks both
        assert verify(job, fix=True, settings=world.settings).corrected == 2
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    assert heard == [job, *ids]


def test_archived_jobs_are_verified_too(world: World, job: uuid.UUID) -> None:
    # Given an archived job that is as counted
    archive(older_than_seconds=0, settings=world.settings)
    assert kinds(world, job) == []

    # When a unit of it counts wrong, then that, its state and the job's sum are told
    with world.database.transaction() as tx:
        one = tx.execute(select(func.min(ARCHIVED_UNITS.c.renders_done))).scalar_one()
        assert one == 3
        some = first(tx, ARCHIVED_UNITS.c.id)
        tx.execute(update(ARCHIVED_UNITS).where(ARCHIVED_UNITS.c.id == some).values(renders_done=2))
    assert kinds(world, job) == ["job_counters", "unit_counters", "unit_state"]


def test_missing_objects_and_weight_sets_without_one_are_told(world: World, job: uuid.UUID) -> None:
    # Given a job whose objects are all there
    assert verify(job, objects=True, settings=world.settings).differences == []

    # When a picture is lost and a weight set's row names no object
    key = world.pictures()[0]
    world.storage.delete(key)
    with world.database.transaction() as tx:
        tx.execute(
            update(WeightSet).where(WeightSet.id == first(tx, WeightSet.id)).values(storage_key=None, sha256=None)
        )

    # Then both are told
    found = verify(job, objects=True, settings=world.settings).differences
    assert sorted(one.kind for one in found) == ["object", "weight_set"]
    assert any(key in str(one) for one in found)
    assert len(weight_set_differences(world.database, TENANT)) == 1


def test_an_object_that_was_cut_is_told_with_both_sizes(world: World, job: uuid.UUID) -> None:
    # Given a picture whose object was cut, and another that was replaced by one of the same length
    cut, other = world.pictures()[:2]
    whole = world.storage.get(cut)
    world.storage.put(cut, whole[:7], content_type="image/png")
    world.storage.put(other, bytes(len(world.storage.get(other))), content_type="image/png")

    # When the objects are looked at, then the first is told in words, with what helps
    (found,) = verify(job, objects=True, settings=world.settings).differences
    assert found.kind == "object_size"
    assert f"{cut} has 7 bytes in the store, recorded are {len(whole)}" in str(found) and "from a backup" in str(found)

    # And without being asked to, nobody looks
    assert verify(job, settings=world.settings).differences == []


def test_no_transaction_is_open_while_the_store_is_asked(
    world: World, job: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job of six pictures, pages of two, and a store that looks at who holds a connection
    monkeypatch.setattr(verify_module, "PAGE", 2)
    asked, held = [], []

    class Store(FolderStorage):
        def size(self, key: str) -> int | None:
            asked.append(key)
            held.append(world.database.engine.pool.checkedout())  # type: ignore[attr-defined]
            return None

    # When its objects are looked for, then each is asked for once, and no connection is in use meanwhile
    store = Store(world.settings.home)
    assert len(list(verify_module.object_differences(world.database, store, TENANT, job))) == 6
    assert sorted(asked) == sorted(row["storage_key"] for row in world.renders(job)) and len(asked) == 6
    assert held == [0] * 6
