"""Leases on units: claims, fences, the reaper - on SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
from queue_world import TENANT, add_job, person, settings
from sqlalchemy import select, update

from jobs.database import Database
from jobs.models import Render, Unit
from jobs.options import RenderOptions
from jobs.repository import again, queries, reaping, units
from jobs.repository import jobs as job_rows
from jobs.repository import renders as render_rows
from jobs.repository.renders import Drawn
from jobs.repository.units import ClaimedUnit

TERMS = {"lease_seconds": 30.0, "max_attempts": 3}


def claim(database: Database, owner: str, limit: int = 1) -> list[ClaimedUnit]:
    with database.transaction() as tx:
        return units.claim_next(tx, "fake", owner, limit=limit, lease_seconds=30.0, max_attempts=3)


def expire(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(update(Unit).where(Unit.state == "leased").values(lease_until=0.0))


def states(database: Database) -> list[str]:
    with database.reading() as tx:
        return list(tx.execute(select(Unit.state).order_by(Unit.id)).scalars())


def drawn(key: str) -> Drawn:
    zeros = dict.fromkeys([f"seconds_{n}" for n in ("weights", "merge", "denoise", "decode", "encode", "upload")], 0.0)
    return Drawn(
        storage_key=key,
        media_type="image/png",
        size_bytes=1,
        sha256="0" * 64,
        final_prompt="p",
        id_similarity=None,
        id_similarity_reason="no_face",
        recogniser="fake",
        model_fingerprint="m",
        weight_set_fingerprint="w",
        device="fake",
        worker="w",
        batch_size=1,
        **zeros,
    )


def test_two_hundred_claimers_share_forty_units(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given 40 waiting units and 20 threads that start together
    world = settings(tmp_path, database_url)
    add_job(database, [person(f"p{n}", [1], world) for n in range(40)])
    barrier, taken, lock = threading.Barrier(20), [], threading.Lock()

    def worker(name: str) -> None:
        barrier.wait()
        for _ in range(10):
            found = claim(database, name)
            with lock:
                taken.extend(unit.id for unit in found)

    # When each claims ten times
    threads = [threading.Thread(target=worker, args=(f"w{n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then every unit was given out exactly once
    assert len(taken) == 40
    assert len(set(taken)) == 40


def test_priority_goes_first_and_age_second(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given an old job of no priority and a younger one of priority 1
    world = settings(tmp_path, database_url)
    add_job(database, [person("old", [1], world)], key="old")
    young = add_job(database, [person("young", [1], world)], key="young", priority=1)

    # When one unit is claimed
    first = claim(database, "w")[0]

    # Then it is the young job's: one step of priority is worth 60 s of waiting
    assert first.job_id == young


def test_same_person_is_claimed_across_jobs(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given 40 jobs of one prompt each for one person, and one for another
    world = settings(tmp_path, database_url)
    for n in range(40):
        add_job(database, [person("ada", [1], world)], key=f"job{n}")
    add_job(database, [person("alan", [1], world)], key="other")

    # When the first unit is claimed, and with it those of the same person
    with database.transaction() as tx:
        first = units.claim_next(tx, "fake", "w", limit=1, **TERMS)
        more = units.claim_same_person(tx, first[0], "w", limit=63, **TERMS)

    # Then all forty are in one hand and the other person waits
    assert len(first + more) == 40
    assert states(database).count("ready") == 1


def test_expired_lease_is_fenced_out(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a worker whose lease ran out and another that took over
    world = settings(tmp_path, database_url)
    add_job(database, [person("ada", [2], world)])
    stale = claim(database, "slow")[0]
    expire(database)
    fresh = claim(database, "quick")[0]
    assert (fresh.id, fresh.lease_token, fresh.attempts) == (stale.id, stale.lease_token + 1, 2)

    # When both record the same render
    with database.transaction() as tx:
        render = render_rows.waiting(tx, [fresh])[0]
        late = render_rows.waiting(tx, [stale])[0]
        assert not render_rows.complete(tx, late, "slow", drawn("acme/a/1.png"))
        assert render_rows.complete(tx, render, "quick", drawn("acme/a/2.png"))

    # Then only the holder's write counts, and neither release nor failure of the stale one changes anything
    with database.transaction() as tx:
        assert not units.release(tx, stale, "slow")
        assert not units.fail(tx, stale, "slow", error_code="x", error="x")
        assert len(render_rows.waiting(tx, [fresh])) == 1


def test_recording_twice_under_one_lease_counts_once(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a recorded picture whose commit was answered with silence
    world = settings(tmp_path, database_url)
    job_id = add_job(database, [person("ada", [2], world)])
    unit = claim(database, "w")[0]
    with database.transaction() as tx:
        render = render_rows.waiting(tx, [unit])[0]
        assert render_rows.complete(tx, render, "w", drawn("k/1.png"))

    # When it is recorded again
    with database.transaction() as tx:
        again = render_rows.complete(tx, render, "w", drawn("k/1.png"))

    # Then it is told that its object counts, and the counters moved once
    assert again
    with database.reading() as tx:
        row = queries.job(tx, TENANT, job_id)
    assert row is not None
    assert (row["done"], row["waiting"], row["state"]) == (1, 1, "running")


def test_a_unit_that_loses_three_workers_is_quarantined(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a unit that loses its worker three times
    world = settings(tmp_path, database_url)
    job_id = add_job(database, [person("ada", [3], world)])
    for _ in range(3):
        assert len(claim(database, "w")) == 1
        expire(database)

    # When the reaper comes
    assert claim(database, "w") == []
    with database.transaction() as tx:
        returned, given_up = reaping.reap(tx, max_attempts=3)

    # Then the unit has failed with a reason on every render, and nothing waits
    assert (returned, given_up) == (0, 1)
    with database.reading() as tx:
        row = queries.job(tx, TENANT, job_id)
        reasons = queries.failures(tx, TENANT, job_id)
    assert row is not None
    assert (row["state"], row["failed"], row["waiting"]) == ("failed", 3, 0)
    assert [(r["error_code"], r["renders"]) for r in reasons] == [("quarantined", 3)]


def test_reaper_hands_back_and_asks_for_messages(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given one leased and expired unit, and one that was never announced
    world = settings(tmp_path, database_url)
    add_job(database, [person("ada", [1], world), person("alan", [1], world)])
    claim(database, "w")
    expire(database)

    # When the reaper comes
    with database.transaction() as tx:
        assert reaping.reap(tx, max_attempts=3) == (1, 0)
        unsent = units.unsent(tx, resend_seconds=60, limit=10)
        units.mark_sent(tx, unsent)

    # Then both need a message, once
    assert len(unsent) == 2
    with database.transaction() as tx:
        assert units.unsent(tx, resend_seconds=60, limit=10) == []


def test_heartbeat_prolongs_only_own_leases(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given two workers with one unit each, both leases about to be over
    world = settings(tmp_path, database_url)
    add_job(database, [person("ada", [1], world), person("alan", [1], world)])
    mine, theirs = claim(database, "me")[0], claim(database, "they")[0]
    expire(database)

    # When one gives a sign of life
    with database.transaction() as tx:
        held = units.heartbeat(tx, "me", {mine.id: mine.lease_token, theirs.id: theirs.lease_token}, lease_seconds=30)

    # Then only the other's unit can be claimed
    assert held == {mine.id: mine.lease_token}
    assert [unit.id for unit in claim(database, "third", limit=5)] == [theirs.id]


def test_cancel_ends_waiting_and_fences_running(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a job with one finished render, one being drawn and a waiting unit
    world = settings(tmp_path, database_url)
    job_id = add_job(database, [person("ada", [2], world), person("alan", [3], world)])
    unit = claim(database, "w")[0]
    with database.transaction() as tx:
        first, second = render_rows.waiting(tx, [unit])
        assert render_rows.complete(tx, first, "w", drawn("k/1.png"))

    # When it is cancelled
    with database.transaction() as tx:
        assert job_rows.cancel(tx, TENANT, job_id) == 4

    # Then the picture in the making is not recorded, and the counts add up
    with database.transaction() as tx:
        assert not render_rows.complete(tx, second, "w", drawn("k/2.png"))
        assert units.heartbeat(tx, "w", {unit.id: unit.lease_token}, lease_seconds=30) == {}
        row = queries.job(tx, TENANT, job_id)
    assert row is not None
    assert (row["state"], row["done"], row["cancelled"], row["waiting"]) == ("cancelled", 1, 4, 0)


def test_a_job_that_is_over_is_not_cancelled_any_more(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a job whose only picture is drawn
    job_id = add_job(database, [person("ada", [1], settings(tmp_path, database_url))])
    unit = claim(database, "w")[0]
    with database.transaction() as tx:
        (only,) = render_rows.waiting(tx, [unit])
        assert render_rows.complete(tx, only, "w", drawn("k/1.png"))

    # When it is cancelled, then nothing is, and it stays done
    with database.transaction() as tx:
        before = queries.job(tx, TENANT, job_id)
        assert job_rows.cancel(tx, TENANT, job_id) == 0
        assert before is not None and before["state"] == "done"
        assert queries.job(tx, TENANT, job_id) == before


@pytest.mark.parametrize("cancelled", [False, True])
def test_retry_waits_again(database: Database, tmp_path: Path, database_url: str, cancelled: bool) -> None:
    # Given a job of one failed unit and one cancelled
    world = settings(tmp_path, database_url)
    job_id = add_job(database, [person("ada", [2], world), person("alan", [3], world)])
    unit = claim(database, "w")[0]
    with database.transaction() as tx:
        assert units.fail(tx, unit, "w", error_code="no_face", error="no face")
        job_rows.cancel(tx, TENANT, job_id)

    # When it is tried again
    with database.transaction() as tx:
        count, reopened = again.retry(tx, TENANT, job_id, again.Which(cancelled=cancelled))
        row = queries.job(tx, TENANT, job_id)

    # Then the failed renders wait, and the cancelled ones only when asked for
    assert row is not None
    assert count == (5 if cancelled else 2)
    assert len(reopened) == (2 if cancelled else 1)
    assert row["waiting"] == count
    assert row["failed"] == 0


def test_rerun_adds_one_render(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a job
    world = settings(tmp_path, database_url)
    job_id = add_job(database, [person("ada", [2], world)])
    with database.reading() as tx:
        first = next(queries.renders(tx, TENANT, job_id))

    # When its first render is asked for once more, and one of nobody's
    with database.transaction() as tx:
        made = again.rerun(tx, TENANT, first["render_id"], seed=99, age_seconds=60)
        assert again.rerun(tx, TENANT, uuid.uuid4(), seed=1, age_seconds=60) is None
        assert again.rerun(tx, "other-tenant", first["render_id"], seed=1, age_seconds=60) is None

    # Then a third render waits in a unit of its own with the same prompt and the new seed
    with database.reading() as tx:
        rows = list(queries.renders(tx, TENANT, job_id))
    assert len(rows) == 3
    assert made == (rows[2]["render_id"], rows[2]["unit_id"])
    assert (rows[2]["seed"], rows[2]["prompt"], rows[2]["rerun_of"]) == (99, first["prompt"], first["render_id"])
    assert rows[2]["unit_id"] != first["unit_id"]


def test_options_of_another_version_are_the_fault_of_one_render(
    database: Database, tmp_path: Path, database_url: str
) -> None:
    # Given a unit of three renders, one of which asks for what no version here knows
    world = settings(tmp_path, database_url)
    add_job(database, [person("ada", [3], world, options={"base_weight": 0.5})])
    with database.transaction() as tx:
        tx.execute(update(Render).where(Render.ordinal == 1).values(options={"magic": 1}))

    # When a worker asks what is to be drawn
    unit = claim(database, "w")[0]
    with database.reading() as tx:
        found = render_rows.waiting(tx, [unit])

    # Then the other two come as they were asked for, and that one says what is wrong
    assert [render.options.base_weight for render in found] == [0.5, 0.0, 0.5]
    assert [render.fault is None for render in found] == [True, False, True]
    assert found[1].fault is not None
    assert (found[1].fault.code, found[1].options) == ("options_invalid", RenderOptions())
    assert "magic" in str(found[1].fault)
