"""`portraits db`: the schema of the database."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, load_settings
from worker.cli.output import hint, print_json, say

commands = typer.Typer(help="The database schema: upgrade it, or see which one there is.", no_args_is_help=True)


@commands.command()
def upgrade(as_json: AsJson = False) -> None:
    """Bring the schema to the newest version; harmless when it is there already."""
    from jobs.database import Database

    database = Database.from_settings(load_settings())
    try:
        before, wanted = database.revisions()
        if database.is_newer(before):
            wanted = before
        elif before != wanted:
            database.upgrade()
    finally:
        database.dispose()
    if as_json:
        print_json({"database": str(database), "before": before, "revision": wanted})
    elif before == wanted:
        say(f"{database} is at schema {wanted} already")
    else:
        say(f"{database}: schema {before or 'none'} -> {wanted}")


@commands.command()
def current(as_json: AsJson = False) -> None:
    """Show the schema; exit code 3 if it is not the newest."""
    from jobs.database import Database

    database = Database.from_settings(load_settings())
    try:
        found, wanted = database.revisions()
    finally:
        database.dispose()
    if as_json:
        print_json({"database": str(database), "revision": found, "wanted": wanted, "current": found == wanted})
    else:
        say(f"{database} is at schema {found or 'none'}" + ("" if found == wanted else f", wanted {wanted}"))
        if found != wanted:
            hint("portraits db upgrade")
    if found != wanted:
        raise typer.Exit(Exit.ENVIRONMENT)


@commands.command()
def roles(
    tenant_role: Annotated[
        str, typer.Option("--tenant-role", help="Of processes that enqueue and look, for one tenant at a time.")
    ] = "portraits_tenant",
    worker_role: Annotated[str, typer.Option("--worker-role", help="Of workers.")] = "portraits_worker",
    privacy_role: Annotated[
        str, typer.Option("--privacy-role", help="Of who may erase; an empty name: the owner of the tables alone.")
    ] = "portraits_privacy",
    apply: Annotated[bool, typer.Option("--apply", help="Run it, as the owner of the tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the SQL that gives three PostgreSQL roles the least rights they need, and puts row-level security
    between tenants; or run it.

    Run it again after an upgrade. Then set PORTRAITS_DATABASE_TENANT_ROLE where jobs are enqueued and looked at.
    """
    from jobs.database import Database
    from jobs.repository import security

    names = (tenant_role, worker_role, privacy_role or None)
    statements = security.role_statements(*names)
    if not apply:
        if as_json:
            print_json({"statements": statements, "applied": False})
        else:
            typer.echo("\n".join(f"{statement};" for statement in statements))
        return
    database = Database.from_settings(load_settings(database_tenant_role=""))
    try:
        with database.transaction() as tx:
            security.apply(tx, *names)
    finally:
        database.dispose()
    if as_json:
        print_json({"statements": statements, "applied": True})
    else:
        roles = ", ".join(name for name in names if name)
        say(f"{database}: the roles {roles} have their rights, and the wall stands")
        hint(f"GRANT {tenant_role} TO the user that enqueues; PORTRAITS_DATABASE_TENANT_ROLE={tenant_role}")
