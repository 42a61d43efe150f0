"""The archive: jobs that are over move out of the queue's tables and back, and nobody who reads sees a difference."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queue_world import ASKED, TENANT, World, add_job, person, settings
from sqlalchemy import func, select, update

from jobs import archive as archive_module
from jobs import reports
from jobs.archive import archive, restore
from jobs.database import Database
from jobs.errors import JobArchived
from jobs.models import (
    ARCHIVED_CANDIDATES,
    ARCHIVED_EVENTS,
    ARCHIVED_OUTPUTS,
    ARCHIVED_RENDERS,
    ARCHIVED_UNITS,
    METADATA,
    Candidate,
    Event,
    Output,
    Render,
    Unit,
)
from jobs.orm import new_id, utcnow
from jobs.repository import archive as rows
from jobs.repository import late, queries, units
from jobs.sweep import sweep
from jobs.verify import differences
from worker.testing import FakeRenderer

LIVE = (Unit.__table__, Render.__table__, Candidate.__table__, Output.__table__, Event.__table__)
KEPT = (ARCHIVED_UNITS, ARCHIVED_RENDERS, ARCHIVED_CANDIDATES, ARCHIVED_OUTPUTS, ARCHIVED_EVENTS)


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A queue with a fake renderer; the archive moves one person at a time."""
    monkeypatch.setattr(archive_module, "UNITS_AT_ONCE", 1)
    return World(database, settings(tmp_path, database_url, tenant=TENANT), FakeRenderer())


def finished_job(world: World, key: str = "job", people: tuple[str, ...] = ("ada", "alan", "grace")) -> uuid.UUID:
    """A drawn job of people with two units of two renders; one failed, one has a further file and a candidate."""
    job = add_job(world.database, [person(name, [2, 2], world.settings) for name in people], key=key)
    while world.job(job)["waiting"]:
        world.shift()
    with world.database.transaction() as tx:
        for number, one in enumerate(tx.execute(select(Render.id).where(Render.job_id == job).order_by(Render.id))):
            tx.execute(update(Render).where(Render.id == one.id).values(ordinal=number))
        of_job = select(Render.id).where(Render.job_id == job, Render.state == "done").order_by(Render.id)
        first, second = tx.execute(of_job.limit(2)).scalars()
        unit = tx.execute(select(Render.unit_id).where(Render.id == second)).scalar_one()
        broken = {"state": "failed", "error_code": "out_of_memory", "error": "too large"}
        tx.execute(update(Render).where(Render.id == second).values(storage_key=None, **broken))
        tx.execute(
            update(Unit)
            .where(Unit.id == unit)
            .values(renders_done=Unit.renders_done - 1, renders_failed=1, error_code="out_of_memory", error="too large")
        )
        tx.execute(Candidate.__table__.delete().where(Candidate.render_id == second))
        own = {"tenant_id": TENANT, "render_id": first, "sha256": "ab", "size_bytes": 7, "created_at": utcnow()}
        folder = f"{TENANT}/{job}/{first}"
        tx.execute(
            Output.__table__.insert().values(
                id=new_id(),
                name="avatar",
                storage_key=f"{folder}/1-avatar.webp",
                media_type="image/webp",
                width=8,
                height=8,
                **own,
            )
        )
        tx.execute(
            Candidate.__table__.insert().values(
                id=new_id(), lease_token=1, seed=9, storage_key=f"{folder}/1.1.png", chosen=False, **own
            )
        )
    return job


def seen(world: World, job: uuid.UUID) -> dict[str, Any]:
    """Everything that readers see of a job, but for when it was archived."""
    found = reports.status(job, settings=world.settings)
    told = {name: value for name, value in found.job.items() if name != "archived_at"}
    with world.database.reading() as tx:
        events = [dict(row) for row in queries.events(tx, TENANT, job)]
        one = queries.render(tx, TENANT, world.renders(job)[0]["render_id"])
    return {
        "job": told,
        "listed": [row["job_id"] for row in reports.list_jobs(settings=world.settings)],
        "people": found.people,
        "failures": found.failures,
        "results": list(reports.results(job, urls=True, settings=world.settings)),
        "outputs": list(reports.outputs(job, settings=world.settings)),
        "events": events,
        "one": dict(one or {}),
    }


def counts(world: World, tables: Any, job: uuid.UUID) -> list[int]:
    """How many rows of a job there are in each of these tables."""
    with world.database.reading() as tx:
        drawn = select(tables[1].c.id).where(tables[1].c.job_id == job)
        return [
            tx.execute(
                select(func.count())
                .select_from(table)
                .where(table.c.job_id == job if "job_id" in table.c else table.c.render_id.in_(drawn))
            ).scalar_one()
            for table in tables
        ]


def test_a_finished_job_moves_there_and_back_and_reads_the_same(world: World) -> None:
    # Given a finished job, and another that is still waiting
    job = finished_job(world)
    waiting = add_job(world.database, [person("ada", [1], world.settings)], key="waiting")
    before, rows_before = seen(world, job), counts(world, LIVE, job)
    assert rows_before == [6, 12, 12, 1, 1] and before["job"]["failed"] == 1 and len(before["outputs"]) == 1

    # When what is over is archived
    moved = archive(older_than_seconds=0, settings=world.settings)

    # Then it is gone from the queue's tables, the other job is not, and every reader sees what it saw
    assert (moved.jobs, moved.renders) == (1, 12)
    assert counts(world, LIVE, job) == [0, 0, 0, 0, 0]
    assert counts(world, KEPT, job) == rows_before
    assert counts(world, LIVE, waiting)[:2] == [1, 1]
    assert seen(world, job) == before
    assert reports.status(job, settings=world.settings).job["archived_at"] is not None

    # And archiving again does nothing, and restoring brings every row back as it was
    assert archive(older_than_seconds=0, settings=world.settings).jobs == 0
    assert restore(job, settings=world.settings).renders == 12
    assert counts(world, LIVE, job) == rows_before
    assert counts(world, KEPT, job) == [0, 0, 0, 0, 0]
    assert seen(world, job) == before
    assert reports.status(job, settings=world.settings).job["archived_at"] is None
    assert restore(job, settings=world.settings).jobs == 0


def test_an_interrupted_move_is_seen_whole_and_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a finished job, and an archive that dies after each person
    job = finished_job(world)
    before = seen(world, job)

    class Died(Exception):
        pass

    def dying(move: Callable[..., int | None]) -> Callable[..., int | None]:
        calls = iter(range(100))

        def once(*arguments: Any, **named: Any) -> int | None:
            if next(calls):
                raise Died
            return move(*arguments, **named)

        return once

    for name, call in (
        ("move", lambda: archive(older_than_seconds=0, settings=world.settings)),
        ("move_back", lambda: restore(job, settings=world.settings)),
    ):
        interruptions = 0
        while True:
            # When it is called again and again
            with monkeypatch.context() as patched:
                patched.setattr(rows, name, dying(getattr(rows, name)))
                try:
                    call()
                    break
                except Died:
                    interruptions += 1
                    # Then readers see every row once, although the job is partly here and partly there
                    assert seen(world, job) == before
                    assert interruptions < 20
        assert interruptions >= 3
        assert seen(world, job) == before
    assert counts(world, KEPT, job) == [0, 0, 0, 0, 0]


def test_whoever_reads_while_a_job_moves_sees_every_row_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job that moves into the archive and back, again and again, and readers whose pages are small
    monkeypatch.setattr(queries, "PAGE", 3)
    job = finished_job(world)
    stop, moves, faults = threading.Event(), [0], []

    def move() -> None:
        try:
            while not stop.is_set():
                archive(older_than_seconds=0, settings=world.settings)
                restore(job, settings=world.settings)
                moves[0] += 1
        except Exception as error:  # noqa: BLE001 - told below
            faults.append(error)

    mover = threading.Thread(target=move)
    mover.start()

    # When it is read meanwhile
    try:
        reads, deadline = 0, time.monotonic() + 60
        while (moves[0] < 3 or reads < 10) and not faults and time.monotonic() < deadline:
            rows_read = list(reports.results(job, settings=world.settings))
            found = reports.status(job, settings=world.settings)

            # Then every row is there once, and the sums are right
            assert [row["ordinal"] for row in rows_read] == list(range(12))
            assert (found.job["done"], found.job["failed"], found.job["waiting"]) == (11, 1, 0)
            assert sorted(person["external_id"] for person in found.people) == ["ada", "alan", "grace"]
            assert [failure["renders"] for failure in found.failures] == [1]
            assert len(list(reports.outputs(job, settings=world.settings))) == 1
            reads += 1
    finally:
        stop.set()
        mover.join()
    assert faults == [] and moves[0] >= 3 and reads >= 10


def test_what_an_older_process_opens_on_the_way_turns_the_job_round_and_is_drawn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job on its way into the archive, where its first person is already
    job = finished_job(world)
    last = max(world.renders(job), key=lambda row: (row["identity_id"], row["ordinal"]))
    with world.database.transaction() as tx:
        assert rows.begin(tx, TENANT, job, utcnow())
        assert rows.move(tx, TENANT, job, units=1) == 4

    # When a process that knows no archive asks for a picture of the last person again, and archiving goes on
    with monkeypatch.context() as older:
        older.setattr(rows, "refuse_archived", lambda *_: None)
        reports.rerun(last["render_id"], settings=world.settings)
    moved = archive(older_than_seconds=3600, settings=world.settings)

    # Then the whole job is back and says so, and its picture is drawn
    assert (moved.jobs, moved.renders, moved.turned) == (0, 0, [job])
    assert counts(world, KEPT, job) == [0, 0, 0, 0, 0]
    world.shift()
    told = world.job(job)
    assert (told["waiting"], told["done"], told["failed"]) == (0, 12, 1)
    assert differences(world.database, TENANT, job) == []
    assert archive(older_than_seconds=0, settings=world.settings).turned == []


def test_a_person_of_more_units_than_a_statement_names_moves_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a drawn job of a person with five units, and statements that name two
    monkeypatch.setattr(rows, "_IDS_AT_ONCE", 2)
    job = add_job(world.database, [person("ada", [1, 2, 1, 1, 1], world.settings)])
    while world.job(job)["waiting"]:
        world.shift()
    before = seen(world, job)

    # When it goes into the archive and back, then all of it does, and every sum is right
    assert archive(older_than_seconds=0, settings=world.settings).renders == 6
    assert counts(world, LIVE, job)[:2] == [0, 0] and differences(world.database, TENANT, job) == []
    assert seen(world, job) == before
    assert restore(job, settings=world.settings).renders == 6
    assert seen(world, job) == before and differences(world.database, TENANT, job) == []


def test_an_open_unit_in_the_archive_is_told(world: World) -> None:
    # Given an archived job of which a picture waits, as an earlier archive may have moved it
    job = finished_job(world)
    archive(older_than_seconds=0, settings=world.settings)
    with world.database.transaction() as tx:
        render = tx.execute(select(ARCHIVED_RENDERS).where(ARCHIVED_RENDERS.c.state == "done").limit(1)).one()
        tx.execute(update(ARCHIVED_RENDERS).where(ARCHIVED_RENDERS.c.id == render.id).values(state="waiting"))
        unit = update(ARCHIVED_UNITS).where(ARCHIVED_UNITS.c.id == render.unit_id)
        tx.execute(unit.values(state="ready", renders_done=ARCHIVED_UNITS.c.renders_done - 1))

    # When it is verified, then that unit is told, although its counters are right
    found = {(one.kind, one.where) for one in differences(world.database, TENANT, job)}
    assert ("unit_state", f"unit {render.unit_id}") in found
    assert not [kind for kind, _ in found if kind == "unit_counters"]


def test_what_is_not_over_long_enough_stays(world: World) -> None:
    # Given a finished job, and one of which a unit still waits
    finished_job(world)
    open_job = finished_job(world, key="open")
    with world.database.transaction() as tx:
        unit = tx.execute(select(Unit.id).where(Unit.job_id == open_job).limit(1)).scalar_one()
        tx.execute(update(Unit).where(Unit.id == unit).values(state="paused"))

    # When what is over for an hour is archived, then nothing is; when what is over at all, then only the first
    assert archive(older_than_seconds=3600, settings=world.settings).jobs == 0
    assert archive(older_than_seconds=1e15, settings=world.settings).jobs == 0
    assert archive(older_than_seconds=0, settings=world.settings).jobs == 1
    assert counts(world, LIVE, open_job)[0] == 6


def test_limit_and_tenant_bound_what_is_archived(world: World) -> None:
    # Given three finished jobs of one tenant
    for number in range(3):
        finished_job(world, key=f"job-{number}", people=("ada",))

    # When two may be archived, and then those of another tenant, and then the rest
    assert archive(older_than_seconds=0, limit=2, settings=world.settings).jobs == 2
    with world.database.reading() as tx:
        assert rows.interrupted(tx, TENANT) == []  # the third was not even begun
    assert archive(older_than_seconds=0, tenant="other", settings=world.settings).jobs == 0
    assert archive(older_than_seconds=0, tenant=TENANT, settings=world.settings).jobs == 1


def test_what_changes_a_job_refuses_an_archived_one_until_it_is_restored(world: World) -> None:
    # Given an archived job with a failed render
    job = finished_job(world)
    render = world.renders(job)[0]["render_id"]
    archive(older_than_seconds=0, settings=world.settings)

    # When somebody wants to change it, then it is refused with what to do
    for change in (
        lambda: reports.retry(job, settings=world.settings),
        lambda: reports.cancel(job, settings=world.settings),
        lambda: reports.rerun(render, settings=world.settings),
    ):
        with pytest.raises(JobArchived, match=f"archive --restore {job}"):
            change()

    # And after it is restored, it is done
    restore(job, settings=world.settings)
    assert reports.retry(job, settings=world.settings)[0] == 1
    assert reports.rerun(render, settings=world.settings)[0]
    assert archive(older_than_seconds=0, settings=world.settings).jobs == 0


def test_the_sweep_and_late_pictures_know_what_is_archived(world: World) -> None:
    # Given an archived job, whose objects lie in the store
    job = finished_job(world)
    with world.database.reading() as tx:
        render = tx.execute(select(Render).where(Render.job_id == job, Render.state == "done").limit(1)).one()
        unit = tx.execute(select(*units._CLAIMED).where(Unit.id == render.unit_id)).one()
    archive(older_than_seconds=0, settings=world.settings)
    pictures = world.pictures()

    # When it is swept, then its pictures stay, but for that of the render that failed
    swept = sweep(world.settings, older_than_seconds=0, delete=True)
    assert swept.orphans == 1 and len(world.pictures()) == len(pictures) - 1 == 11

    # And a worker that comes late with a picture that was recorded learns that it is
    claimed = units.ClaimedUnit(**unit._mapping)
    with world.database.reading() as tx:
        assert late.standing(tx, claimed, "worker-1", render.id, render.storage_key) == "recorded"
        assert late.standing(tx, claimed, "worker-1", render.id, "another") == "too late"


def test_erasing_a_person_reaches_the_archive(world: World) -> None:
    # Given an archived job of three people
    job = finished_job(world)
    archive(older_than_seconds=0, settings=world.settings)
    mine = [row for row in world.renders(job) if row["external_id"] == "ada"]

    # When one is forgotten
    with world.database.transaction() as tx:
        keys, jobs = rows.forget(tx, TENANT, mine[0]["identity_id"])

    # Then the keys of all objects are told, the rows are gone, and the job counts what is left
    assert jobs == [job]
    assert {row["storage_key"] for row in mine if row["storage_key"]} <= set(keys)
    assert {row["external_id"] for row in world.renders(job)} == {"alan", "grace"}
    told = world.job(job)
    assert (told["identities"], told["units"], told["renders"]) == (2, 4, 8)
    assert told["done"] + told["failed"] == 8
    assert counts(world, KEPT, job)[0] == 4


def test_the_archive_has_the_columns_of_the_queue() -> None:
    # Given each table whose rows move, when its archive is looked at, then it has the same columns
    for live, kept in zip(LIVE, KEPT, strict=True):
        assert kept.name == f"archived_{live.name}"
        assert [(c.name, str(c.type), c.nullable) for c in kept.columns] == [
            (c.name, str(c.type), c.nullable) for c in live.columns
        ]
    assert {table for table in METADATA.tables if table.startswith("archived_")} == {kept.name for kept in KEPT}


def test_taking_the_schema_back_restores_what_is_archived(world: World) -> None:
    # Given an archived job
    job = finished_job(world)
    before = counts(world, LIVE, job)
    archive(older_than_seconds=0, settings=world.settings)

    # When the schema goes back to before the archive and forth again
    from alembic import command

    with world.database.transaction() as tx:
        command.downgrade(world.database._alembic(tx), "0005")
    world.database.upgrade()

    # Then its rows are in the queue's tables again
    assert counts(world, LIVE, job) == before
    assert world.job(job)["done"] == 11
    assert archive(older_than_seconds=0, settings=world.settings).jobs == 1
    assert ASKED["prompt"] == world.renders(job)[0]["prompt"]
