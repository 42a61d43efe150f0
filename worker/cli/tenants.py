"""`portraits tenants`: the share of the workers that each tenant has, and its limits."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.durations import seconds
from worker.cli.options import AsJson, load_settings
from worker.cli.output import out, print_json, say, table

if TYPE_CHECKING:
    from jobs.repository.tenants import TenantRow

commands = typer.Typer(help="Shares and limits of tenants.", no_args_is_help=True)
LIMITS = {
    "people": "max_people",
    "waiting": "max_waiting_renders",
    "bytes": "max_stored_bytes",
    "per_minute": "max_renders_per_minute",
}
MOST, LONGEST_NAME, MOST_DAYS = 2**63 - 1, 64, 36_500
Limit = Annotated[
    int | None, typer.Option(min=0, max=MOST, help="A whole number; --unlimited takes all limits away first.")
]


@commands.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show every tenant's weight and limits."""
    from jobs.database import Database
    from jobs.repository import tenants

    database = Database.from_settings(load_settings())
    try:
        with database.reading() as tx:
            rows = tenants.every(tx)
    finally:
        database.dispose()
    if as_json:
        print_json({"tenants": [asdict(row) for row in rows]})
    elif rows:
        _show(rows)
    else:
        say("no tenant has enqueued anything here; `portraits tenants set` makes one")


@commands.command("set")
def set_(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Its name; one that is new is made.")],
    weight: Annotated[
        float | None, typer.Option("--weight", min=0.001, max=1000, help="Share beside others; 1 is ordinary.")
    ] = None,
    people: Limit = None,
    waiting: Limit = None,
    bytes_: Annotated[int | None, typer.Option("--bytes", min=0, max=MOST, help="Bytes that may be stored.")] = None,
    per_minute: Limit = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Take all limits away first.")] = False,
    retention: Annotated[
        str | None,
        typer.Option("--retention", help="Days after their last use that people are kept: 30d; none: as the setting."),
    ] = None,
    consent: Annotated[
        bool | None,
        typer.Option("--require-consent/--no-require-consent", help="Whether people need `consent` and `purpose`."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a tenant's weight; how many people, waiting pictures, stored bytes and pictures a minute it may have; how
    long its people are kept, and whether their consent must be told.
    """
    from jobs.database import Database
    from jobs.repository import tenants

    _check_name(tenant)
    given = {"people": people, "waiting": waiting, "bytes": bytes_, "per_minute": per_minute}
    changes: dict[str, float | int | None] = dict.fromkeys(LIMITS.values()) if unlimited else {}
    changes |= {LIMITS[name]: value for name, value in given.items() if value is not None}
    changes |= {} if weight is None else {"weight": weight}
    changes |= {} if retention is None else {"retention_days": _days(retention)}
    changes |= {} if consent is None else {"requires_consent": consent}
    if not changes:
        raise typer.BadParameter(
            "say what to set: --weight, --people, --waiting, --bytes, --per-minute, --unlimited, --retention, "
            "--require-consent"
        )
    if weight is not None and math.isnan(weight):  # which is neither under a least nor over a most
        raise typer.BadParameter("--weight is a number from 0.001 to 1000, found nan")
    database = Database.from_settings(load_settings())
    try:
        with database.transaction() as tx:
            row = tenants.change(tx, tenant, **changes)
    finally:
        database.dispose()
    if as_json:
        print_json(asdict(row))
    else:
        _show([row])


def _check_name(tenant: str) -> None:
    """Raise BadParameter for a name under which nobody could enqueue."""
    from jobs.options import slug

    try:
        fits = len(slug(tenant)) <= LONGEST_NAME
    except ValueError:
        fits = False
    if not fits:
        raise typer.BadParameter(
            f"a tenant's name has 1 to {LONGEST_NAME} lower-case letters a to z, digits, - and _; found {tenant[:80]!r}"
        )


def _days(text: str) -> int | None:
    """Whole days, or None for `none`. Raises BadParameter."""
    if text == "none":
        return None
    days = seconds(text) / 86_400.0
    if days < 1 or days != int(days) or days > MOST_DAYS:
        wanted = f"whole days, such as 30d, at most {MOST_DAYS}, or none"
        raise typer.BadParameter(f"--retention wants {wanted}; found {text!r}")
    return int(days)


def _show(rows: list[TenantRow]) -> None:
    columns = ("tenant", "weight", *(name.replace("_", " ") for name in LIMITS), "kept days", "consent")
    cells = [
        (
            row.id,
            f"{row.weight:g}",
            *(_limit(getattr(row, field)) for field in LIMITS.values()),
            _limit(row.retention_days),
            "required" if row.requires_consent else "",
        )
        for row in rows
    ]
    out().print(table(None, columns, cells, right="weight people waiting bytes"))


def _limit(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
