"""`portraits db`: the schema of the database."""

from __future__ import annotations

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
        if before != wanted:
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
