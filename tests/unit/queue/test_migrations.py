"""The schema: made by migrations alone, the same as the models, and safe to make twice.

What version 0.1.0 wrote, and how it writes, stands here as plain SQL: its own code is gone from this tree.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from queue_world import only_postgres, wait_for_the_queue
from sqlalchemy import JSON, Connection, DateTime, Uuid, bindparam, inspect, select, text
from sqlalchemy.exc import IntegrityError

from jobs import migrating
from jobs.database import Database
from jobs.errors import DatabaseOutdated, DatabaseUnavailable, JobsError
from jobs.models import METADATA, PhotoSet, Render, WeightSet
from jobs.options import ORDINARY, RenderOptions
from jobs.repository import control, fleet, queries, units, weight_sets
from jobs.repository import renders as render_rows

FLEET_TABLES = {"audits", "forgettings", "workers", "leaders", "controls", "shifts", "alembic_version", "tenants"}


def test_migrations_make_what_the_models_say(database: Database) -> None:
    with database.transaction() as tx:
        assert compare_metadata(MigrationContext.configure(tx), METADATA) == []
    found, wanted = database.revisions()
    assert found == wanted


def test_the_tenant_leads_every_table_and_unique_key(database: Database) -> None:
    with database.reading() as tx:
        schema = inspect(tx)
        for table in schema.get_table_names():
            if table in FLEET_TABLES:
                continue
            assert schema.get_columns(table)[0]["name"] == "tenant_id", table
            assert schema.get_pk_constraint(table)["constrained_columns"][0] == "tenant_id", table
            for key in schema.get_unique_constraints(table):
                assert key["column_names"][0] == "tenant_id", (table, key)
        assert set(schema.get_view_names()) >= {"job_status", "identity_status", "render_metrics"}


def test_four_upgrades_at_once(database_url: str) -> None:
    # Given an empty database and four processes' worth of eagerness
    opened = [Database(database_url) for _ in range(4)]
    failures: list[Exception] = []
    barrier = threading.Barrier(4)

    def upgrade(database: Database) -> None:
        barrier.wait()
        try:
            database.upgrade()
        except JobsError as error:
            failures.append(error)

    # When all upgrade together
    threads = [threading.Thread(target=upgrade, args=(database,)) for database in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then none failed, and the schema is there once
    assert failures == []
    opened[0].require_current()
    for database in opened:
        database.dispose()


AT = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
OWN = {"tenant_id": "acme", "created_at": AT}
TYPES = {uuid.UUID: Uuid(), dt.datetime: DateTime(timezone=True), dict: JSON()}


def ids(start: int) -> dict[str, uuid.UUID]:
    """An id for each row of one job."""
    names = ("identity", "photo", "photo_set", "job", "unit", "render", "weight_set", "candidate", "event")
    return {name: uuid.UUID(int=start + number) for number, name in enumerate(names)}


def put(tx: Connection, table: str, **values: Any) -> None:
    """INSERT exactly these columns, as 0.1.0 named them."""
    columns = ", ".join(values)
    statement = text(f"INSERT INTO {table} ({columns}) VALUES ({', '.join(f':{name}' for name in values)})")
    typed = [bindparam(name, type_=TYPES[type(value)]) for name, value in values.items() if type(value) in TYPES]
    tx.execute(statement.bindparams(*typed), values)


def write_as_0_1_0(tx: Connection, known: dict[str, uuid.UUID], key: str) -> None:
    """A job of one person with one finished render and one waiting, in every column that 0.1.0 wrote."""
    put(tx, "identities", **OWN, id=known["identity"], external_id=key, consent_reference=None, purpose=None)
    photo = {"storage_key": f"{key}.jpg", "media_type": "image/jpeg", "size_bytes": 3, "width": 8, "height": 8}
    put(tx, "photos", **OWN, id=known["photo"], sha256=key.ljust(64, "0"), **photo)
    put(tx, "photo_sets", **OWN, id=known["photo_set"], identity_id=known["identity"], fingerprint="f" * 64)
    place = {"photo_set_id": known["photo_set"], "position": 0, "photo_id": known["photo"]}
    put(tx, "photo_set_photos", tenant_id="acme", **place)
    job = {"key": key, "content_hash": "c" * 64, "name": None, "profile": "fake", "priority": 0}
    totals = {"identities_total": 1, "units_total": 1, "renders_total": 2}
    put(tx, "jobs", **OWN, id=known["job"], **job, **totals)
    unit = {name: known[name] for name in ("job", "identity", "photo_set")}
    counts = {"renders_total": 2, "renders_done": 1, "renders_failed": 0, "renders_cancelled": 0}
    queue = {"profile": "fake", "state": "ready", "priority": 0, "ready_at": 0.0, "sort_key": 0.0, "attempts": 0}
    of_unit = {f"{name}_id": value for name, value in unit.items()}
    put(tx, "units", **OWN, id=known["unit"], **of_unit, **queue, **counts, lease_token=0)
    asked = {"prompt_name": "office", "prompt": "a portrait", "negative_prompt": "", "width": 64, "height": 64}
    asked |= {"steps": 4, "guidance": 5.0, "scheduler": "euler", "lora_weight": 0.8}
    of_render = {"job_id": known["job"], "unit_id": known["unit"], "identity_id": known["identity"]}
    for number, state in enumerate(("done", "waiting")):
        render_id = known["render"] if number == 0 else uuid.UUID(int=known["render"].int + 1000)
        put(tx, "renders", **OWN, id=render_id, **of_render, ordinal=number, seed=number, **asked, state=state)
    weights = {"kind": "photos", "state": "ready", "hyperlora_fingerprint": "h" * 64, "generations": 1, "attempts": 1}
    put(tx, "weight_sets", **OWN, id=known["weight_set"], fingerprint=key.ljust(64, "0"), **weights, lease_token=1)
    source = {"weight_set_id": known["weight_set"], "position": 0, "photo_set_id": known["photo_set"], "weight": 1.0}
    put(tx, "weight_set_sources", tenant_id="acme", **source)
    drawn = {"lease_token": 1, "seed": 0, "storage_key": f"{key}.png", "sha256": "0" * 64, "size_bytes": 1}
    put(tx, "candidates", **OWN, id=known["candidate"], render_id=known["render"], **drawn, chosen=True)
    put(
        tx,
        "events",
        tenant_id="acme",
        id=known["event"],
        at=AT,
        kind="job.enqueued",
        job_id=known["job"],
        data={"a": 1},
    )


def rows_of(tx: Connection) -> dict[str, int]:
    names = [name for name in inspect(tx).get_table_names() if name != "alembic_version"]
    return {name: tx.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}


def test_rows_of_0_1_0_live_on(database_url: str) -> None:
    # Given a database of 0.1.0 with a job in it
    database, known = Database(database_url), ids(1)
    database.upgrade("0001")
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_1_0(tx, known, "spring")
        before = rows_of(tx)

    # When it is upgraded
    database.upgrade()
    database.require_current()

    # Then every row is there, and reads as nothing out of the ordinary
    with database.reading() as tx:
        after = rows_of(tx)
        assert {name: after[name] for name in before} == before
        source = weight_sets.source(tx, "acme", known["photo_set"])
        assert (source.kind, source.members, source.photos[0].face) == ("photos", (), None)
        assert tx.execute(select(WeightSet.branch)).scalars().all() == ["id"]
        row = queries.render(tx, "acme", known["render"])
        assert row is not None
        assert (row["external_id"], row["prompt"], row["options"], row["draws"]) == ("spring", "a portrait", None, None)
        assert list(queries.outputs(tx, "acme", known["job"])) == []
    with database.transaction() as tx:
        held = units.claim_next(tx, "fake", "w", limit=5, lease_seconds=30, max_attempts=3)
        assert [render.options for render in render_rows.waiting(tx, held)] == [ORDINARY]
    database.dispose()


def test_0_1_0_writes_on_the_new_schema(database: Database) -> None:
    # Given the newest schema, and one process of 0.1.0 that was not told
    known = ids(1)
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_1_0(tx, known, "spring")

    # Then what it left out has the values it means
    with database.reading() as tx:
        assert tx.execute(select(PhotoSet.kind, PhotoSet.weight_set_fingerprint)).one() == ("photos", None)
        assert tx.execute(select(WeightSet.branch)).scalar_one() == "id"
        assert tx.execute(select(Render.options)).scalars().all() == [None, None]
        # And its own columns of the view are where they were
        names = [column["name"] for column in inspect(tx).get_columns("render_metrics")]
        assert (names[0], names[42], names[43]) == ("tenant_id", "finished_at", "options")


def test_there_and_back_keeps_what_0_1_0_knew(database_url: str) -> None:
    # Given a database of 0.1.0
    database, known = Database(database_url), ids(1)
    database.upgrade("0001")
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_1_0(tx, known, "spring")
        before, tables = rows_of(tx), set(inspect(tx).get_table_names())

    # When it is upgraded and put back
    database.upgrade()
    with database.transaction() as tx:
        command.downgrade(database._alembic(tx), "0001")

    # Then tables, rows and views are as they were, and upgrading again works
    with database.transaction() as tx:
        assert rows_of(tx) == before
        assert set(inspect(tx).get_table_names()) == tables
        assert [column["name"] for column in inspect(tx).get_columns("render_metrics")][-1] == "finished_at"
        assert "branch" not in {column["name"] for column in inspect(tx).get_columns("weight_sets")}
    with pytest.raises(DatabaseOutdated):
        database.require_current()
    database.upgrade()
    database.require_current()
    database.dispose()


def write_as_0_2_0(tx: Connection, known: dict[str, uuid.UUID], key: str) -> None:
    """What 0.1.0 wrote, and a row in each table that 0.2.0 added."""
    write_as_0_1_0(tx, known, key)
    other = uuid.UUID(int=known["photo_set"].int + 1000)
    place = {"identity_id": known["identity"], "fingerprint": "e" * 64, "kind": "mix"}
    put(tx, "photo_sets", **OWN, id=other, **place)
    member = {"photo_set_id": other, "position": 0, "member_photo_set_id": known["photo_set"], "weight": 1.0}
    put(tx, "photo_set_members", tenant_id="acme", **member)
    put(tx, "job_pictures", tenant_id="acme", job_id=known["job"], photo_id=known["photo"])
    file = {"name": "small", "storage_key": f"{key}-small.png", "media_type": "image/png", "sha256": "0" * 64}
    size = {"width": 8, "height": 8, "size_bytes": 1}
    put(tx, "outputs", **OWN, id=uuid.UUID(int=1_000_000), render_id=known["render"], **file, **size)
    tx.execute(text("UPDATE renders SET draws = 1, detail_faces = 0 WHERE state = 'done'"))


def test_rows_of_0_2_0_live_on_there_and_back(database_url: str) -> None:
    # Given a database of 0.2.0 with a job in it
    database, known = Database(database_url), ids(1)
    database.upgrade("0002")
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_2_0(tx, known, "spring")
        before, tables = rows_of(tx), set(inspect(tx).get_table_names())

    # When it is upgraded, and a shift is kept
    database.upgrade()
    database.require_current()
    with database.transaction() as tx:
        fleet.record_shift(tx, **A_SHIFT)

    # Then every row is there
    with database.reading() as tx:
        after = rows_of(tx)
        assert {name: after[name] for name in before} == before
        assert after["shifts"] == 1

    # When it is put back, then tables and rows are as they were, and upgrading again works
    with database.transaction() as tx:
        command.downgrade(database._alembic(tx), "0002")
    with database.transaction() as tx:
        assert rows_of(tx) == before
        assert set(inspect(tx).get_table_names()) == tables
        assert "shift_metrics" not in inspect(tx).get_view_names()
    with pytest.raises(DatabaseOutdated):
        database.require_current()
    database.upgrade()
    database.require_current()
    database.dispose()


def test_0_2_0_goes_on_on_the_new_schema(database: Database) -> None:
    # Given the newest schema and a process of 0.2.0
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_2_0(tx, ids(1), "spring")

    # Then its units can be claimed and its rows be read, and it leaves no shift
    with database.transaction() as tx:
        assert len(units.claim_next(tx, "fake", "w", limit=5, lease_seconds=30, max_attempts=3)) == 1
    with database.reading() as tx:
        assert [row["draws"] for row in queries.renders(tx, "acme", ids(1)["job"])] == [1, None]
        assert len(list(queries.outputs(tx, "acme", ids(1)["job"]))) == 1
        assert queries.shifts(tx, per_worker=10) == []


A_SHIFT: dict[str, Any] = {
    **{"worker": "host:1", "worker_id": "host:1:a", "profile": "fake", "device": "fake", "version": "0.3.0"},
    **{"began_at": AT, "ended_at": AT, "seconds": 10.0, "ran_dry": True, "batch_sizes": {"4": 1, "2": 1}},
    **{"units": 1, "people": 1, "renders": 6, "pictures": 6, "places": 8, "batches": 2, "mixed": 1, "generated": 1},
    **{"seconds_loading": 0.0, "seconds_warming": 0.0, "seconds_preparing": 0.5},
    **{"seconds_before": 1.0, "seconds_drawing": 6.0, "seconds_between": 2.0},
}


def test_the_view_of_shifts_tells_shares(database: Database) -> None:
    # Given a shift of ten seconds, and one that drew nothing
    now = dt.datetime.now(dt.UTC)
    nothing = {"pictures": 0, "places": 0, "seconds": 0.0, "seconds_drawing": 0.0, "seconds_between": 0.0}
    with database.transaction() as tx:
        fleet.record_shift(tx, **A_SHIFT | {"ended_at": now})
        fleet.record_shift(tx, **A_SHIFT | nothing | {"ended_at": now - dt.timedelta(hours=1), "batch_sizes": {}})

    # When they are read
    with database.reading() as tx:
        drawn, empty = queries.shifts(tx, per_worker=10)

    # Then idle is 2 of 8 seconds, busy 6 of 10, full 6 of 8; where nothing was drawn nothing is said
    assert (drawn["idle_share"], drawn["busy_share"], drawn["fill"]) == (0.25, 0.6, 0.75)
    assert (drawn["batch_sizes"], drawn["ran_dry"], drawn["ended_at"]) == ({"4": 1, "2": 1}, True, now)
    assert (empty["idle_share"], empty["busy_share"], empty["fill"]) == (None, None, None)


def test_the_last_shifts_of_each_worker_are_found_and_old_ones_go(database: Database) -> None:
    # Given three shifts of one worker, one of another, and one that ended long ago
    now = dt.datetime.now(dt.UTC)
    with database.transaction() as tx:
        fleet.record_shift(tx, **A_SHIFT | {"ended_at": now - fleet.SHIFTS_KEPT - dt.timedelta(days=1)})
        for hours, worker in ((3, "a"), (2, "a"), (1, "b"), (0, "a")):
            fleet.record_shift(tx, **A_SHIFT | {"ended_at": now - dt.timedelta(hours=hours), "worker": worker})

    # Then two of the first are shown, and the old one is gone
    with database.reading() as tx:
        found = queries.shifts(tx, per_worker=2)
        assert [(row["worker"], (now - row["ended_at"]).seconds // 3600) for row in found] == [
            ("a", 0),
            ("b", 1),
            ("a", 2),
        ]
        assert tx.execute(text("SELECT count(*) FROM shifts")).scalar_one() == 4


def test_a_statement_that_misses_a_column_says_that_the_schema_is_older(database_url: str) -> None:
    # Given a schema that is older than the code
    database = Database(database_url)
    database.upgrade("0004")

    # When a column that came later is read or written, then the error says what to do
    for missing in (text("SELECT lost_workers FROM units"), text("INSERT INTO units (lost_workers) VALUES (1)")):
        told = r"column.*lost_workers.*portraits db upgrade"
        with pytest.raises(DatabaseOutdated, match=told), database.transaction() as tx:
            tx.execute(missing)
    database.dispose()


def test_a_newer_schema_is_not_outdated_and_left_as_it_is(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.require_current()
    database.upgrade()
    with database.reading() as tx:
        assert tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def test_options_are_null_or_json_never_the_word(database: Database) -> None:
    """Both databases can hold a JSON `null`, which is not NULL; nothing here writes it."""
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_1_0(tx, ids(1), "spring")
        options = RenderOptions(base_weight=0.5).dump()
        tx.execute(Render.__table__.update().where(Render.ordinal == 0).values(options=options))
        tx.execute(Render.__table__.update().where(Render.ordinal == 1).values(options=None))
        assert tx.execute(text("SELECT count(*) FROM renders WHERE options IS NULL")).scalar_one() == 1
        found = [row["options"] for row in queries.renders(tx, "acme", ids(1)["job"])]
    assert found == [{"base_weight": 0.5}, None]


def test_rows_of_0_3_0_live_on_there_and_back(database_url: str) -> None:
    # Given a database at 0003 with a job and a worker in it
    database, known = Database(database_url), ids(1)
    database.upgrade("0003")
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_2_0(tx, known, "spring")
        worker = {"name": "host:1", "pid": 1, "version": "0.3.0", "state": "idle", "started_at": AT}
        put(tx, "workers", id="host:1:a", **worker, last_seen_at=1.0)
        before, tables = rows_of(tx), set(inspect(tx).get_table_names())

    # When it is upgraded, and the job is paused
    database.upgrade()
    database.require_current()
    with database.transaction() as tx:
        assert control.pause_job(tx, "acme", known["job"]) == 1
        before["events"] += 1

    # Then every row is there, a state that nobody knows is still refused, and SQLite finds nothing wrong
    with database.reading() as tx:
        after = rows_of(tx)
        assert {name: after[name] for name in before} == before
        assert [row["state"] for row in queries.jobs(tx, "acme")] == ["paused"]
        if database.is_sqlite:
            assert tx.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    with pytest.raises(IntegrityError), database.transaction() as tx:
        tx.execute(text("UPDATE units SET state = 'unheard-of'"))

    # When it is put back, then the job waits again, and upgrading again works
    with database.transaction() as tx:
        command.downgrade(database._alembic(tx), "0003")
    with database.transaction() as tx:
        assert rows_of(tx) == before
        assert set(inspect(tx).get_table_names()) == tables
        assert tx.execute(text("SELECT state FROM units")).scalars().all() == ["ready"]
        assert tx.execute(text("SELECT state FROM job_status")).scalars().all() == ["running"]
    with pytest.raises(IntegrityError), database.transaction() as tx:
        tx.execute(text("UPDATE units SET state = 'paused'"))
    database.upgrade()
    database.require_current()
    database.dispose()


def test_a_worker_before_0004_claims_nothing_of_a_paused_job(database: Database) -> None:
    # Given a paused job
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_2_0(tx, ids(1), "spring")
        control.pause_job(tx, "acme", ids(1)["job"])

    # When a worker of 0.3.0 claims, as it did, then it finds nothing
    claim = (
        "UPDATE units SET state = 'leased', lease_owner = 'old', lease_token = lease_token + 1, lease_until = 9e9 "
        "WHERE profile = 'fake' AND (state = 'ready' OR (state = 'leased' AND lease_until < 2e9))"
    )
    with database.transaction() as tx:
        assert tx.execute(text(claim)).rowcount == 0


def at_0003(url: str) -> Database:
    """A database at 0003 with a job and a worker in it."""
    database = Database(url)
    database.upgrade("0003")
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
        write_as_0_2_0(tx, ids(1), "spring")
        worker = {"name": "host:1", "pid": 1, "version": "0.3.0", "state": "idle", "started_at": AT}
        put(tx, "workers", id="host:1:a", **worker, last_seen_at=1.0)
    return database


@only_postgres
def test_0004_and_a_heartbeat_do_not_lock_each_other_out(database_url: str) -> None:
    # Given a fleet at work: a heartbeat that has prolonged a lease and not yet given its sign of life
    database, failures = at_0003(database_url), []

    def upgrade() -> None:
        try:
            database.upgrade()
        except JobsError as error:
            failures.append(error)

    thread = threading.Thread(target=upgrade)
    with database.transaction() as tx:
        tx.execute(text("UPDATE units SET lease_until = 2.0"))

        # When the upgrade comes in between
        thread.start()
        wait_for_the_queue(database)

        # Then the heartbeat ends as if nothing were, and so does the upgrade
        tx.execute(text("UPDATE workers SET last_seen_at = 2.0"))
    thread.join()
    assert failures == []
    database.require_current()
    database.dispose()


@only_postgres
def test_0004_says_that_the_tables_are_in_use(database_url: str) -> None:
    # Given somebody who writes for longer than the upgrade has patience
    database = at_0003(database_url)
    migration: Any = ScriptDirectory.from_config(database._alembic(None)).get_revision("0004")
    with database.transaction() as writer:
        writer.execute(text("UPDATE units SET lease_until = 2.0"))

        # When it is tried, then it says what to do, and holds nothing
        with database.transaction() as tx:
            with pytest.raises(DatabaseUnavailable, match="try `portraits db upgrade` again"):
                migration.module.lock_tables(tx, tries=1)
            held = text("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND pid = pg_backend_pid()")
            assert tx.execute(held).scalar_one() == 0
    database.dispose()


@only_postgres
def test_a_step_that_waits_holds_nothing_of_the_steps_before(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a fleet at 0004, and somebody who reads for longer than the upgrade has patience
    monkeypatch.setattr(migrating, "LOCK_MILLISECONDS", 50)
    database, failures = at_0003(database_url), []
    database.upgrade("0004")
    tried = threading.Event()
    waits = migrating.random.uniform

    def waiting(*bounds: float) -> float:
        tried.set()
        return waits(*bounds)

    monkeypatch.setattr(migrating.random, "uniform", waiting)

    def upgrade() -> None:
        try:
            database.upgrade()
        except DatabaseUnavailable as error:
            failures.append(error)

    thread = threading.Thread(target=upgrade)
    with database.reading() as reader:
        reader.execute(text("SELECT count(*) FROM render_metrics"))

        # When 0005 is done and 0006 has given up a first time
        thread.start()
        assert tried.wait(30)

        # Then a worker prolongs its lease meanwhile, between two tries, and 0005 is there to stay
        with database.transaction() as tx:
            tx.execute(text("UPDATE units SET lease_until = 3.0, lost_workers = 1"))
        assert failures == [] and thread.is_alive()
        assert database.revisions()[0] == "0005"
    thread.join()
    assert failures == []
    database.require_current()
    database.dispose()


@only_postgres
def test_0006_locks_all_that_it_touches_at_once(database_url: str) -> None:
    # Given a database at 0005, and what its first statement locks: views with the tables that they read
    database = at_0003(database_url)
    database.upgrade("0005")
    held = text(
        "SELECT DISTINCT relname::text FROM pg_locks JOIN pg_class ON pg_class.oid = relation "
        "WHERE pid = pg_backend_pid() AND relkind IN ('r', 'v') "
        "AND mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')"
    )
    migration: Any = ScriptDirectory.from_config(database._alembic(None)).get_revision("0006")
    with database.transaction() as tx:
        there = {*inspect(tx).get_table_names(), *inspect(tx).get_view_names()}
        migrating.lock_tables(tx, migration.module.LOCKED)
        first = set(tx.execute(held).scalars())

    # When it is run, then it locks nothing else that was there
    with database.transaction() as tx:
        command.upgrade(database._alembic(tx), "0006")
        locked = set(tx.execute(held).scalars()) & there
    database.dispose()
    assert locked - first == set() and {"identities", "tenants", "units"} <= locked


@pytest.mark.parametrize("weight", ["0", "-1", "1001", "'nan'", "'inf'"])
def test_a_weight_that_no_share_can_be_made_of_is_refused_by_the_schema(database: Database, weight: str) -> None:
    with database.transaction() as tx:
        put(tx, "tenants", id="acme", created_at=AT)
    with pytest.raises(IntegrityError), database.transaction() as tx:
        tx.execute(text(f"UPDATE tenants SET weight = {weight}"))
