"""`portraits check`: faces in the photos, before anything is enqueued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.exits import Exit
from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson, load_settings
from worker.cli.output import print_json, say

if TYPE_CHECKING:
    from jobs.settings import Settings
    from worker.face_check import PersonLook, PersonPhotos

MANIFEST_ENDINGS = {".yaml", ".yml", ".json", ".jsonl", ".ndjson", ".csv", ".tsv"}
STYLES = {"usable": "green", "warning": "yellow", "refused": "red"}


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="MANIFEST | PHOTOS...", help="A manifest, photos of one person, or a folder for each."),
    ],
    job: Annotated[Path | None, typer.Option("--job", help="File with the job part of a CSV manifest.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="File with the prompts.")] = None,
    faces: Annotated[
        str | None,
        typer.Option("--faces", help="opencv or insightface:<folder>; default: what the profile says."),
    ] = None,
    debug: Annotated[
        Path | None,
        typer.Option(
            "--debug", "--debug-dir", metavar="DIR", help="Save a picture for each photo that shows what was found."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the face in every photo, as a worker will. Exit code 1 if somebody has no usable photo.

    A manifest is checked whole first; people made of others have no photos of their own and are left out.
    Needs `pip install 'hyperlora-portraits[worker]'`, but no model weights.
    """
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise typer.BadParameter(f"{path} is no regular file; wanted a manifest, photos or folders of them")
    need_worker_extra("`portraits check`")
    settings = load_settings()
    from hyperlora.faces import load_analyzer
    from worker.face_check import look

    looks: list[PersonLook] = []
    with ExitStack() as opened:
        profile, people = _people(paths, job, prompts, settings, opened)
        analyzer = load_analyzer(faces or _faces_of(profile, settings))
        for person in people:
            looks.append(look(analyzer, person, settings, debug_folder=debug))
            if not as_json:
                _tell(looks[-1])
    unusable = [one.identity for one in looks if not one.usable]
    if as_json:
        told = [{**asdict(one), "usable": one.usable} for one in looks]
        print_json({"analyzer": analyzer.name, "people": told, "unusable": unusable})
    else:
        say(f"{len(looks) - len(unusable)} of {len(looks)} people can be drawn, says {analyzer.name}")
    if unusable:
        raise typer.Exit(Exit.PROBLEM)


def _people(
    paths: list[Path], job: Path | None, prompts: Path | None, settings: Settings, opened: ExitStack
) -> tuple[str, Iterator[PersonPhotos]]:
    """The profile, and the people with their photos: of a manifest, which stays open in `opened`, or of paths."""
    from jobs.manifest import open_manifest
    from worker.face_check import PersonPhotos, photos_in

    if len(paths) > 1 or paths[0].suffix.lower() not in MANIFEST_ENDINGS:
        return settings.profile, photos_in(paths, settings)
    manifest = opened.enter_context(open_manifest(paths[0], settings=settings, job_file=job, prompts_file=prompts))
    manifest.check()
    return manifest.job.profile, (
        PersonPhotos(
            person.external_id,
            [(photo.source, manifest.read_photo(photo)) for photo in person.photos],
            faces=person.faces,
        )
        for person in manifest.people()
        if person.photos
    )


def _faces_of(profile: str, settings: Settings) -> str:
    from jobs.profiles import find_profile

    return find_profile(settings, profile).faces


def _tell(found: PersonLook) -> None:
    alike = f", photos alike by {found.likeness:.2f} at least" if found.likeness is not None else ""
    say(f"{found.identity}: {'usable' if found.usable else 'NOT USABLE'}{alike}", "" if found.usable else "bold red")
    for one in found.photos:
        reason = f": {one.reason} ({one.code})" if one.reason else ""
        say(f"  {one.verdict:<8} {one.photo}{reason}", STYLES[one.verdict])
