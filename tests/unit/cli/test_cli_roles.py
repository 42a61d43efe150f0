"""`portraits db roles` on the command line, and what a role is worth on SQLite."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cli_world import CliWorld
from services import fresh_postgres
from sqlalchemy import make_url, text

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
    shop, studio, desk = (f"portraits_{kind}_{uuid.uuid4().hex[:10]}" for kind in ("shop", "studio", "desk"))
    roles = ("--tenant-role", shop, "--worker-role", studio, "--privacy-role", desk)
    with fresh_postgres() as url, dropped_roles(url, shop, studio, desk):
        monkeypatch.setenv("PORTRAITS_DATABASE_URL", url)
        monkeypatch.setenv("PORTRAITS_DATABASE_TENANT_ROLE", shop)
        cli.run("db", "upgrade")
        assert "db roles --apply" in cli.run("status", exit_code=3).output

        # When the wall is put up, twice, then status works under the role
        for _ in range(2):
            assert cli.json("db", "roles", *roles, "--apply")["applied"] is True
        assert "has no jobs" in cli.run("status").stdout


@pytest.mark.postgres
def test_a_worker_is_refused_under_a_login_that_may_not_write_its_row(
    cli: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the wall, a login of the tenants' role and one of the workers', and a process that would be replaced
    shop, studio, desk = (f"portraits_{kind}_{uuid.uuid4().hex[:10]}" for kind in ("shop", "studio", "desk"))
    roles = ("--tenant-role", shop, "--worker-role", studio, "--privacy-role", desk)
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    with fresh_postgres() as url, dropped_roles(url, shop, studio, desk) as database:
        monkeypatch.setenv("PORTRAITS_DATABASE_URL", url)
        cli.run("db", "upgrade")
        cli.run("db", "roles", *roles, "--apply")
        with database.transaction() as tx:
            for role in (shop, studio):
                tx.execute(text(f"ALTER ROLE {role} LOGIN"))

        # When a worker is started under the first
        monkeypatch.setenv("PORTRAITS_DATABASE_URL", as_login(url, shop))
        told = cli.run("worker", exit_code=3).output

        # Then it does not start, and says what is wanted; under the other it does
        assert f"the login '{shop}' may not write the table workers" in told and "portraits db roles" in told
        assert started == []
        monkeypatch.setenv("PORTRAITS_DATABASE_URL", as_login(url, studio))
        cli.run("worker")
        assert len(started) == 1


def as_login(url: str, login: str) -> str:
    """The URL of the same database for another login."""
    return make_url(url).set(username=login).render_as_string(hide_password=False)


@contextmanager
def dropped_roles(url: str, *roles: str) -> Iterator[Database]:
    """A handle of the owner's, and no such roles afterwards."""
    database = Database(url)
    try:
        yield database
    finally:
        with database.transaction() as tx:
            for role in roles:
                tx.execute(text(f"DROP OWNED BY {role}"))
                tx.execute(text(f"DROP ROLE {role}"))
        database.dispose()
