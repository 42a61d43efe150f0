"""Limits of pictures hold when several enqueue for one tenant at the same moment."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from queue_world import TENANT, add_job, only_postgres, person, settings
from sqlalchemy import text
from test_quarantine import drawn

from jobs import quotas
from jobs.database import Database
from jobs.errors import JobsError, SettingsInvalid
from jobs.repository import jobs as job_rows
from jobs.repository import people as people_rows
from jobs.repository import renders as render_rows
from jobs.repository import tenants, units
from jobs.repository.writer import JobWriter


@pytest.mark.parametrize("limit", ["max_waiting_renders", "max_renders_per_minute"])
def test_of_four_who_enqueue_at_once_as_many_pass_as_the_limit_has_room_for(
    database: Database, tmp_path: Path, database_url: str, limit: str
) -> None:
    # Given a tenant with room for two jobs of six pictures, and four who have looked before writing
    ada = person("ada", [6], settings(tmp_path, database_url))
    with database.transaction() as tx:
        people_rows.register(tx, TENANT, [ada])
        tenants.change(tx, TENANT, **{limit: 12})
    barrier, refused = threading.Barrier(4), []

    def enqueue(key: str) -> None:
        barrier.wait()
        try:
            with database.transaction() as tx:
                quotas.check_while_writing(tx, TENANT, 6)
                named = {"key": key, "content_hash": key, "name": None, "profile": "fake", "priority": 0}
                job_id = job_rows.add(tx, TENANT, **named)  # type: ignore[arg-type]
                writer = JobWriter(tx, TENANT, job_id, "fake", 0, age_seconds=60)
                writer.add([person("ada", [6], settings(tmp_path, database_url))], people_rows.find(tx, TENANT, [ada]))
                job_rows.accept(tx, TENANT, job_id, identities=1, units=1, renders=6)
        except JobsError as error:
            refused.append(error.code)

    # When they write at the same moment
    threads = [threading.Thread(target=enqueue, args=(f"job{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then two are refused, and what waits is within the limit
    code = "quota_exceeded" if limit == "max_waiting_renders" else "rate_limited"
    assert refused == [code, code]
    with database.reading() as tx:
        assert tenants.waiting_renders(tx, TENANT) == 12


@only_postgres
def test_who_enqueues_for_a_limited_tenant_does_not_hold_up_who_draws_for_it(database: Database) -> None:
    # Given somebody in the middle of writing a job of a tenant with a limit
    with database.transaction() as tx:
        tenants.change(tx, TENANT, max_waiting_renders=12)
    with database.transaction() as writing:
        quotas.check_while_writing(writing, TENANT, 6)

        # When a worker writes a row that names the tenant, then it need not wait
        with database.transaction() as tx:
            tx.execute(text("SET LOCAL lock_timeout = '2s'"))
            job_rows.record_event(tx, TENANT, "render.done")


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0.0, -1.0, 1000.5])
def test_a_weight_that_no_share_can_be_made_of_is_refused(database: Database, weight: float) -> None:
    with database.transaction() as tx, pytest.raises(SettingsInvalid, match="weight is above 0"):
        tenants.change(tx, TENANT, weight=weight)


def test_stored_bytes_count_what_was_not_chosen_and_further_files(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given a finished picture of 1 byte, with one of 10 bytes that was not chosen and a further file of 100
    chosen = settings(tmp_path, database_url)
    job = add_job(database, [person("ada", [1], chosen)])
    with database.transaction() as tx:
        before = tenants.stored_bytes(tx, TENANT)
        (held,) = units.claim_next(tx, "fake", "w", limit=1, lease_seconds=30, max_attempts=3)
        (render,) = render_rows.waiting(tx, [held])
        folder = f"{TENANT}/{job}/{render.id}"
        other = render_rows.CandidateRow(7, f"{folder}/1-7.png", "0" * 64, 10, None)
        file = render_rows.OutputRow("small", f"{folder}/1-small.png", "image/png", 8, 8, 100, "0" * 64)
        assert render_rows.complete(tx, render, "w", drawn(f"{folder}/1.png"), others=[other], outputs=[file])

        # Then all of them count, each once
        assert tenants.stored_bytes(tx, TENANT) - before == 111
