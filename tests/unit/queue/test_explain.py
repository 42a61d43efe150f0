"""What the queue does again and again walks an index on either database, however much waits.

Every statement of an operation is explained with the values it was run with. The reaper's turn is left out: once in
`reap_seconds` for the whole fleet it reads all units that wait (14 ms at a million pictures, see bench/results).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
from queue_world import ASKED, TENANT
from sqlalchemy import Connection, event, insert, select, text, update

from jobs.database import Database
from jobs.models import Identity, Job, PhotoSet, Render, Tenant, Unit
from jobs.orm import new_id, utcnow
from jobs.repository import queries, reaping, shares, units
from jobs.repository import renders as render_rows

TENANTS, PEOPLE, UNITS_OF_EACH, RENDERS_OF_EACH = 3, 200, 10, 1
LIMITS: dict[str, Any] = {"lease_seconds": 600.0, "max_attempts": 3}
_WHOLE = re.compile(r"Seq Scan on (?:units|renders)|\bSCAN (?:units|renders)(?! USING)|\bSCAN e\b")
_BY_LITTLE = re.compile(r"SEARCH (?:r|e|units|renders) .*\(tenant_id=\?\)|SEARCH (?:r|renders) .*job_id=\?\)")
_SORTED = re.compile(r"\bSort Key|USE TEMP B-TREE FOR ORDER BY")
Act = Callable[[Connection], object]


def fill(tx: Connection) -> uuid.UUID:
    """6,000 units of three tenants that wait, each with a render; returns a job's id."""
    now = utcnow()
    tx.execute(insert(Tenant), [{"id": tenant, "created_at": now} for tenant in tenants()])
    job_id = new_id()
    for tenant in tenants():
        own = {"tenant_id": tenant, "created_at": now}
        job = {
            **own,
            "id": new_id() if tenant != TENANT else job_id,
            "key": "k",
            "content_hash": "0",
            "profile": "fake",
        }
        counts = {"identities_total": PEOPLE, "units_total": PEOPLE * UNITS_OF_EACH, "renders_total": 1, "priority": 0}
        tx.execute(insert(Job), [{**job, **counts}])
        people = [{**own, "id": new_id(), "external_id": f"p{n}"} for n in range(PEOPLE)]
        tx.execute(insert(Identity), people)
        sets = [{**own, "id": new_id(), "identity_id": one["id"], "fingerprint": "0"} for one in people]
        tx.execute(insert(PhotoSet), sets)
        mine = [_unit(own, job["id"], one) for one in sets for _ in range(UNITS_OF_EACH)]
        tx.execute(insert(Unit), mine)
        asked = [unit for unit in mine for _ in range(RENDERS_OF_EACH)]
        tx.execute(insert(Render), [_render(own, unit, number) for number, unit in enumerate(asked)])
    return job_id


def tenants() -> list[str]:
    return [TENANT, *(f"tenant-{n}" for n in range(1, TENANTS))]


def _unit(own: dict[str, Any], job_id: uuid.UUID, photo_set: dict[str, Any]) -> dict[str, Any]:
    of = {"job_id": job_id, "identity_id": photo_set["identity_id"], "photo_set_id": photo_set["id"]}
    queue = {"profile": "fake", "state": "ready", "priority": 0, "ready_at": 0.0, "sort_key": 0.0, "lost_workers": 0}
    counts = {"renders_total": RENDERS_OF_EACH, "renders_done": 0, "renders_failed": 0, "renders_cancelled": 0}
    return {**own, "id": new_id(), **of, **queue, **counts, "attempts": 0, "lease_token": 0, "message_sent_at": 1.0}


def _render(own: dict[str, Any], unit: dict[str, Any], number: int) -> dict[str, Any]:
    of = {"job_id": unit["job_id"], "unit_id": unit["id"], "identity_id": unit["identity_id"]}
    return {**own, "id": new_id(), **of, **ASKED, "ordinal": number, "seed": number, "state": "waiting"}


@pytest.fixture
def job_id(database: Database) -> uuid.UUID:
    with database.transaction() as tx:
        made = fill(tx)
    if not database.is_sqlite:  # which nobody tells how large its tables are
        with database.transaction() as tx:
            tx.execute(text("ANALYZE"))
    return made


@contextmanager
def explained(database: Database) -> Iterator[list[str]]:
    """The plans of all statements that are run in the block, each under its statement."""
    plans: list[str] = []
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "

    def note(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many and statement.lstrip().startswith(("SELECT", "UPDATE", "WITH")):
            own = cursor.connection.cursor()
            own.execute(explain + statement, parameters)
            plans.append(statement + "\n" + "\n".join(str(row[-1]) for row in own.fetchall()))
            own.close()

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield plans
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def claimed(tx: Connection, limit: int = 3) -> list[units.ClaimedUnit]:
    return units.claim_next(tx, "fake", "worker", limit=limit, **LIMITS)


def tokens(held: list[units.ClaimedUnit]) -> dict[uuid.UUID, int]:
    return {unit.id: unit.lease_token for unit in held}


def beginning(tx: Connection) -> Any:
    """What the operations below are given: two units in hand, and one that waits."""
    held, turn = claimed(tx), shares.due(tx, "fake")[0]
    return held, tx.execute(select(Unit.id).where(Unit.tenant_id == turn, Unit.state == "ready").limit(1)).scalar_one()


OPERATIONS: dict[str, Callable[[Connection, Any], object]] = {
    "claim_next": lambda tx, given: claimed(tx, limit=8),
    "claim_unit": lambda tx, given: units.claim_unit(tx, given[1], "fake", "worker", **LIMITS),
    "claim_same_person": lambda tx, given: units.claim_same_person(tx, given[0][0], "worker", limit=8, **LIMITS),
    "heartbeat": lambda tx, given: units.heartbeat(tx, "worker", tokens(given[0]), lease_seconds=60.0),
    "still_held": lambda tx, given: units.still_held(tx, "worker", tokens(given[0])),
    "waiting renders": lambda tx, given: render_rows.waiting(tx, given[0]),
    "count_drawn": lambda tx, given: units.count_drawn(tx, given[0][0], "worker", done=1),
    "recount": lambda tx, given: units.recount(tx, given[0][0], "worker"),
    "release": lambda tx, given: units.release(tx, given[0][0], "worker", give_attempt_back=True),
    "fail": lambda tx, given: units.fail(tx, given[0][0], "worker", error_code="x", error="y"),
    "status": lambda tx, given: queries.job(tx, TENANT, given[2]),
    "profile_to_draw": lambda tx, given: units.profile_to_draw(tx, given[1], ["fake"]),
}


def test_an_operation_of_a_worker_reads_no_table_whole(database: Database, job_id: uuid.UUID) -> None:
    for name, act in OPERATIONS.items():
        # Given thousands of units that wait, and some in hand
        with database.transaction() as tx:
            given = (*beginning(tx), job_id)
            # When a worker does what it does for every unit or every few seconds
            with explained(database) as plans:
                assert act(tx, given), name
        # Then each of its statements walks an index
        assert plans, name
        for told in plans:
            assert not _WHOLE.search(told) and not _BY_LITTLE.search(told), f"{name}: {told}"
            # And no more units are put in order than one person has
            of_one_person = name == "claim_same_person" or "FROM units" not in told
            assert of_one_person or not _SORTED.search(told), f"{name}: {told}"


def test_pages_read_their_own_rows_although_nobody_told_sqlite_of_sizes(database: Database) -> None:
    # Given a large job, and a planner that knows nothing, as of every SQLite file
    with database.transaction() as tx:
        job_id = fill(tx)
    # When a page of its pictures and one of its people are read
    with database.reading() as tx, explained(database) as plans:
        assert len(list(islice(queries.renders(tx, TENANT, job_id), 50))) == 50
        assert len(queries.people(tx, TENANT, job_id, limit=50)) == 50
    # Then nothing is found by its tenant alone, and no picture by its job alone
    assert plans
    if database.is_sqlite:
        assert [told for told in plans if _BY_LITTLE.search(told)] == []


def test_expired_leases_are_found_by_their_end(database: Database, job_id: uuid.UUID) -> None:
    # Given that a few of many leases have run out, each of a unit at its last attempt
    with database.transaction() as tx:
        claimed(tx, limit=4)
        tx.execute(update(Unit).where(Unit.state == "leased").values(lease_until=1.0))
    # When the reaper takes its turn, then what runs out is found without reading what waits
    with database.transaction() as tx, explained(database) as plans:
        assert reaping.reap(tx, max_attempts=3) == (4, 0)
    returning = [told for told in plans if told.startswith("UPDATE units SET state") and "ready" not in told[:10]]
    assert returning
    assert [told for told in returning if _WHOLE.search(told)] == []
