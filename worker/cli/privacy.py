"""`portraits privacy`: what is left of somebody, who erased what, and keeping nobody longer than allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, Tenant, load_settings
from worker.cli.output import facts, out, print_json, say, table

commands = typer.Typer(help="Verify erasures, list them, and let go of what is kept too long.", no_args_is_help=True)
MOST_SHOWN = 50


@commands.command()
def verify(
    identity: Annotated[
        str | None, typer.Argument(metavar="[IDENTITY]", help="The external id of somebody who was forgotten.")
    ] = None,
    tenant: Tenant = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="What `portraits forget --receipt` wrote: ids, hashes, keys.")
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option("--photo", exists=True, dir_okay=False, help="A photo of that person; may be said again."),
    ] = None,
    whole_tenant: Annotated[
        str | None, typer.Option("--whole-tenant", metavar="NAME", help="Whatever is left of a whole tenant.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what is left of somebody in every table, in the store, in this machine's spool; exits with 1 if anything is.

    Everything of the tenant is read for that. The receipt is the surest way: it has every id and key that there was.
    """
    from jobs import privacy
    from jobs.privacy import Receipt, Sought

    settings = load_settings()
    if whole_tenant is not None:
        sought = Sought.everything_of(whole_tenant)
    else:
        found = Receipt.load(receipt) if receipt is not None else None
        if identity is None and found is None and not photo:
            raise typer.BadParameter(
                "say whom to look for: IDENTITY, --receipt FILE, --photo FILE or --whole-tenant NAME"
            )
        owner = tenant or (found.tenant if found is not None else settings.tenant)
        names = [identity] if identity is not None else []
        sought = Sought.of(owner, names=names, photos=photo or [], receipt=found)
    left = list(privacy.remains(sought, settings=settings))
    if as_json:
        print_json({"tenant": sought.tenant, "remains": [{"kind": one.kind, "where": one.where} for one in left]})
    elif not left:
        say(f"nothing is left in the tables and in the store of tenant {sought.tenant}")
    else:
        out().print(table(None, ("kind", "where"), [(one.kind, one.where) for one in left[:MOST_SHOWN]]))
        say("1 thing is left" if len(left) == 1 else f"{len(left)} things are left")
    if left:
        raise typer.Exit(Exit.PROBLEM)


@commands.command()
def audits(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's; default: everybody's.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what was erased: when, by whom, how much; never who it was."""
    from jobs import privacy

    rows = privacy.audits(tenant=tenant, limit=limit, settings=load_settings())
    if as_json:
        print_json({"audits": rows})
        return
    if not rows:
        say("nothing was erased here")
        return
    out().print(table(None, ("at", "what", "tenant", "how much", "by", "reason"), [_cells(row) for row in rows]))


@commands.command()
def sweep(as_json: AsJson = False) -> None:
    """Do now what is done once a day: erase people who are kept too long, and photos that nobody names any more.

    Under a login that may not erase it says so; `portraits db roles` makes a role for it.
    """
    from jobs.privacy import retention

    swept = retention.sweep(load_settings())
    if as_json:
        print_json(swept.as_data())
    else:
        facts({name.replace("_", " "): count for name, count in swept.as_data().items()})


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "nothing"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    at, counts = f"{row['at']:%Y-%m-%d %H:%M}", _told(row["counts"])
    return at, row["action"], row["tenant"] or "", counts, row["actor"], row["reason"] or ""
