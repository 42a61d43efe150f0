"""`portraits db roles` on the command line, and what a role is worth on SQLite."""

from __future__ import annotations

import uuid

import pytest
from cli_world import CliWorld
from services import fresh_postgres
from sqlalchemy import text

from jobs.database import Database
from jobs.repository import security


def test_the_sql_of_the_roles_is_printed(cli: CliWorld) -> None:
    # When it is asked for, then it can be read, and names every table of tenants; no database is needed
    told = cli.run("db", "roles", "--tenant-role", "shop", "--worker-role", "studio").stdout
    assert "CREATE ROLE shop NOLOGIN" in told and "CREATE ROLE studio NOLOGIN" in told
    for table in security.tenant_tables():
        assert f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" in told
    assert "BYPASSRLS" not in told and "GRANT ALL" not in told


def test_on_sqlite_roles_are_refused(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.migrate()
    assert "need PostgreSQL" in cli.run("db", "roles", "--apply", exit_code=3).output
    monkeypatch.setenv("PORTRAITS_DATABASE_TENANT_ROLE", "shop")
    assert "PORTRAITS_DATABASE_TENANT_ROLE" in cli.run("status", exit_code=3).output


@pytest.mark.postgres
def test_the_wall_is_put_up_twice_and_a_missing_role_is_told(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an installation on PostgreSQL whose tenants' role does not exist
    shop, studio = (f"portraits_{kind}_{uuid.uuid4().hex[:10]}" for kind in ("shop", "studio"))
    with fresh_postgres() as url:
        monkeypatch.setenv("PORTRAITS_DATABASE_URL", url)
        monkeypatch.setenv("PORTRAITS_DATABASE_TENANT_ROLE", shop)
        cli.run("db", "upgrade")
        assert "db roles --apply" in cli.run("status", exit_code=3).output

        # When the wall is put up, twice, then status works under the role
        for _ in range(2):
            assert cli.json("db", "roles", "--tenant-role", shop, "--worker-role", studio, "--apply")["applied"] is True
        assert "has no jobs" in cli.run("status").stdout

        database = Database(url)
        with database.transaction() as tx:
            for role in (shop, studio):
                tx.execute(text(f"DROP OWNED BY {role}"))
                tx.execute(text(f"DROP ROLE {role}"))
        database.dispose()
