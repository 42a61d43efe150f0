"""`portraits forget`: a person, or a whole tenant, and everything made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.options import AsJson, Tenant, load_settings
from worker.cli.output import facts, hint, print_json, say, warn

if TYPE_CHECKING:
    from jobs.privacy import Forgotten
    from jobs.settings import Settings

SHOWN_NAMES = 20


def forget(
    identity: Annotated[
        str | None,
        typer.Argument(metavar="[IDENTITY]", help="Your own name for the person, or the person's id."),
    ] = None,
    tenant: Tenant = None,
    whole_tenant: Annotated[
        str | None,
        typer.Option("--whole-tenant", metavar="NAME", help="Everybody and everything of a tenant."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go; nothing is changed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the audit row; it must not say who.")] = None,
    receipt: Annotated[
        Path | None,
        typer.Option("--receipt", help="Write here under which ids it was known, for `portraits privacy verify`."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forget a person: photos, embeddings, weight sets, pictures, gallery pages, queued work, and what workers hold.

    It reaches whatever was made of this person, pictures together with others too. Says first what will go, and asks.
    An audit row without personal data is kept. Interrupted, it goes on by itself, or when it is called again.
    """
    if (identity is None) == (whole_tenant is None):
        raise typer.BadParameter("name one IDENTITY, or --whole-tenant NAME; one of the two")
    if as_json and not (yes or dry_run):
        raise typer.BadParameter("--json asks nobody: say --yes, or --dry-run to only look")
    settings = load_settings()
    called: dict[str, Any] = {"reason": reason, "settings": settings}
    if dry_run or not yes:
        looked = _forget(identity, tenant, whole_tenant, dry_run=True, **called)
        if dry_run:
            _tell(looked, as_json=as_json)
            return
        _ask(looked, identity or f"the whole tenant {whole_tenant}")
    done = _forget(identity, tenant, whole_tenant, dry_run=False, receipt=receipt, **called)
    _clear_here(done, settings)
    _tell(done, as_json=as_json, receipt=receipt)


def _forget(
    identity: str | None, tenant: str | None, whole_tenant: str | None, *, dry_run: bool, **called: Any
) -> Forgotten:
    from jobs import privacy

    if whole_tenant is not None:
        return privacy.forget_tenant(whole_tenant, dry_run=dry_run, **called)
    return privacy.forget(identity or "", tenant=tenant, dry_run=dry_run, **called)


def _ask(looked: Forgotten, who: str) -> None:
    """Say what will go, and ask. Raises Abort, which exits with 130."""
    say(f"of tenant {looked.tenant} will be erased, for good:")
    _show(looked)
    typer.confirm(f"forget {who}?", abort=True)


def _clear_here(done: Forgotten, settings: Settings) -> None:
    """What a worker of this home keeps of it on disk goes now; elsewhere workers see to it."""
    from worker.forgetting import clear_spool
    from worker.spool import Spool

    clear_spool(Spool.from_settings(settings), done.units)


def _tell(done: Forgotten, *, as_json: bool, receipt: Path | None = None) -> None:
    if as_json:
        told = {one.name: getattr(done, one.name) for one in dataclasses.fields(done)}
        print_json({name: value for name, value in told.items() if name not in ("receipt", "units")})
        return
    say(f"would be erased of tenant {done.tenant}:" if done.is_dry else f"erased of tenant {done.tenant}:")
    _show(done)
    if done.is_dry:
        return
    if done.behind:
        several = len(done.behind) > 1
        who = f"{len(done.behind)} workers drop what they hold with their" if several else "1 worker drops it with its"
        warn(f"{who} next sign of life: {', '.join(done.behind[:5])}")
    if receipt is not None:
        hint(f"{receipt} still tells of it: `portraits privacy verify --receipt {receipt}`, then remove it")


def _show(done: Forgotten) -> None:
    counts = {name.replace("_", " "): count for name, count in done.counts.items()}
    facts(counts if done.is_dry else {**counts, "objects removed": done.removed})
    if done.others:
        more = "" if len(done.others) <= SHOWN_NAMES else f" and {len(done.others) - SHOWN_NAMES} more"
        say(f"  made of this person, and erased too: {', '.join(done.others[:SHOWN_NAMES])}{more}")
