"""`portraits enqueue`: a manifest becomes a job, or, with --dry-run, an answer to what it would become."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.options import AsJson, Tenant, load_settings, of_tenant
from worker.cli.output import facts, hint, out, print_json, say, short, table, warn

if TYPE_CHECKING:
    from jobs.intake import Enqueued
    from jobs.planned import Checked, PlannedRender
    from jobs.settings import Settings
    from worker.estimate import Pace

SHOWN_RENDERS = 5
SAMPLED_RENDERS = 20_000


def enqueue(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="YAML, JSON, JSON Lines or CSV file.")],
    job: Annotated[
        Path | None, typer.Option("--job", help="File with the job part: prompts, defaults; needed for CSV.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="File with prompts that replace the job's own.")
    ] = None,
    tenant: Tenant = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key; default: the content's hash.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="What to draw with.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="Higher goes first.")] = None,
    again: Annotated[bool, typer.Option("--again", help="A new job, although the same was enqueued before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing: counts, first pictures, estimated GPU time.")
    ] = False,
    all_faults: Annotated[bool, typer.Option("--all-faults", help="Show every fault, not the first 20.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a manifest, store its photos and rows, and wake workers.

    All faults are reported together, and nothing is written on a fault (exit code 2). The same content enqueued twice
    is one job.
    """
    del all_faults  # read where errors are told
    settings = load_settings()
    asked = {"tenant": tenant, "key": key, "profile": profile, "priority": priority}
    overrides = {name: value for name, value in asked.items() if value is not None}
    options: dict[str, Any] = {"job_file": job, "prompts_file": prompts, "overrides": overrides, "again": again}
    if dry_run:
        _answer_plan(_plan(manifest, settings, **options), as_json=as_json)
        return

    from jobs.intake import enqueue as enqueue_job

    _answer_job(enqueue_job(manifest, settings=settings, **options), settings, as_json=as_json)


def _answer_job(made: Enqueued, settings: Settings, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(made))
        return
    for warning in made.warnings:
        warn(warning)
    say("enqueued" if made.created else "this was enqueued before; nothing was added (--again makes a new job)")
    facts(
        {
            "job": made.job_id,
            "key": made.key,
            "people": made.identities,
            "pictures": f"{made.renders} in {made.units} units",
        }
    )
    hint(f"portraits watch {made.job_id}{of_tenant(made.tenant, settings)}")


def _plan(manifest: Path, settings: Settings, **options: Any) -> dict[str, Any]:
    """What the manifest asks for; reads the database's measurements if there are any, and writes nothing."""
    from jobs.manifest import open_manifest
    from jobs.profiles import drawing_defaults
    from worker.estimate import estimate

    defaults_of = drawing_defaults(settings)
    with open_manifest(manifest, settings=settings, defaults_of=defaults_of, **options) as opened:
        checked = opened.check()
        job = opened.job
        pictures = ((person.external_id, render) for person in opened.people() for render in person.renders)
        first = list(islice(pictures, SHOWN_RENDERS))
        sample = [render for _, render in first]
        sample += [render for _, render in islice(pictures, SAMPLED_RENDERS - len(first))]
        cost = estimate(sample, checked.renders, _pace(settings, job.tenant, job.profile))
        return {
            "dry_run": True,
            "tenant": job.tenant,
            "key": opened.key,
            "profile": job.profile,
            **_counts(checked, settings),
            "first": [{"external_id": who, **_shown(render)} for who, render in first],
            "estimate": asdict(cost),
        }


def _counts(checked: Checked, settings: Settings) -> dict[str, int]:
    return {
        "identities": checked.identities,
        "photos": checked.photos,
        "photo_bytes": checked.photo_bytes,
        "units": checked.units(settings.renders_per_unit),
        "renders": checked.renders,
    }


def _shown(render: PlannedRender) -> dict[str, Any]:
    told = asdict(render)
    return {name: told[name] for name in told if name not in {"ordinal", "seed_index"}}


def _pace(settings: Settings, tenant: str, profile: str) -> Pace:
    """The measured pace of the profile, or the assumed one and why."""
    from jobs.database import Database
    from jobs.errors import DatabaseOutdated, DatabaseUnavailable
    from jobs.repository.summaries import pace
    from worker.cli.places import sqlite_file
    from worker.estimate import assumed_pace, measured_pace

    file = sqlite_file(settings)
    if file is not None and not file.exists():  # connecting would make it, and a dry run writes nothing
        return assumed_pace("since there is no database yet")
    database = Database.from_settings(settings)
    try:
        with database.reading(tenant) as tx:
            return measured_pace([dict(row) for row in pace(tx, tenant, profile)], profile)
    except (DatabaseUnavailable, DatabaseOutdated) as error:
        return assumed_pace(f"since no measurements can be read ({error.code})")
    finally:
        database.dispose()


def _answer_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    from worker.estimate import hours_text

    cost = plan["estimate"]
    say("a dry run: nothing was written")
    facts(
        {
            "people": plan["identities"],
            "photos": f"{plan['photos']} ({plan['photo_bytes'] / 1e6:.1f} MB)",
            "pictures": f"{plan['renders']} in {plan['units']} units",
            "profile": plan["profile"],
            "GPU time": f"{hours_text(cost['gpu_hours'])}, {cost['explanation']}",
        }
    )
    rows = [
        (
            short(one["external_id"], 24),
            short(one["prompt_name"], 24),
            one["seed"],
            f"{one['width']}x{one['height']}",
            one["steps"],
            one["prompt"],
        )
        for one in plan["first"]
    ]
    columns = ("person", "prompt", "seed", "size", "steps", "text")
    out().print(table(f"The first {len(rows)} pictures", columns, rows, right="seed steps"))
