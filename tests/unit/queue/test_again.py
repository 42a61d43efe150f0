"""What waits again when a job is retried, and that a tenant's limit holds for it too."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, add_job, person, settings
from sqlalchemy import func, select, update
from test_quarantine import claim, drawn, expire

from jobs import reports
from jobs.database import Database
from jobs.errors import QuotaExceeded
from jobs.models import Render, Unit
from jobs.repository import again, queries, reaping, tenants, units
from jobs.repository import jobs as job_rows
from jobs.repository import renders as render_rows
from jobs.settings import Settings

KINDS = {"face": "no_face", "memory": "out_of_memory", "poison": "quarantined", "stop": "cancelled"}


@pytest.fixture
def chosen(tmp_path: Path, database_url: str) -> Settings:
    return settings(tmp_path, database_url)


@pytest.fixture
def job(database: Database, chosen: Settings) -> uuid.UUID:
    """A job of four people with two pictures each, all of which ended without one, each person for its own reason."""
    job_id = add_job(database, [person(name, [2], chosen) for name in KINDS])
    held = {name_of(database, unit): unit for unit in claim(database)}
    with database.transaction() as tx:
        for name in ("face", "memory"):
            assert units.fail(tx, held[name], "w", error_code=KINDS[name], error="told")
        tx.execute(update(Unit).where(Unit.id == held["poison"].id).values(lost_workers=2, attempts=3))
        units.release(tx, held["stop"], "w", give_attempt_back=True)
    expire(database)
    with database.transaction() as tx:
        assert reaping.reap(tx, max_attempts=5) == (0, 1)
        job_rows.cancel(tx, TENANT, job_id)
    return job_id


def name_of(database: Database, unit: units.ClaimedUnit) -> str:
    with database.reading() as tx:
        people = {row["identity_id"]: row["external_id"] for row in queries.people(tx, TENANT, unit.job_id)}
    return str(people[unit.identity_id])


def waiting(database: Database, job_id: uuid.UUID) -> set[str]:
    """The people whose pictures wait; all of a person's or none."""
    with database.reading() as tx:
        found = [dict(row) for row in queries.people(tx, TENANT, job_id)]
    assert {row["waiting"] for row in found} <= {0, 2}
    return {row["external_id"] for row in found if row["waiting"]}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"face", "memory"}),
        ({"failed": True}, {"face", "memory"}),
        ({"quarantined": True}, {"poison"}),
        ({"failed": True, "quarantined": True}, {"face", "memory", "poison"}),
        ({"cancelled": True}, {"face", "memory", "stop"}),
        ({"failed": False, "cancelled": True}, {"stop"}),
        ({"code": "out_of_memory"}, {"memory"}),
        ({"code": "quarantined"}, {"poison"}),
        ({"failed": False}, set()),
    ],
)
def test_what_is_asked_for_waits_again_and_nothing_else(
    database: Database, chosen: Settings, job: uuid.UUID, asked: dict[str, Any], expected: set[str]
) -> None:
    # When some of it is tried again
    count, warnings = reports.retry(job, tenant=TENANT, settings=chosen, **asked)

    # Then it waits, what was left is told if it is quarantined, and the counters are what the renders say
    assert waiting(database, job) == expected and count == 2 * len(expected)
    assert any("--quarantined" in warning for warning in warnings) is ("poison" not in expected)
    with database.reading() as tx:
        for unit in tx.execute(select(Unit)).all():
            mine = select(func.count()).where(Render.unit_id == unit.id)
            for state in ("done", "failed", "cancelled"):
                assert tx.execute(mine.where(Render.state == state)).scalar_one() == getattr(unit, f"renders_{state}")


def test_a_quarantined_unit_that_is_tried_again_stays_alone_and_has_two_workers_left(
    database: Database, chosen: Settings, job: uuid.UUID
) -> None:
    # Given a quarantined unit that is asked for once more
    reports.retry(job, quarantined=True, tenant=TENANT, settings=chosen)

    # When two more workers are lost with it
    for _ in range(2):
        (held,) = claim(database)
        assert held.is_suspected
        expire(database)
        with database.transaction() as tx:
            ended = reaping.reap(tx, max_attempts=5)[1]

    # Then it is quarantined again
    assert ended == 1 and waiting(database, job) == set()


def test_a_unit_with_two_kinds_of_failures_keeps_the_one_that_was_not_asked_for(
    database: Database, chosen: Settings
) -> None:
    # Given a unit with one picture done, one refused and one quarantined
    job = add_job(database, [person("ada", [3], chosen)])
    with database.transaction() as tx:
        tx.execute(update(Unit).values(lost_workers=2))
    (held,) = claim(database)
    with database.transaction() as tx:
        first, second, _ = render_rows.waiting(tx, [held])
        assert render_rows.complete(tx, first, "w", drawn(f"{TENANT}/{job}/{first.id}/1.png"))
        assert render_rows.fail(tx, second, "w", error_code="refused", error="told")
    expire(database)
    with database.transaction() as tx:
        reaping.reap(tx, max_attempts=5)

    # When what failed is tried again
    assert reports.retry(job, tenant=TENANT, settings=chosen)[0] == 1

    # Then the unit waits for that one alone, is drawn alone, and ends with its three pictures accounted for
    with database.reading() as tx:
        row = tx.execute(select(Unit)).one()
    counters = (row.renders_done, row.renders_failed, row.renders_cancelled)
    assert (row.state, row.lost_workers, row.error_code, counters) == ("ready", 1, "quarantined", (1, 1, 0))


def test_a_retry_and_a_rerun_above_the_tenants_limit_change_nothing(
    database: Database, chosen: Settings, job: uuid.UUID
) -> None:
    # Given a tenant that may have three waiting pictures
    with database.transaction() as tx:
        tenants.change(tx, TENANT, max_waiting_renders=3)
        render_id = tx.execute(select(Render.id).limit(1)).scalar_one()

    # When four are to wait again, then none does
    with pytest.raises(QuotaExceeded, match="may have 3 waiting pictures; it has 0, and this job adds 4"):
        reports.retry(job, tenant=TENANT, settings=chosen)
    assert waiting(database, job) == set()

    # And where two are, one more may be asked for, and then no other
    assert reports.retry(job, code="no_face", tenant=TENANT, settings=chosen)[0] == 2
    reports.rerun(render_id, tenant=TENANT, settings=chosen)
    with pytest.raises(QuotaExceeded):
        reports.rerun(render_id, tenant=TENANT, settings=chosen)
    with database.reading() as tx:
        assert tenants.waiting_renders(tx, TENANT) == 3


def test_a_unit_that_is_held_is_left_to_its_worker(database: Database, chosen: Settings) -> None:
    # Given a unit of which one picture failed while the other is being drawn
    job = add_job(database, [person("ada", [2], chosen)])
    (held,) = claim(database)
    with database.transaction() as tx:
        assert render_rows.fail(tx, render_rows.waiting(tx, [held])[0], "w", error_code="refused", error="told")

    # When the job is tried again, then that picture is not taken from under the worker's hands
    with database.transaction() as tx:
        assert again.retry(tx, TENANT, job) == (0, [])
        assert tx.execute(select(Unit.state, Unit.renders_failed)).one() == ("leased", 1)
