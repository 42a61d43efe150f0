"""What looks at every tenant's rows refuses a login that sees none, instead of saying that all is well."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_world import TENANT, World, add_job, only_postgres, person, settings
from sqlalchemy import make_url

from jobs.archive import archive, restore
from jobs.database import Database
from jobs.errors import SettingsInvalid
from jobs.repository import fleet, security
from jobs.settings import Settings
from jobs.sweep import sweep
from jobs.verify import verify
from worker.testing import FakeRenderer


@pytest.fixture
def logins(database: Database, tmp_path: Path) -> Iterator[dict[str, Settings]]:
    """The settings of a login in the tenants' role, and of one in the workers'."""
    end = uuid.uuid4().hex[:10]
    groups = {kind: f"portraits_{kind[0]}_{end}" for kind in ("tenant", "worker")}
    with database.transaction() as tx:
        security.apply(tx, *groups.values())
        for group in groups.values():
            tx.exec_driver_sql(f"CREATE ROLE {group}_login LOGIN IN ROLE {group}")
    urls = {kind: database.engine.url.set(username=f"{group}_login") for kind, group in groups.items()}
    yield {
        kind: settings(tmp_path, url.render_as_string(hide_password=False), tenant=TENANT) for kind, url in urls.items()
    }
    with database.transaction() as tx:
        for group in groups.values():
            tx.exec_driver_sql(f"DROP OWNED BY {group}")
            tx.exec_driver_sql(f"DROP ROLE {group}_login, {group}")


@only_postgres
def test_a_login_that_sees_no_tenant_is_refused_and_one_that_sees_all_is_not(
    database: Database, database_url: str, tmp_path: Path, logins: dict[str, Settings]
) -> None:
    # Given a drawn job
    world = World(database, settings(tmp_path, database_url, tenant=TENANT), FakeRenderer())
    job = add_job(database, [person("ada", [1], world.settings)])
    world.shift()
    pictures = world.pictures()

    # When a login behind row-level security is to look at all rows, of every tenant or of one
    blind = logins["tenant"]
    for call in (
        lambda: verify(every=True, settings=blind),
        lambda: verify(every=True, tenant=TENANT, settings=blind),
        lambda: verify(job, settings=blind),
        lambda: archive(older_than_seconds=0, settings=blind),
        lambda: archive(older_than_seconds=0, tenant=TENANT, settings=blind),
        lambda: restore(job, tenant=TENANT, settings=blind),
        lambda: sweep(blind, older_than_seconds=0, delete=True),
    ):
        # Then it says so, and does nothing
        with pytest.raises(SettingsInvalid, match="no tenant is visible"):
            call()
    assert world.pictures() == pictures

    # And one of the workers' role sees the job
    assert verify(every=True, objects=True, settings=logins["worker"]).jobs == 1
    swept = sweep(logins["worker"], older_than_seconds=0)
    assert swept.named > 0 and swept.orphans == 0


@only_postgres
def test_a_login_that_may_not_write_a_table_is_told_whose_login_may(logins: dict[str, Settings]) -> None:
    # Given a login of the tenants' role, which has all its rights
    database = Database.from_settings(logins["tenant"])

    # When it is to write what only workers write, then it is told who may, and not to set up what is there
    with (
        pytest.raises(SettingsInvalid, match="permission denied for table workers") as told,
        database.transaction() as tx,
    ):
        fleet.stopped(tx, "nobody")
    assert "member of the workers' role; `portraits db roles` prints the grants" in str(told.value)
    assert "PORTRAITS_DATABASE_TENANT_ROLE" not in str(told.value)
    database.dispose()

    # When it is to take a role that is not its own, then that setting is named
    login = make_url(logins["worker"].database_url.get_secret_value()).username or ""
    other = Database(logins["tenant"].database_url.get_secret_value(), tenant_role=login)
    with (
        pytest.raises(SettingsInvalid, match=r"set role .* PORTRAITS_DATABASE_TENANT_ROLE"),
        other.transaction(TENANT) as tx,
    ):
        fleet.stopped(tx, "nobody")
    other.dispose()
