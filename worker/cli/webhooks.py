"""`portraits webhooks`: whom to tell, over HTTP, that jobs and units have ended."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, Tenant, load_settings, of_tenant
from worker.cli.output import facts, hint, out, print_json, say, table, warn
from worker.cli.status import age_of

commands = typer.Typer(help="Whom to tell of ends, over HTTP.", no_args_is_help=True)
Hook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id, as `portraits webhooks list` shows it.")]
MOST_DELIVERIES = 10_000


@commands.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="https://host/path of a public address.")],
    event: Annotated[
        list[str] | None, typer.Option("--event", help="job.ended or unit.ended; may be repeated. Default: job.ended.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option("--secret-file", help="File with the secret to sign with; default: a new one.")
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Tell this address of a tenant's ends. The secret is shown this once."""
    from jobs import webhooks
    from jobs.repository.deliveries import JOB_ENDED, KINDS

    kinds = list(dict.fromkeys(event or [JOB_ENDED]))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise typer.BadParameter(f"--event is one of {', '.join(KINDS)}, found {', '.join(unknown)}")
    settings = load_settings()
    secret = None if secret_file is None else _read_secret(secret_file)
    added = webhooks.add(url, kinds=kinds, secret=secret, tenant=tenant, settings=settings)
    shown = {} if secret_file else {"secret": added.secret}
    if as_json:
        print_json({"id": added.id, "url": url, "events": kinds, **shown, "warning": added.warning or None})
        return
    facts({"webhook": added.id, "events": ", ".join(kinds), **shown})
    if shown:
        hint("the secret is shown once; the receiver verifies with it that a message is ours")
    if added.warning:
        warn(added.warning)
    hint(f"`portraits webhooks test {added.id}{of_tenant(tenant or settings.tenant, settings)}` sends a message now")


def _read_secret(path: Path) -> str:
    from jobs.errors import FileRefused

    try:
        with path.open(encoding="ascii", errors="strict") as file:
            return file.read(1000).strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FileRefused(f"the secret cannot be read from {path}: {reason}") from error


@commands.command("list")
def list_(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show a tenant's webhooks and how they fare."""
    from jobs import webhooks

    settings = load_settings()
    rows = webhooks.every(tenant=tenant, settings=settings)
    owner = tenant or settings.tenant
    if as_json:
        print_json({"webhooks": rows})
    elif rows:
        columns = ("id", "url", "events", "state", "waiting", "done", "failed")
        cells = [(row["id"], row["url"], ", ".join(row["kinds"]), _state(row), *_counts(row)) for row in rows]
        out().print(table(f"Webhooks of tenant {owner}", columns, cells, right="waiting done failed"))
    else:
        say(f"tenant {owner} has no webhook; `portraits webhooks add URL` makes one")


def _state(row: dict[str, Any]) -> str:
    if row["disabled_at"] is not None:
        return str(row["disabled_reason"])
    from jobs.webhooks import failing

    if not row["failures"]:
        return "takes messages"
    return f"{failing(row['last_error'])}, {row['failures']} tries"


def _counts(row: dict[str, Any]) -> list[str]:
    return [f"{row[name]:,}" for name in ("waiting", "done", "failed")]


@commands.command("remove")
def remove(webhook: Hook, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Tell an address nothing more, and forget what it was told."""
    from jobs import webhooks

    hook_id = _id(webhook)
    webhooks.remove(hook_id, tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"removed": hook_id})
    else:
        say(f"removed {hook_id}")


@commands.command("test")
def test(webhook: Hook, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Send a message without content now, once, and say what came of it. Exit code 1 if it was not taken."""
    from jobs import webhooks

    ping = webhooks.ping(_id(webhook), tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"taken": ping.taken, "status": ping.status, "error": ping.error or None, "seconds": ping.seconds})
    elif ping.taken:
        say(f"taken: {ping.status} after {ping.seconds:.2f} s", "green")
    else:
        say(f"not taken after {ping.seconds:.2f} s: {ping.error}", "red")
    raise typer.Exit(Exit.OK if ping.taken else Exit.PROBLEM)


@commands.command("deliveries")
def deliveries(
    webhook: Annotated[
        str | None, typer.Argument(metavar="[WEBHOOK]", help="Id of a webhook; default: all of the tenant's.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST_DELIVERIES, help="How many, the newest first.")] = 20,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Show what was told, and what is still to be."""
    from jobs import webhooks

    hook_id = None if webhook is None else _id(webhook)
    rows = webhooks.latest(hook_id, limit=limit, tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"deliveries": rows})
    elif rows:
        columns = ("delivery", "event", "ended", "state", "tries", "status", "what was wrong")
        cells = [
            (
                *(row["id"], row["kind"], f"{age_of(row['created_at'])} ago", row["state"], row["attempts"]),
                *(row["last_status"] or "", row["last_error"] or ""),
            )
            for row in rows
        ]
        out().print(table(None, columns, cells, right="tries status"))
    else:
        say("nothing was told yet, and nothing is to be")


@commands.command("retry")
def retry(webhook: Hook, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Enable a webhook again, and send at once what waits or was given up."""
    from jobs import webhooks

    count = webhooks.retry(_id(webhook), tenant=tenant, settings=load_settings())
    if as_json:
        print_json({"waiting": count})
    else:
        say(f"{count:,} messages are sent as soon as a clerk looks, in a few seconds")


def _id(text: str) -> uuid.UUID:
    """The id of a webhook. Raises BadParameter, which exits with 2."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no webhook's id; `portraits webhooks list` shows them") from None
