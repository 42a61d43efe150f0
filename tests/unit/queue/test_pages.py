"""Lists by pages: each begins after the last key, none is lost or doubled, and each walks an index."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from queue_world import ASKED, TENANT, settings
from sqlalchemy import Connection, Select, insert, text

from jobs import reports
from jobs.database import Database
from jobs.models import (
    ARCHIVED_EVENTS,
    ARCHIVED_RENDERS,
    ARCHIVED_UNITS,
    Event,
    Identity,
    Job,
    PhotoSet,
    Render,
    Tenant,
    Unit,
)
from jobs.models_fleet import Worker
from jobs.orm import new_id, utcnow
from jobs.repository import browse, queries
from jobs.settings import Settings

PEOPLE, PER_PERSON, SMALL_JOBS, EVENTS = 2_000, 10, 500, 2_000
LARGE = ("units", "archived_units", "renders", "archived_renders", "events", "archived_events", "workers", "jobs")


def fill(tx: Connection) -> tuple[uuid.UUID, uuid.UUID]:
    """A job of 20,000 renders, the same archived, and many small ones; the two large ones' ids."""
    own, now = {"tenant_id": TENANT}, utcnow()
    tx.execute(insert(Tenant), [{"id": TENANT, "created_at": now}])
    people = [{**own, "id": new_id(), "external_id": f"p{n:05}", "created_at": now} for n in range(PEOPLE)]
    tx.execute(insert(Identity), people)
    sets = [{**own, "id": new_id(), "identity_id": one["id"], "fingerprint": "0", "created_at": now} for one in people]
    tx.execute(insert(PhotoSet), sets)
    job = {**own, "content_hash": "0", "profile": "fake", "priority": 0, "created_at": now}
    totals = {"identities_total": PEOPLE, "units_total": PEOPLE, "renders_total": PEOPLE * PER_PERSON}
    large = [new_id() for _ in range(2)]
    tx.execute(insert(Job), [{**job, **totals, "id": one, "key": str(one)} for one in large])
    few = {"identities_total": 1, "units_total": 1, "renders_total": 1}
    small = [{**job, **few, "id": new_id(), "key": f"small-{n}"} for n in range(SMALL_JOBS)]
    tx.execute(insert(Job), small)
    for job_id, units, renders, events in (
        (large[0], Unit, Render, Event),
        (large[1], ARCHIVED_UNITS, ARCHIVED_RENDERS, ARCHIVED_EVENTS),
    ):
        _fill_job(tx, job_id, people, sets, (units, renders, events))
    for one in small:
        tx.execute(insert(Unit), [_unit(one["id"], people[0], sets[0], 1)])
    counted = {"archived_units": PEOPLE, "archived_done": PEOPLE * PER_PERSON, "archive_state": "archived"}
    tx.execute(Job.__table__.update().where(Job.id == large[1]).values(archived_at=now, **counted))
    sign = {"name": "w", "pid": 1, "version": "0", "state": "idle", "started_at": now, "last_seen_at": 4e9}
    tx.execute(insert(Worker), [{**sign, "id": f"w{n:05}"} for n in range(PEOPLE)])
    return large[0], large[1]


def _unit(job_id: uuid.UUID, person: dict[str, Any], photo_set: dict[str, Any], renders: int) -> dict[str, Any]:
    unit = {"tenant_id": TENANT, "id": new_id(), "job_id": job_id, "identity_id": person["id"], "profile": "fake"}
    unit |= {"photo_set_id": photo_set["id"], "state": "done", "priority": 0, "ready_at": 0.0, "sort_key": 0.0}
    unit |= {"renders_total": renders, "renders_done": renders, "renders_failed": 0, "renders_cancelled": 0}
    return {**unit, "attempts": 1, "lost_workers": 0, "lease_token": 1, "created_at": utcnow(), "finished_at": utcnow()}


def _fill_job(
    tx: Connection, job_id: uuid.UUID, people: list[dict[str, Any]], sets: list[dict[str, Any]], tables: Any
) -> None:
    units = [_unit(job_id, *pair, PER_PERSON) for pair in zip(people, sets, strict=True)]
    tx.execute(insert(tables[0]), units)
    asked = {"tenant_id": TENANT, "job_id": job_id, "state": "done", "created_at": utcnow(), **ASKED}
    renders = [
        {**asked, "id": new_id(), "unit_id": unit["id"], "identity_id": unit["identity_id"], "seed": 0, "ordinal": n}
        for n, unit in enumerate(unit for unit in units for _ in range(PER_PERSON))
    ]
    for start in range(0, len(renders), 5_000):
        tx.execute(insert(tables[1]), renders[start : start + 5_000])
    happened = {"tenant_id": TENANT, "at": utcnow(), "kind": "x", "job_id": job_id, "data": {}}
    tx.execute(insert(tables[2]), [{**happened, "id": new_id()} for _ in range(EVENTS)])


@pytest.fixture
def large(database: Database) -> tuple[uuid.UUID, uuid.UUID]:
    """The ids of two jobs of 20,000 renders, of which the second is archived."""
    with database.transaction() as tx:
        ids = fill(tx)
    with database.transaction() as tx:
        tx.execute(text("ANALYZE"))
    return ids


@pytest.fixture
def chosen(tmp_path: Path, database_url: str) -> Settings:
    """The settings of whoever asks."""
    return settings(tmp_path, database_url, tenant=TENANT)


def plan(tx: Connection, statement: Select[Any]) -> str:
    """How the database means to answer, as text."""
    sql = statement.compile(dialect=tx.dialect, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if tx.dialect.name == "sqlite" else "EXPLAIN"
    return "\n".join(str(row[-1]) for row in tx.exec_driver_sql(f"{explain} {sql}"))


def scans(told: str) -> list[str]:
    """The steps of a plan that read a large table whole."""
    named = re.compile(rf"(Seq Scan on|SCAN) (\w+ )?({'|'.join(LARGE)})\b(?!.*USING)")
    return [line.strip() for line in told.splitlines() if named.search(line)]


def test_every_page_walks_an_index(database: Database, large: tuple[uuid.UUID, uuid.UUID]) -> None:
    # Given large tables of the queue and of the archive
    for job_id in large:
        with database.reading() as tx:
            middle = list(queries.people(tx, TENANT, job_id, limit=PEOPLE // 2))[-1]["identity_id"]
            event_id = queries.events(tx, TENANT, job_id, limit=EVENTS // 2)[-1]["id"]
            renders = tx.execute(queries.renders_page(TENANT, job_id, after=10_000, limit=20)).scalars().all()
            pages: dict[str, Select[Any]] = {
                "jobs": queries.jobs_page(TENANT, limit=20, after=job_id),
                "people": queries.people_page(TENANT, job_id, limit=20, after=middle),
                "renders": queries.renders_page(TENANT, job_id, after=10_000, limit=20),
                "done renders": queries.renders_page(TENANT, job_id, state="done", after=10_000, limit=20),
                "rows of renders": queries.renders_of(TENANT, renders),
                "outputs of renders": queries.outputs_of(TENANT, renders),
                "events": queries.events_page(TENANT, job_id, after=event_id, limit=20),
                "picture before": browse.neighbour(TENANT, job_id, 10_000, is_next=False),
                "picture after": browse.neighbour(TENANT, job_id, 10_000, is_next=True),
                "workers": queries.workers_page(since_seconds=60.0, after="w01000", limit=20),
            }
            for name, statement in pages.items():
                # When a page in the middle is planned, then it reads no large table whole, nor puts one in order
                told = plan(tx, statement)
                assert scans(told) == [], f"{name}\n{told}"
                assert all(int(rows) <= 100 for rows in re.findall(r"Sort  \(cost=\S+ rows=(\d+)", told)), (
                    f"{name}\n{told}"
                )


def test_pages_have_everything_once(database: Database, large: tuple[uuid.UUID, uuid.UUID], chosen: Settings) -> None:
    # Given jobs of many people and renders, one of them archived
    for job_id in large:
        # When they are read by pages of odd sizes
        renders = _all(
            lambda after, id_=job_id: list(  # type: ignore[misc]
                reports.results(id_, after=-1 if after is None else after, limit=1_999, settings=chosen)
            ),
            "ordinal",
        )
        people = _all(
            lambda after, id_=job_id: (
                reports.status(  # type: ignore[misc]
                    id_, people=777, after=after, settings=chosen
                ).people
            ),
            "identity_id",
        )

        # And one leads to those beside it
        with database.reading() as tx:
            assert browse.beside(tx, TENANT, job_id, 700) == (renders[699]["render_id"], renders[701]["render_id"])
            assert browse.beside(tx, TENANT, job_id, 0) == (None, renders[1]["render_id"])
            assert browse.beside(tx, TENANT, job_id, len(renders) - 1) == (renders[-2]["render_id"], None)
            assert browse.beside(tx, "another", job_id, 700) == (None, None)

        # Then each is there once, in order
        assert [row["ordinal"] for row in renders] == list(range(PEOPLE * PER_PERSON))
        assert [row["external_id"] for row in people] == [f"p{n:05}" for n in range(PEOPLE)]
    jobs = _all(lambda after: reports.list_jobs(limit=99, after=after, settings=chosen), "job_id")
    assert len({row["job_id"] for row in jobs}) == len(jobs) == SMALL_JOBS + 2
    assert sorted((row["job_id"] for row in jobs), reverse=True) == [row["job_id"] for row in jobs]
    with database.reading() as tx:
        assert len(queries.workers(tx)) == PEOPLE


def _all(page: Callable[[Any], list[dict[str, Any]]], key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while rows := page(found[-1][key] if found else None):
        found += rows
    return found


def test_a_page_is_full_although_rows_leave_its_state_while_it_is_read(
    database: Database, large: tuple[uuid.UUID, uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given readers for whom the first render has left the state since its id was read
    whole, left = queries.renders_of, iter([1])

    def without_first(tenant: str, ids: Sequence[uuid.UUID], **named: Any) -> Select[Any]:
        return whole(tenant, ids[next(left, 0) :], **named)

    monkeypatch.setattr(queries, "renders_of", without_first)

    # When three are wanted, then three come, so that a shorter page is the last one
    with database.reading() as tx:
        found = [row["ordinal"] for row in queries.renders(tx, TENANT, large[0], state="done", limit=3)]
        after_all = list(queries.renders(tx, TENANT, large[0], after=2**63 - 1, limit=3))
    assert found == [1, 2, 3] and after_all == []


def test_a_page_of_people_is_full_although_one_is_erased_while_it_is_read(
    database: Database, large: tuple[uuid.UUID, uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given readers for whom one person is gone when the rows are read
    with database.reading() as tx:
        people = [row["identity_id"] for row in queries.people(tx, TENANT, large[0], limit=4)]
    parts = queries._parts
    monkeypatch.setattr(queries, "_parts", lambda ids: parts([one for one in ids if one != people[1]]))

    # When three are wanted, then three come, in their order
    with database.reading() as tx:
        found = [row["identity_id"] for row in queries.people(tx, TENANT, large[0], limit=3)]
    assert found == [people[0], *people[2:]]
