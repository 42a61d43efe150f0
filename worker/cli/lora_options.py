"""Options that the LoRA commands share, and how they answer."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.extras import need_worker_extra
from worker.cli.options import load_settings
from worker.cli.output import facts, print_json, say

if TYPE_CHECKING:
    from hyperlora.faces import FaceChoice
    from hyperlora.lora import LoRA
    from jobs.settings import Settings
    from worker.lora_tools.maker import LoRAMaker, Person, Place
    from worker.lora_tools.photos import Photo

FACE_WORDS = ("clearest", "largest", "central")
STYLES = {"usable": "green", "warning": "yellow", "refused": "red"}


class Format(StrEnum):
    """How other programs name the tensors."""

    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"
    KOHYA = "kohya"
    PEFT = "peft"


class Branch(StrEnum):
    """Which half of the network: the face, or everything around it."""

    ID = "id"
    BASE = "base"


Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write, .safetensors.")]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Whose weights to use; default: PORTRAITS_PROFILE, else mini.")
]
BranchOption = Annotated[
    Branch, typer.Option("--branch", help="id: the face. base: clothes and surroundings, if the checkpoint has them.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="Whose names the tensors get.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there already.")]


def begin(command: str, profile: str | None) -> tuple[Settings, Place]:
    """What every command that loads weights starts with. Raises ExtraMissing, ProfileUnknown."""
    need_worker_extra(f"`portraits lora {command}`")
    settings = load_settings()
    from worker.quiet import quiet_libraries

    quiet_libraries()
    from jobs.profiles import find_profile
    from worker.lora_tools.maker import Place

    found = find_profile(settings, profile or settings.profile)
    if found.renderer != "hyperlora":
        raise typer.BadParameter(f"profile {found.name} has no HyperLoRA checkpoint (its renderer is {found.renderer})")
    return settings, Place.of(found, settings)


def need_free(out: Path, ending: str, force: bool) -> None:
    """Refuse, before anything is loaded, a file that has another ending or must not be replaced."""
    if out.suffix.lower() != ending:
        raise typer.BadParameter(f"--out must end with {ending}, found {out.name}")
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} is there already; choose another name or add --force")


def need_lora(file: Path) -> None:
    """Refuse, before anything is opened, a LoRA file that is not there, and a folder, pipe or device."""
    if not file.exists():
        raise typer.BadParameter(f"there is no LoRA file {file}")
    if not file.is_file():
        raise typer.BadParameter(f"{file} is no regular file; wanted a LoRA, .safetensors")


def need_different(groups: Sequence[Sequence[Photo]], why: str) -> None:
    """Refuse groups of photos of which two hold the very same files, by their SHA-256; `why` says what that spoils."""
    seen: set[frozenset[str]] = set()
    for photos in groups:
        hashes = frozenset(photo.sha256 for photo in photos)
        if hashes in seen:
            raise typer.BadParameter(f"{', '.join(photo.name for photo in photos)}: the same photos twice; {why}")
        seen.add(hashes)


def parse_faces(texts: Sequence[str] | None) -> list[FaceChoice]:
    """The choices of `--face`: a word, or a number from left to right. Raises BadParameter."""
    choices: list[FaceChoice] = []
    for text in texts or ():
        if text in FACE_WORDS:
            choices.append(text)  # type: ignore[arg-type]  # one of the literal words
        elif len(text) == 1 and text in "0123456789":
            choices.append(int(text))
        else:
            wanted = f"{', '.join(FACE_WORDS)} or a number from 0 to 9"
            raise typer.BadParameter(f"wanted {wanted}, found {text!r}", param_hint="--face")
    return choices


def read_person(maker: LoRAMaker, photos: Sequence[Photo], faces: Sequence[FaceChoice] = ()) -> Person:
    """The person of these photos. Raises NoUsablePhoto."""
    from worker.lora_tools.photos import face_for_each

    try:
        return maker.read(photos, face_for_each(faces, len(photos)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--face") from None


def write(data: bytes, out: Path) -> None:
    """Put the bytes there, whole or not at all. Raises OutputRefused."""
    from worker.results import OutputRefused

    part = out.with_name(f".{out.name}-{secrets.token_hex(4)}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, out)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputRefused(f"{out} cannot be written: {error.strerror or error}") from error


def save(lora: LoRA, out: Path, form: Format) -> dict[str, Any]:
    """Write a LoRA; the facts of the file. Raises NonFiniteWeights, LoRAMismatch, OutputRefused."""
    data = lora.to_bytes(form.value)
    write(data, out)
    return {
        "out": str(out),
        "format": form.value,
        "layers": len(lora.layers),
        "rank": lora.rank,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "trigger_words": lora.metadata.get("hyperlora_trigger_words", ""),
    }


def told(person: Person) -> dict[str, Any]:
    """A person's photos with their verdicts, for JSON."""
    photos = [
        {"photo": photo.name, **{name: value for name, value in asdict(verdict).items() if name != "index"}}
        for photo, verdict in zip(person.photos, person.conditions.verdicts, strict=True)
    ]
    return {"photos": photos, "likeness": person.likeness}


def answer(made: dict[str, Any], people: dict[str, Person], *, as_json: bool, **more: Any) -> None:
    """Tell what was made from whom; only photos that have something to be said about are listed for people."""
    if as_json:
        print_json({**made, **more, "people": [{"role": role, **told(person)} for role, person in people.items()]})
        return
    for role, person in people.items():
        alike = f", photos alike by {person.likeness:.2f} at least" if person.likeness is not None else ""
        say(f"{role}: {len(person.conditions.used)} of {len(person.photos)} photos used{alike}")
        for one in told(person)["photos"]:
            if one["reason"]:
                say(f"  {one['verdict']:<8} {one['photo']}: {one['reason']} ({one['code']})", STYLES[one["verdict"]])
    tell_file(made)


def tell_file(made: dict[str, Any]) -> None:
    """The written file, in words."""
    kilobytes = f"{made['size_bytes'] / 1000:,.0f} kB"
    say(f"{made['out']}: {made['layers']} layers of rank {made['rank']}, {kilobytes}, {made['format']} names")
    if made["trigger_words"]:
        facts({"begin prompts with": made["trigger_words"]})
