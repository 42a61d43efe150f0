"""`portraits dataset`: photos become a set to train on; a set says what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson
from worker.cli.output import err, facts, hint, print_json, say, warn

if TYPE_CHECKING:
    from hyperlora.dataset.info import DatasetInfo
    from hyperlora.dataset.preparation import Prepared

commands = typer.Typer(help="Sets of portraits to train on: prepare, inspect.", no_args_is_help=True)


class Captions(StrEnum):
    """Where captions come from."""

    FILE = "file"
    TEMPLATE = "template"
    NONE = "none"


@commands.command("prepare")
def prepare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Folders of photos, webdataset tars, or folders of these.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the set; a broken-off one is gone on with.")],
    clip_vision: Annotated[
        str | None, typer.Option("--clip-vision", metavar="FOLDER|ID", help="Store tokens of this CLIP vision tower.")
    ] = None,
    faces: Annotated[str, typer.Option("--faces", help="opencv or insightface:<folder>.")] = "opencv",
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="FOLDER|ID", help="Store latents of this SDXL model's autoencoder.")
    ] = None,
    size: Annotated[int, typer.Option("--size", min=32, max=4096, help="Pixels of a side.")] = 1024,
    captions: Annotated[
        Captions, typer.Option("--captions", help="file: .txt or .json beside the photo. template: --template.")
    ] = Captions.FILE,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", help="A caption in which {name} is a label; several are taken in turn."),
    ] = None,
    min_face: Annotated[float, typer.Option("--min-face", min=0, help="Pixels of the face's shorter side.")] = 96,
    min_sharpness: Annotated[
        float, typer.Option("--min-sharpness", min=0, help="Variance of the Laplacian of the face.")
    ] = 16,
    min_side: Annotated[
        int | None,
        typer.Option("--min-side", min=1, help="Pixels of the photo's shorter side; default: --size / 2."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="CODE", help="Keep photos of this finding, e.g. turned_face; repeatable."),
    ] = None,
    people: Annotated[
        bool, typer.Option("--people/--no-people", help="The first folders of an input are people.")
    ] = True,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Photos looked at for one shard.")] = 1000,
    workers: Annotated[int, typer.Option("--workers", min=1, max=256, help="Processes beside each other.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Find faces, keep sharp photos of one person, cut and caption them, write shards and a report.

    The report, `report.html` in the folder, shows what was dropped and why. The same command again goes on where it
    was broken off; finished shards are not made again.
    """
    need_worker_extra("`portraits dataset prepare`")
    from hyperlora.dataset.captions import DEFAULT_TEMPLATE
    from hyperlora.dataset.encoders import EncoderNames
    from hyperlora.dataset.preparation import Preparation
    from hyperlora.dataset.preparation import prepare as make
    from hyperlora.dataset.screen import REFUSED_FINDINGS, Rules
    from worker.quiet import quiet_libraries

    unknown = sorted(set(allow or ()) - REFUSED_FINDINGS)
    if unknown:
        raise typer.BadParameter(
            f"wanted {', '.join(sorted(REFUSED_FINDINGS))}, found {', '.join(unknown)}", param_hint="--allow"
        )
    if template and captions is not Captions.TEMPLATE:
        raise typer.BadParameter("--template needs --captions template", param_hint="--template")
    quiet_libraries()
    rules = Rules(
        size=size,
        min_face=min_face,
        min_sharpness=min_sharpness,
        min_side=min_side,
        allowed=tuple(sorted(set(allow or ()))),
        captions=captions.value,
        templates=tuple(template or (DEFAULT_TEMPLATE,)),
    )
    encoders = EncoderNames(faces, clip_vision, vae, device)
    wanted = Preparation(tuple(inputs), out, rules, encoders, shard_size=shard_size, people=people)
    with _progress("looking at photos") as on_photo:
        made = make(wanted, workers=workers, on_photo=on_photo)
    _answer_prepared(made, out, as_json)


@commands.command("inspect")
def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder of a prepared set.")],
    as_json: AsJson = False,
) -> None:
    """Say what a set holds, and read all of it to see whether it is still what was written. Exit code 1 if not."""
    need_worker_extra("`portraits dataset inspect`")
    from hyperlora.dataset.integrity import inspect as look

    with _progress("reading shards") as on_shard:
        found = look(folder, on_shard=on_shard)
    if as_json:
        told = {"folder": str(folder), **_told(found.info), "size_bytes": found.size_bytes}
        print_json({**told, "faults": found.faults})
    else:
        _tell(folder, found.info, found.size_bytes)
        for fault in found.faults:
            warn(fault)
        say("every shard is as it was written" if not found.faults else f"{len(found.faults)} faults found")
    if found.faults:
        raise typer.Exit(Exit.PROBLEM)


def _answer_prepared(made: Prepared, out: Path, as_json: bool) -> None:
    if as_json:
        told = {"folder": str(out), **_told(made.info), "looked_at": made.looked_at, "dropped": made.dropped}
        print_json({**told, "people": made.people, "report": str(made.report), "shards_resumed": made.resumed})
        return
    say(f"{made.info.count:,} of {made.looked_at:,} photos kept, in {len(made.info.shards):,} shards at {out}")
    if made.people:
        say(f"  {made.people:,} people")
    for code, count in made.dropped.items():
        say(f"  {count:>9,} dropped: {code}")
    if made.resumed:
        hint(f"{made.resumed:,} finished blocks of an earlier call were taken as they are")
    hint(f"what was dropped and why: {made.report}")


def _told(info: DatasetInfo) -> dict[str, Any]:
    """The description for JSON; the shards by their number alone."""
    data = info.model_dump(mode="json")
    return {**data, "shards": len(info.shards)}


def _tell(folder: Path, info: DatasetInfo, size_bytes: int) -> None:
    tokens = f"{info.clip_tokens[0]} x {info.clip_tokens[1]} of {info.clip_vision}" if info.clip_tokens else "none"
    latents = " x ".join(map(str, info.latents)) if info.latents else "none"
    say(f"{folder}: {info.count:,} portraits of {info.image_size} pixels in {len(info.shards):,} shards")
    facts(
        {
            "bytes": f"{size_bytes:,}",
            "face embeddings": f"{info.face_width} numbers of {info.face_encoder}" if info.face_width else "none",
            "CLIP tokens": tokens,
            "latents": f"{latents} of the autoencoder {info.vae[:12]}..." if info.latents and info.vae else latents,
        }
    )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left on stderr, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = err()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
