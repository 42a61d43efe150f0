"""The second wall on PostgreSQL, and the first one everywhere: nobody sees or changes another tenant's rows."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from queue_world import World, only_postgres, settings
from sqlalchemy import JSON, Connection, Engine, Table, event, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from jobs import control, enqueue, reports
from jobs.archive import archive
from jobs.database import Database
from jobs.errors import JobArchived, QuotaExceeded, SettingsInvalid, UnknownJob
from jobs.models import METADATA, Unit
from jobs.orm import Utc
from jobs.repository import planner, security, tenants
from jobs.settings import Settings
from worker.testing import FakeRenderer

A, B = "acme", "globex"
FIXED = {
    "deliveries.state": "done",
    "units.state": "done",
    "archived_units.state": "done",
    "renders.state": "done",
    "archived_renders.state": "done",
    "weight_sets.state": "ready",
    "weight_sets.kind": "photos",
    "weight_set_sources.source_weight_set_id": None,
    "weight_set_sources.photo_set_id": uuid.UUID(int=1),
    "tenants.weight": 1.0,
}
KNOWN = "SELECT reltuples FROM pg_class WHERE oid = 'public.identities'::regclass"


@dataclass
class Roles:
    """The roles of one test; roles belong to the whole server."""

    tenant: str
    worker: str


@pytest.fixture
def roles(database: Database) -> Iterator[Roles]:
    """Two roles and the wall, as `portraits db roles --apply` makes them."""
    end = uuid.uuid4().hex[:10]
    made = Roles(f"portraits_t_{end}", f"portraits_w_{end}")
    with database.transaction() as tx:
        security.apply(tx, made.tenant, made.worker)
    yield made
    with database.transaction() as tx:
        for role in (made.tenant, made.worker):
            tx.exec_driver_sql(f"DROP OWNED BY {role}")
            tx.exec_driver_sql(f"DROP ROLE {role}")


def as_tenant(database: Database, roles: Roles) -> Database:
    """The same database under the tenants' role."""
    return Database(database.engine.url.render_as_string(hide_password=False), tenant_role=roles.tenant)


def row_of(table: Table, tenant: str, owner: str) -> dict[str, Any]:
    """Some row of a table: every column that must have a value has one."""
    values: dict[str, Any] = {}
    for column in table.columns:
        name = f"{table.name}.{column.name}"
        if name in FIXED:
            values[column.name] = FIXED[name]
        elif not column.nullable:
            kind = dict if isinstance(column.type, JSON) else dt.datetime if isinstance(column.type, Utc) else None
            kind = kind or column.type.python_type
            some = {str: uuid.uuid4().hex, uuid.UUID: uuid.uuid4(), int: 1, float: 1.0, bool: True, dict: {}}
            some |= {dt.datetime: dt.datetime.now(dt.UTC), bytes: b"x"}
            values[column.name] = some[kind][: getattr(column.type, "length", None)] if kind is str else some[kind]
    return {**values, owner: tenant}


def fill(tx: Connection) -> None:
    """Two rows of one tenant and one of the other in every table of tenants; references are not looked at."""
    tx.exec_driver_sql("SET LOCAL session_replication_role = replica")
    for name, owner in security.tenant_tables().items():
        for tenant in (A, B) if name == "tenants" else (A, A, B):
            table = METADATA.tables[name]
            tx.execute(insert(table), [row_of(table, tenant, owner)])


@only_postgres
def test_under_the_role_every_table_holds_one_tenants_rows(database: Database, roles: Roles) -> None:
    # Given rows of two tenants in every table, and a role that may do anything with the tables
    with database.transaction() as tx:
        fill(tx)
        tx.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {roles.tenant}")
    bound = as_tenant(database, roles)
    assert len(security.tenant_tables()) >= 21

    for name, owner in security.tenant_tables().items():
        table, own = METADATA.tables[name], 1 if name == "tenants" else 2
        # When a statement without any WHERE reads or changes it, then it reaches the tenant's rows alone
        with bound.reading(A) as tx:
            assert set(tx.execute(select(table.c[owner])).scalars()) == {A}, name
        with bound.engine.connect() as tx, tx.begin() as whole:
            security.enter(tx, roles.tenant, A)
            tx.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
            assert tx.execute(update(table).values({owner: table.c[owner]})).rowcount == own, name
            whole.rollback()
        # And a row of another tenant can neither be written nor made of an own one
        for forbidden in (insert(table).values(row_of(table, B, owner)), update(table).values({owner: B})):
            with pytest.raises(SettingsInvalid, match="row-level security"), bound.transaction(A) as tx:
                tx.execute(forbidden)
        # And without the setting nothing is seen
        with database.reading() as tx:
            tx.exec_driver_sql(f"SET LOCAL ROLE {roles.tenant}")
            assert tx.execute(select(func.count()).select_from(table)).scalar_one() == 0, name
        # And workers and the owner see all
        with database.reading() as tx:
            assert tx.execute(select(func.count()).select_from(table)).scalar_one() == own + 1, name
            tx.exec_driver_sql(f"SET LOCAL ROLE {roles.worker}")
            assert tx.execute(select(func.count()).select_from(table)).scalar_one() == own + 1, name
    bound.dispose()


@only_postgres
def test_the_setting_does_not_outlive_its_transaction(database: Database, roles: Roles) -> None:
    # Given a connection that has served a tenant
    bound = as_tenant(database, roles)
    with bound.reading(A) as tx:
        assert tx.execute(text("SELECT current_user")).scalar_one() == roles.tenant

    # When it is used again without one, then neither role nor tenant are left
    with bound.reading() as tx:
        assert tx.execute(text("SELECT current_user")).scalar_one() != roles.tenant
        assert not tx.execute(text("SELECT current_setting('portraits.tenant', true)")).scalar_one()
    bound.dispose()


@only_postgres
def test_a_tenants_role_has_no_rights_that_it_does_not_need(database: Database, roles: Roles) -> None:
    # Given the role, when it wants to delete, to change its limits, or to tell the fleet something
    bound = as_tenant(database, roles)
    with database.transaction() as tx:
        tenants.change(tx, A, max_people=1)
    for statement in (
        "DELETE FROM renders",
        "UPDATE tenants SET max_people = 1000",
        "UPDATE controls SET paused_at = now()",
        "UPDATE workers SET drain_requested_at = 1",
        "INSERT INTO candidates SELECT * FROM candidates",
        "CREATE TABLE mine (id int)",
    ):
        # Then the database refuses
        with pytest.raises(SettingsInvalid, match="permission denied"), bound.transaction(A) as tx:
            tx.exec_driver_sql(statement)
    bound.dispose()


@only_postgres
def test_a_tenants_role_tells_the_planner_of_its_rows_and_of_no_other_table(database: Database, roles: Roles) -> None:
    # Given a tenant that has written people whom the planner knows nothing of
    bound = as_tenant(database, roles)
    with database.transaction() as tx:
        fill(tx)
        assert tx.execute(text(KNOWN)).scalar_one() == -1

    # When it tells the planner, then they are known
    with bound.transaction(A) as tx:
        assert planner.told(tx, "identities", planner.LEAST_ROWS)
        assert tx.execute(text(KNOWN)).scalar_one() == 3

    # And no temporary table of its own comes in the way of the function, which looks at nothing else
    people = METADATA.tables["identities"]
    with bound.transaction(A) as tx:
        tx.execute(insert(people), row_of(people, A, "tenant_id"))
        tx.exec_driver_sql("CREATE TEMPORARY TABLE identities (id int)")
        tx.execute(text(f"SELECT {planner.FUNCTION}('identities')"))
        assert tx.execute(text(KNOWN)).scalar_one() == 4
    with pytest.raises(DBAPIError, match="case not found"), bound.transaction(A) as tx:
        tx.execute(text(f"SELECT {planner.FUNCTION}('workers')"))
    bound.dispose()


@only_postgres
def test_a_role_that_cannot_tell_the_planner_says_so_once(
    database: Database, roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a wall of an earlier version, which made no function
    bound = as_tenant(database, roles)
    with database.transaction() as tx:
        tx.exec_driver_sql(f"DROP FUNCTION {planner.FUNCTION}(text)")
    planner._say_once.cache_clear()

    # When the role wants to tell the planner twice, then nothing happens, which is said once
    with bound.transaction(A) as tx:
        assert not planner.told(tx, "units", planner.LEAST_ROWS)
        assert not planner.told(tx, "renders", planner.LEAST_ROWS)
    assert caplog.text.count("portraits db roles --apply") == 1
    bound.dispose()


@only_postgres
def test_a_role_that_no_wall_would_hold_is_refused(database: Database, roles: Roles) -> None:
    # Given a login that may act as the workers' role, and one that may act as the tables' owner
    with database.transaction() as tx:
        owner = tx.execute(text("SELECT current_user::text")).scalar_one()
        for login, group in ((f"{roles.tenant}_a", roles.worker), (f"{roles.tenant}_b", owner)):
            tx.exec_driver_sql(f"CREATE ROLE {login} IN ROLE {group}")
    try:
        for role, said in (
            (f"{roles.tenant}_a", f"may act as '{roles.worker}'"),
            (f"{roles.tenant}_b", f"may act as '{owner}'"),
            (owner, f"'{owner}' is a superuser"),
        ):
            # When one of them, or the owner, is to be the tenants' role, then it is refused
            with pytest.raises(SettingsInvalid, match=said), database.transaction() as tx:
                security.apply(tx, role, roles.worker)
        # And so is the owner as the workers' role, and one role for both
        with pytest.raises(SettingsInvalid, match="a superuser"), database.transaction() as tx:
            security.apply(tx, roles.tenant, owner)
        with pytest.raises(SettingsInvalid, match="wanted two"), database.transaction() as tx:
            security.apply(tx, roles.tenant, roles.tenant)
    finally:
        with database.transaction() as tx:
            tx.exec_driver_sql(f"DROP ROLE {roles.tenant}_a, {roles.tenant}_b")


@only_postgres
def test_an_upgrade_keeps_the_wall_up_around_new_tables_and_views(database: Database, roles: Roles) -> None:
    # Given a wall that misses a table and a view, as after an upgrade that made them
    with database.transaction() as tx:
        tx.exec_driver_sql("ALTER TABLE archived_events DISABLE ROW LEVEL SECURITY")
        tx.exec_driver_sql("DROP POLICY portraits_tenant ON archived_events")
        tx.exec_driver_sql("ALTER VIEW job_status RESET (security_invoker)")

    # When the schema is upgraded
    database.upgrade()

    # Then both are behind it
    with database.reading() as tx:
        walled = text("SELECT relrowsecurity FROM pg_class WHERE relname = 'archived_events'")
        assert tx.execute(walled).scalar_one() is True
        policies = text("SELECT count(*) FROM pg_policies WHERE tablename = 'archived_events'")
        assert tx.execute(policies).scalar_one() == 2
        options = text("SELECT reloptions::text FROM pg_class WHERE relname = 'job_status'")
        assert "security_invoker=true" in tx.execute(options).scalar_one()


@only_postgres
def test_a_database_without_a_wall_gets_none_by_an_upgrade(database: Database) -> None:
    # Given a database whose owner has asked for no wall, when it is upgraded, then others than the owner lose nothing
    database.upgrade()
    with database.reading() as tx:
        walls = text("SELECT count(*) FROM pg_class WHERE relrowsecurity")
        assert tx.execute(walls).scalar_one() == 0


def test_sqlite_has_no_roles(tmp_path: Path) -> None:
    # Given an SQLite file, when a role is wanted for it, then it is refused with what to do
    with pytest.raises(SettingsInvalid, match="PORTRAITS_DATABASE_TENANT_ROLE"):
        Database(f"sqlite:///{tmp_path}/x.db", tenant_role="portraits_tenant")
    with pytest.raises(SettingsInvalid, match="no name of a role"):
        security.role_statements("x; DROP TABLE units", "w")


def manifest(folder: Path, tenant: str, **changes: Any) -> dict[str, Any]:
    """A job of two people, with the same names and keys for every tenant."""
    for number, name in enumerate(("ada", "alan")):
        Image.new("RGB", (40, 40), (number, 50, 90)).save(folder / f"{name}.png")
    return {
        "tenant": tenant,
        "profile": "fake",
        "defaults": {"size": 64, "steps": 2},
        "prompts": [{"name": "office", "text": "a portrait", "seeds": [1, 2]}],
        "identities": [{"id": name, "photos": [f"{name}.png"]} for name in ("ada", "alan")],
        "key": "the-same-key",
        **changes,
    }


def live(world: World, chosen: Settings, folder: Path, tenant: str) -> uuid.UUID:
    """The whole way of a producer, for one tenant."""
    told = enqueue(manifest(folder, tenant), settings=chosen, base=folder)
    assert told.created and told.renders == 4
    assert not enqueue(manifest(folder, tenant), settings=chosen, base=folder).created
    assert control.pause(told.job_id, tenant=tenant, settings=chosen) == 2
    assert control.resume(told.job_id, tenant=tenant, settings=chosen)[0] == 2
    with world.database.transaction() as tx:
        own = select(Unit.id).where(Unit.tenant_id == tenant, Unit.state == "ready")
        waiting = list(tx.execute(own).scalars())
    for unit in waiting:
        world.shift(unit)
    assert reports.status(told.key, tenant=tenant, settings=chosen).job["done"] == 4
    renders = list(reports.results(told.job_id, tenant=tenant, urls=True, settings=chosen))
    assert {row["tenant_id"] for row in renders} == {tenant} and len(renders) == 4
    assert list(reports.outputs(told.job_id, tenant=tenant, settings=chosen)) == []
    assert reports.rerun(renders[0]["render_id"], tenant=tenant, settings=chosen)[0]
    assert reports.cancel(told.job_id, tenant=tenant, settings=chosen) == 1
    assert reports.retry(told.job_id, cancelled=True, tenant=tenant, settings=chosen)[0] == 1
    assert reports.cancel(told.job_id, tenant=tenant, settings=chosen) == 1
    return told.job_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the photos of manifests lie."""
    made = tmp_path / "manifest"
    made.mkdir()
    return made


@only_postgres
def test_the_whole_way_works_under_the_role_and_sees_nobody_else(
    database: Database, database_url: str, tmp_path: Path, folder: Path, roles: Roles
) -> None:
    # Given two tenants that use the same names and keys, and workers that log in as their own role
    chosen = settings(tmp_path, database_url, database_tenant_role=roles.tenant)
    workers = Database(f"{database_url}?options=-c%20role%3D{roles.worker}")
    world = World(workers, chosen, FakeRenderer())
    with database.transaction() as tx:
        tenants.change(tx, A, max_people=100, max_waiting_renders=100, max_renders_per_minute=100)

    # When both go the whole way
    jobs = {tenant: live(world, chosen, folder, tenant) for tenant in (A, B)}

    # Then each sees its own jobs alone, also when it asks for the other's by id
    for tenant, other in ((A, B), (B, A)):
        assert [row["job_id"] for row in reports.list_jobs(tenant=tenant, settings=chosen)] == [jobs[tenant]]
        with pytest.raises(UnknownJob):
            reports.status(jobs[other], tenant=tenant, settings=chosen)

    # And so do views without any WHERE
    bound = as_tenant(database, roles)
    for view in security.TENANT_VIEWS:
        with bound.reading(B) as tx:
            seen = set(tx.execute(text(f"SELECT tenant_id FROM {view}")).scalars())
            assert seen == (set() if view == "render_outputs" else {B}), view
    bound.dispose()

    # And limits hold under the role, and what is archived stays readable and is refused to be changed
    over = manifest(folder, A, key="over", prompts=[{"name": "x", "text": "y", "seeds": list(range(99))}])
    with pytest.raises(QuotaExceeded):
        enqueue(over, settings=chosen, base=folder)
    assert archive(older_than_seconds=0, settings=chosen.model_copy(update={"database_tenant_role": ""})).jobs == 2
    assert reports.status(jobs[A], tenant=A, settings=chosen).job["archived_at"] is not None
    assert len(list(reports.results(jobs[A], tenant=A, settings=chosen))) == 5
    with pytest.raises(JobArchived):
        reports.retry(jobs[A], tenant=A, settings=chosen)
    workers.dispose()


def test_every_statement_of_a_producer_names_its_tenant(
    database: Database, database_url: str, tmp_path: Path, folder: Path
) -> None:
    # Given a tenant with a job, and everything that another tenant's producer executes
    chosen = settings(tmp_path, database_url)
    world = World(database, chosen, FakeRenderer())
    live(world, chosen, folder, A)
    heard: list[tuple[str, Any]] = []

    def hear(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if conn.engine is not database.engine:  # the worker's own
            heard.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        job = live(world, chosen, folder, B)
        reports.list_jobs(tenant=B, settings=chosen)
    finally:
        event.remove(Engine, "before_cursor_execute", hear)

    # Then each that touches a table of tenants names the column and says who it is
    tables = re.compile(rf"\b({'|'.join((*security.tenant_tables(), *security.TENANT_VIEWS))})\b")
    touching = [(sql, values) for sql, values in heard if tables.search(sql) and not sql.startswith("ANALYZE")]
    assert len(touching) > 50
    for sql, values in touching:
        assert "tenant_id" in sql or re.search(r"\btenants\b", sql), sql
        assert f"'{B}'" in repr(values) and f"'{A}'" not in repr(values), (sql, values)
    assert reports.status(job, tenant=B, settings=chosen).job["renders"] == 5
