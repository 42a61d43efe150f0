"""Ends: what is over is told once to each webhook, in the order units before their job, whoever else is at it."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, add_job, only_postgres, person, settings
from sqlalchemy import event, func, select, text, update

from jobs.archive import archive
from jobs.clerk.errands import drop_old_deliveries, tell_ends
from jobs.database import Database
from jobs.models import ARCHIVED_UNITS, Job, Unit
from jobs.models_outside import Delivery, Gallery
from jobs.repository import again, ends, erasure, units, webhooks
from jobs.repository import jobs as job_rows
from jobs.settings import Settings

URL = "https://hooks.example/portraits"
BOTH = ("job.ended", "unit.ended")


@pytest.fixture
def chosen(tmp_path: Path, database_url: str) -> Settings:
    return settings(tmp_path, database_url)


def hook(database: Database, *kinds: str, tenant: str = TENANT) -> uuid.UUID:
    with database.transaction() as tx:
        return webhooks.add(tx, tenant, url=URL, secret="whsec_c2VjcmV0", kinds=kinds)


def claimed(database: Database, limit: int = 100) -> list[units.ClaimedUnit]:
    with database.transaction() as tx:
        terms: dict[str, Any] = {"lease_seconds": 60.0, "max_attempts": 3}
        return units.claim_next(tx, "fake", "worker", limit=limit, **terms)


def settle(database: Database, held: list[units.ClaimedUnit], *, failed: bool = False) -> None:
    """End these units of one render each, as a worker does."""
    for unit in held:
        with database.transaction() as tx:
            if failed:
                assert units.fail(tx, unit, "worker", error_code="no_face", error="no face was found")
            else:
                assert units.count_drawn(tx, unit, "worker", done=1)


def told(database: Database, webhook_id: uuid.UUID | None = None) -> list[Any]:
    with database.reading() as tx:
        statement = select(Delivery).order_by(Delivery.id)
        if webhook_id is not None:
            statement = statement.where(Delivery.webhook_id == webhook_id)
        return list(tx.execute(statement).all())


def kinds(database: Database) -> Counter[str]:
    return Counter(row.kind for row in told(database))


def test_each_end_is_told_once_to_each_webhook_that_wants_it(database: Database, chosen: Settings) -> None:
    # Given a job of three people, one webhook for everything, one for jobs, and one of another tenant
    job_id = add_job(database, [person(name, [1], chosen) for name in ("ada", "alan", "hedy")], key="team")
    everything, jobs_only = hook(database, *BOTH), hook(database, "job.ended")
    hook(database, *BOTH, tenant="globex")
    held = claimed(database)

    # When two units end, then these are told, and nothing of the job
    settle(database, held[:2])
    assert tell_ends(database) == 2
    assert kinds(database) == {"unit.ended": 2}
    # When the last one fails, then it is told, and after it the job's end, to both
    settle(database, held[2:], failed=True)
    assert tell_ends(database) == 1
    assert kinds(database) == {"unit.ended": 3, "job.ended": 2}
    assert [row.kind for row in told(database, everything)][-2:] == ["unit.ended", "job.ended"]
    assert [row.kind for row in told(database, jobs_only)] == ["job.ended"]
    # And each names what it is about, in counts and codes
    unit, job = (row.payload for row in told(database, everything)[-2:])
    assert unit["data"]["unit"]["person"] in {"ada", "alan", "hedy"}
    assert unit["data"]["failures"] == {"no_face": 1}
    assert unit["data"]["job"] == {"id": str(job_id), "key": "team"}
    assert job["type"] == "job.ended" and job["data"]["failures"] == {"no_face": 1}
    shown = {name: job["data"]["job"][name] for name in ("state", "renders", "done", "failed", "cancelled")}
    assert shown == {"state": "partial", "renders": 3, "done": 2, "failed": 1, "cancelled": 0}
    assert job["timestamp"] == job["data"]["job"]["finished_at"]
    # And nobody's prompt or photo
    assert "portrait" not in str(job) + str(unit) and "photos" not in str(job) + str(unit)
    # And a further turn tells nothing
    assert tell_ends(database) == 0
    assert sum(kinds(database).values()) == 5


def test_the_end_of_a_job_makes_its_gallery_due_once(database: Database, chosen: Settings) -> None:
    # Given a job without any webhook
    job_id = add_job(database, [person("ada", [1], chosen)])
    settle(database, claimed(database))

    # When its end is told, then its gallery is due, and it knows when it ended
    tell_ends(database)
    with database.reading() as tx:
        assert tx.execute(select(Gallery.job_id).where(Gallery.due_at.is_not(None))).scalars().all() == [job_id]
        ended = tx.execute(select(Job.told_at)).scalar_one()
        assert ended == tx.execute(select(Unit.finished_at)).scalar_one()


def test_a_job_that_is_retried_and_ends_again_is_told_again(database: Database, chosen: Settings) -> None:
    # Given a job that has ended with a failure, which was told
    job_id = add_job(database, [person("ada", [1], chosen), person("alan", [1], chosen)])
    hook(database, *BOTH)
    first, second = claimed(database)
    settle(database, [first])
    settle(database, [second], failed=True)
    tell_ends(database)
    assert kinds(database) == {"unit.ended": 2, "job.ended": 1}

    # When it is tried again, then nothing is told as long as it is open
    with database.transaction() as tx:
        assert again.retry(tx, TENANT, job_id)[0] == 1
    assert tell_ends(database) == 0
    # And when it ends, even under a worker's clock that is behind, then the unit and the job are told again
    settle(database, claimed(database))
    with database.transaction() as tx:
        early = tx.execute(select(func.min(Unit.finished_at))).scalar_one()
        tx.execute(
            update(Unit).where(Unit.id == second.id).values(finished_at=early - (early - early.replace(year=2020)))
        )
    assert tell_ends(database) == 1
    assert kinds(database) == {"unit.ended": 3, "job.ended": 2}
    assert told(database)[-1].payload["data"]["job"]["state"] == "done"


def test_a_cancelled_job_has_ended(database: Database, chosen: Settings) -> None:
    # Given a job of which one person is drawn
    job_id = add_job(database, [person("ada", [1], chosen), person("alan", [1], chosen)])
    hook(database, *BOTH)
    settle(database, claimed(database, limit=1))

    # When it is cancelled, then both units' ends are told, and the job's
    with database.transaction() as tx:
        job_rows.cancel(tx, TENANT, job_id)
    tell_ends(database)
    states = Counter(row.payload["data"].get("unit", {}).get("state") for row in told(database))
    assert states == {"done": 1, "cancelled": 1, None: 1}
    assert told(database)[-1].payload["data"]["job"]["state"] == "cancelled"


def test_a_job_that_only_waited_for_somebody_who_is_erased_has_ended(database: Database, chosen: Settings) -> None:
    # Given a job of two, one of whom is drawn and told of
    add_job(database, [person("ada", [1], chosen), person("alan", [1], chosen)])
    hook(database, *BOTH)
    (first,) = claimed(database, limit=1)
    settle(database, [first])
    tell_ends(database)
    assert kinds(database) == {"unit.ended": 1}
    # When the other one is erased, then the job is over, which is told once
    with database.transaction() as tx:
        mine = (Unit.tenant_id == TENANT, Unit.id != first.id)
        assert erasure.erase(tx, TENANT, tx.execute(select(Unit.identity_id).where(*mine)).scalar_one())
    assert kinds(database) == {"unit.ended": 1, "job.ended": 1}
    assert told(database)[-1].payload["data"]["job"]["renders"] == 1
    # And when the first one is erased too, then nothing that named that person is left, and no job
    with database.transaction() as tx:
        assert erasure.erase(tx, TENANT, first.identity_id)
    assert tell_ends(database) == 0 and told(database) == []


def test_many_ends_are_told_in_parts_and_the_job_with_the_last(database: Database, chosen: Settings) -> None:
    # Given a job of more units than one transaction tells, and a small one behind it
    add_job(database, [person("crowd", [1] * (2 * ends.CHUNK + 1), chosen)], key="large")
    add_job(database, [person("ada", [1], chosen)], key="small")
    hook(database, *BOTH)
    with database.transaction() as tx:
        tx.execute(update(Unit).values(state="done", renders_done=1, finished_at=text("created_at")))

    # When all are told
    assert tell_ends(database) == 2 * ends.CHUNK + 2
    # Then each is told once, and each job after the last of its units; the small one did not wait for the large one
    rows = told(database)
    assert kinds(database) == {"unit.ended": 2 * ends.CHUNK + 2, "job.ended": 2}
    assert len({row.unit_id for row in rows}) == 2 * ends.CHUNK + 2 + 1  # and None, of the jobs
    place = {row.payload["data"]["job"]["key"]: n for n, row in enumerate(rows) if row.kind == "job.ended"}
    last = {row.payload["data"]["job"]["key"]: n for n, row in enumerate(rows) if row.kind == "unit.ended"}
    assert place["large"] == last["large"] + 1 and place["small"] == last["small"] + 1
    assert place["small"] < place["large"]


def test_what_had_nothing_to_tell_takes_no_write_lock(database: Database, chosen: Settings) -> None:
    # Given a job in which nothing has ended, and on SQLite somebody who holds the only write lock
    add_job(database, [person("ada", [1], chosen)])
    with database.transaction():
        found: list[int] = []
        # When a clerk looks, then it is not held up
        looking = threading.Thread(target=lambda: found.append(tell_ends(database)), daemon=True)
        looking.start()
        looking.join(timeout=20)
    assert found == [0]


@only_postgres
def test_a_job_that_somebody_changes_is_passed_over_and_told_later(database: Database, chosen: Settings) -> None:
    # Given two jobs that are over, one of which somebody is changing
    first = add_job(database, [person("ada", [1], chosen)], key="first")
    add_job(database, [person("alan", [1], chosen)], key="second")
    hook(database, "job.ended")
    settle(database, claimed(database))
    with database.transaction() as tx:
        job_rows.lock(tx, TENANT, first)
        # When ends are told, then nobody waits, and the other one's is told
        assert tell_ends(database) == 1
        assert [row.payload["data"]["job"]["key"] for row in told(database)] == ["second"]
    # And afterwards the first one's
    assert tell_ends(database) == 1
    assert kinds(database) == {"job.ended": 2}


@only_postgres
def test_several_clerks_tell_each_end_once(database: Database, chosen: Settings) -> None:
    # Given many jobs that are over
    for n in range(20):
        add_job(database, [person(f"p{n}", [1, 1], chosen)], key=f"job-{n}")
    hook(database, *BOTH)
    settle(database, claimed(database))
    # When four clerks begin at once
    start, counts = threading.Barrier(4), list[int]()

    def clerk() -> None:
        start.wait()
        counts.append(tell_ends(database))

    threads = [threading.Thread(target=clerk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    counts.append(tell_ends(database))
    # Then each unit and each job is told once
    assert sum(counts) == 40
    assert kinds(database) == {"unit.ended": 40, "job.ended": 20}
    assert len({row.unit_id for row in told(database) if row.unit_id}) == 40


def test_what_goes_into_the_archive_was_told(database: Database, chosen: Settings) -> None:
    # Given a job that is over, of which nobody has told anything
    add_job(database, [person("ada", [1], chosen)])
    hook(database, *BOTH)
    settle(database, claimed(database))

    # When it is archived at once, then its ends are told first, and the archive knows of it
    assert archive(older_than_seconds=0.0, settings=chosen).jobs == 1
    assert kinds(database) == {"unit.ended": 1, "job.ended": 1}
    with database.reading() as tx:
        kept = tx.execute(select(ARCHIVED_UNITS.c.told_at, ARCHIVED_UNITS.c.finished_at)).one()
    assert kept.told_at == kept.finished_at
    assert tell_ends(database) == 0


def test_untold_ends_are_found_by_their_own_index(database: Database, chosen: Settings) -> None:
    # Given a database whose planner knows nothing, or everything
    job_id = add_job(database, [person("ada", [1] * 300, chosen)])
    if not database.is_sqlite:
        with database.transaction() as tx:
            tx.execute(text("ANALYZE"))
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    plans: list[str] = []

    def note(_c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        if statement.startswith("SELECT units"):
            own = cursor.connection.cursor()
            own.execute(explain + statement, parameters)
            plans.append("\n".join(str(row[-1]) for row in own.fetchall()))
            own.close()

    event.listen(database.engine, "before_cursor_execute", note)
    # When it is asked for the first untold end, for the next, and for those of a job
    with database.reading() as tx:
        ends.next_job(tx)
        ends.next_job(tx, after=(TENANT, job_id))
    with database.transaction() as tx:
        ends.tell(tx, TENANT, job_id)
    # Then each walks the index of what is untold
    assert len(plans) == 3
    assert all("ix_units_untold" in plan for plan in plans), plans


def test_old_deliveries_go_some_at_a_time_and_what_waits_or_is_new_stays(
    database: Database, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given seven deliveries: five that ended long ago, one that ended now, and one that still waits since long ago
    monkeypatch.setattr("jobs.clerk.errands.DROPPED_AT_ONCE", 2)
    add_job(database, [person(f"p{n}", [1], chosen) for n in range(7)])
    hook(database, "unit.ended")
    settle(database, claimed(database))
    assert tell_ends(database) == 7
    new, waiting, *old = [row.id for row in told(database)]
    with database.transaction() as tx:
        tx.execute(update(Delivery).where(Delivery.id != waiting).values(state="done"))
        tx.execute(update(Delivery).where(Delivery.id != new).values(due_at=1.0))

    # When the clerk drops them, then in three parts, and the two others are left
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert drop_old_deliveries(database) == len(old) == 5
    assert sum(statement.startswith("DELETE") for statement in asked) == 3
    assert {row.id for row in told(database)} == {new, waiting}
    assert drop_old_deliveries(database) == 0


def test_a_job_whose_ends_another_one_is_telling_is_archived_the_next_time(
    database: Database, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a job that is over and untold, and a clerk that holds it
    add_job(database, [person("ada", [1], chosen)])
    hook(database, *BOTH)
    settle(database, claimed(database))
    with monkeypatch.context() as held:
        held.setattr(ends, "tell", lambda *given: ends.Told())

        # When it is to be archived, then it stays where whoever tells looks for it
        assert archive(older_than_seconds=0.0, settings=chosen).jobs == 0
    assert kinds(database) == {}

    # And when it is free, it is told of, then archived
    assert archive(older_than_seconds=0.0, settings=chosen).jobs == 1
    assert kinds(database) == {"unit.ended": 1, "job.ended": 1}
