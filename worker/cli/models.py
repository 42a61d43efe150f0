"""`portraits models`: the weights that profiles name, on this machine and on the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson, load_settings
from worker.cli.output import hint, out, print_json, say, table, warn

if TYPE_CHECKING:
    from jobs.settings import Settings
    from worker.models.lock import Locked
    from worker.models.parts import Part
    from worker.models.pull import Step

commands = typer.Typer(help="The weights that profiles name.", no_args_is_help=True)
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME...]", help="Profiles, or hub ids (owner/name); default: PORTRAITS_PROFILE."),
]
MIB = 1024**2


@commands.command("list")
def list_(names: Names = None, as_json: AsJson = False) -> None:
    """Show what profiles need, what of it is here, how large it is, and under which licence. Asks nobody.

    Without names: every profile.
    """
    settings = _prepared("`portraits models list`")
    from worker.models import lock

    locked = lock.read(lock.path_of(settings))
    rows = [_row(part, locked) for part in _parts(settings, names, everything=True)]
    if as_json:
        print_json({"lock": str(lock.path_of(settings)), "models": rows})
        return
    if not rows:
        say("these profiles need no weights that lie somewhere; they make their own when first needed")
        return
    columns = ("model", "for", "licence", "revision", "MiB", "state")
    cells = [
        (
            *(row["place"], ", ".join(row["names"]), row["licence"], (row["revision"] or "")[:12]),
            *(f"{row['bytes'] / MIB:,.1f}" if row["bytes"] else "", row["state"]),
        )
        for row in rows
    ]
    out().print(table(None, columns, cells, right="MiB"))


def _row(part: Part, locked: dict[str, Locked]) -> dict[str, Any]:
    from worker.models.here import look
    from worker.models.licence import licence_of
    from worker.models.pull import key

    entry = locked.get(key(part))
    here = look(part, entry)
    licence = licence_of(part, None if entry is None or part.is_local else entry.licence)
    return {
        "place": part.place,
        "names": list(part.names),
        "licence": licence.id,
        "about": licence.about,
        "revision": None if entry is None else entry.revision,
        "bytes": here.size or (0 if entry is None else entry.size),
        "missing": list(here.missing),
        "state": _state(part, entry is not None, bool(here.files), len(here.missing)),
    }


def _state(part: Part, is_locked: bool, any_here: bool, missing: int) -> str:
    if part.is_local and not any_here:
        return "missing"
    if not is_locked:
        return "here, not locked" if part.is_local else "not pulled"
    return f"{missing} files missing" if missing else "here"


@commands.command("pull")
def pull(
    names: Names = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to download into; default: the hub's cache (HF_HOME).")
    ] = None,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option("--accept-licence", metavar="ID", help="A licence you have read and accept; repeat, or `all`."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Take the newest commit of the revision, not the locked one.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; download nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download what is missing, check every byte, and write models.lock. Repeat it after an interruption.

    Only safetensors, ONNX, JSON and text. A locked revision stays until --update.
    """
    settings = _prepared("`portraits models pull`")
    from worker.models import lock
    from worker.models.pull import plan
    from worker.models.pull import pull as do_pull

    parts = _parts(settings, names)
    if dry_run:
        steps = plan(parts, lock.read(lock.path_of(settings)), update=update)
    else:
        tell = (lambda _line: None) if as_json else hint
        steps = do_pull(parts, settings, accepted=accept_licence or (), folder=to, update=update, tell=tell)
    if as_json:
        print_json(
            {"lock": str(lock.path_of(settings)), "fetched": not dry_run, "models": [_step(one) for one in steps]}
        )
        return
    columns = ("model", "for", "licence", "revision", "files", "MiB")
    cells = [
        (
            *(one.part.place, ", ".join(one.part.names), one.licence.id, str(one.commit or "")[:12]),
            *(len(one.files) or "here", f"{one.size / MIB:,.1f}" if one.files else ""),
        )
        for one in steps
    ]
    out().print(table("Would be fetched" if dry_run else None, columns, cells, right="files MiB"))
    for licence in dict.fromkeys(one.licence for one in steps if one.licence.about):
        hint(f"{licence.id}: {licence.about}")
    if not dry_run:
        say(f"locked in {lock.path_of(settings)}")


def _step(step: Step) -> dict[str, Any]:
    return {
        "place": step.part.place,
        "names": list(step.part.names),
        "licence": step.licence.id,
        "about": step.licence.about,
        "revision": step.commit,
        "files": [file.name for file in step.files],
        "bytes": step.size,
    }


@commands.command("verify")
def verify(names: Names = None, as_json: AsJson = False) -> None:
    """Hash every file that is here and compare with models.lock. Exit code 1 if something is not as it was pulled.

    Without names: every profile.
    """
    settings = _prepared("`portraits models verify`")
    from worker.models import lock
    from worker.models.here import damages
    from worker.models.pull import key

    locked = lock.read(lock.path_of(settings))
    found: dict[str, list[str]] = {}
    for part in _parts(settings, names, everything=True):
        entry = locked.get(key(part))
        found[key(part)] = ["it was never pulled, so nothing is known of it"] if entry is None else damages(part, entry)
    bad = {place: told for place, told in found.items() if told}
    if as_json:
        print_json(
            {"lock": str(lock.path_of(settings)), "verified": [p for p in found if p not in bad], "problems": bad}
        )
    for place, told in () if as_json else found.items():
        if told:
            warn(f"{place}: {'; '.join(told[:10])}{f'; and {len(told) - 10} more' if len(told) > 10 else ''}")
        else:
            say(f"{place}: as it was pulled")
    if bad and not as_json:
        hint("`portraits models pull` fetches or locks what is missing")
    raise typer.Exit(Exit.PROBLEM if bad else Exit.OK)


def _prepared(what: str) -> Settings:
    need_worker_extra(what)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when the library is imported, which is later
    return load_settings()


def _parts(settings: Settings, names: list[str] | None, *, everything: bool = False) -> list[Part]:
    """The parts of these profiles, and hub ids as they are; without names those of one profile, or of all.

    Raises ProfileUnknown for what is neither.
    """
    from jobs.profiles import find_profile, load_profiles
    from worker.models.parts import Part, parts_of

    profiles = load_profiles(settings)
    if not names:
        return parts_of(profiles.values() if everything else [find_profile(settings, settings.profile)])
    chosen = [find_profile(settings, name) for name in names if name in profiles or "/" not in name]
    single = [
        Part(name, "file" if name.endswith(".safetensors") else "folder", ("asked for",))
        for name in names
        if name not in profiles and "/" in name
    ]
    return [*parts_of(chosen), *single]
