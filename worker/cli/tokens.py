"""`portraits tokens`: with which `portraits serve` lets somebody see a tenant's jobs, or enqueue them."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.durations import seconds
from worker.cli.options import AsJson, Tenant, load_settings
from worker.cli.output import facts, hint, out, print_json, say, table

if TYPE_CHECKING:
    from jobs.repository.tokens import TokenRow

commands = typer.Typer(help="Tokens for `portraits serve`.", no_args_is_help=True)


@commands.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for; it is shown in lists.")],
    tenant: Tenant = None,
    write: Annotated[bool, typer.Option("--write", help="It may send photos, enqueue and cancel, too.")] = False,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="How long it is valid: 90d, 12h. Default: always.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Its text is shown this once; only its hash is kept."""
    from jobs import tokens
    from jobs.database import Database

    settings = load_settings()
    until = None if expires is None else dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds(expires))
    database = Database.from_settings(settings)
    try:
        made = tokens.create(database, tenant or settings.tenant, name, may_write=write, expires_at=until)
    finally:
        database.dispose()
    if as_json:
        print_json({"token": made.text, **_told(made.row)})
        return
    say(made.text)
    hint("this text is shown once; whoever has it sees the tenant's people. `portraits tokens revoke` ends it")
    facts({"tenant": made.row.tenant_id, "name": made.row.name, "may": _rights(made.row), "valid": _until(made.row)})


@commands.command("list")
def list_(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show a tenant's tokens, never their texts."""
    from jobs.database import Database
    from jobs.repository import tokens

    settings = load_settings()
    owner = tenant or settings.tenant
    database = Database.from_settings(settings)
    try:
        with database.reading(owner) as tx:
            rows = tokens.every(tx, owner)
    finally:
        database.dispose()
    if as_json:
        print_json({"tokens": [_told(row) for row in rows]})
    elif rows:
        columns = ("id", "name", "may", "made", "last used", "valid")
        cells = [(row.id, row.name, _rights(row), _day(row.created_at), _used(row), _until(row)) for row in rows]
        out().print(table(f"Tokens of tenant {owner}", columns, cells))
    else:
        say(f"tenant {owner} has no token; `portraits tokens create NAME` makes one")


@commands.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Id or name of the token, not its text.")],
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """End a token: what shows it is refused from the next request on, logins made with it too."""
    from jobs import tokens
    from jobs.database import Database

    settings = load_settings()
    database = Database.from_settings(settings)
    try:
        row = tokens.revoke(database, tenant or settings.tenant, token)
    finally:
        database.dispose()
    if as_json:
        print_json(_told(row))
    else:
        say(f"the token {row.name} ({row.id}) is revoked")


def _told(row: TokenRow) -> dict[str, Any]:
    """A token for programs; its hash is nobody's business."""
    return {name: value for name, value in asdict(row).items() if name != "sha256"}


def _rights(row: TokenRow) -> str:
    return "read and write" if row.may_write else "read"


def _day(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _used(row: TokenRow) -> str:
    return "never" if row.last_used_at is None else _day(row.last_used_at)


def _until(row: TokenRow) -> str:
    if row.revoked_at is not None:
        return f"revoked {_day(row.revoked_at)}"
    if row.expires_at is None:
        return "until revoked"
    told = "expired" if row.expires_at <= dt.datetime.now(dt.UTC) else "until"
    return f"{told} {_day(row.expires_at)}"
