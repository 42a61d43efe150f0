"""`portraits lora generate | mix | slide`: photos become LoRA files, without a job and without a database."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.lora_options import (
    Branch,
    BranchOption,
    Force,
    Format,
    FormatOption,
    Out,
    Profile,
    answer,
    begin,
    need_different,
    need_free,
    parse_faces,
    read_person,
    save,
)
from worker.cli.options import AsJson

MIN_MIXED, MAX_MIXED = 2, 8
_PHOTOS = "a file, a folder, or several with commas between them"
Face = Annotated[
    list[str] | None,
    typer.Option(
        "--face",
        help="Where a photo shows several: clearest, largest, central, or 0 to 9 from left to right. "
        "Once for all photos, or once for each.",
    ),
]


def generate(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Photos of one person, or a folder of them.")],
    out: Out,
    profile: Profile = None,
    branch: BranchOption = Branch.ID,
    form: FormatOption = Format.DIFFUSERS,
    face: Face = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make one person's LoRA from their photos, in one pass of the hypernetwork.

    The file is the weight set that a job would use, readable by diffusers, ComfyUI, kohya's scripts or peft. Apply it
    with a weight of 0.75 to 0.85, and begin prompts with the trigger words that the command names.
    """
    need_free(out, ".safetensors", force)
    faces = parse_faces(face)
    settings, place = begin("generate", profile)
    from worker.lora_tools.maker import LoRAMaker
    from worker.lora_tools.photos import read_photos

    found = read_photos(photos, settings)
    maker = LoRAMaker.load(place)
    person = read_person(maker, found, faces)
    made = save(maker.generate(person, branch.value), out, form)
    answer(made, {"person": person}, as_json=as_json, kind="photos", branch=branch.value)


def mix(
    people: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS=WEIGHT...",
            help=f"Two to eight people: the photos of each ({_PHOTOS}), and how much of them.",
        ),
    ],
    out: Out,
    profile: Profile = None,
    branch: BranchOption = Branch.ID,
    form: FormatOption = Format.DIFFUSERS,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make the LoRA of a person between two to eight others.

    The people's coefficients are mixed, not their LoRAs, and put back on the unit sphere: the result is as strong as
    any single person's. Only the proportion of the weights counts: 0.6 and 0.4 is the same as 3 and 2.
    """
    need_free(out, ".safetensors", force)
    asked = _weighted(people)
    settings, place = begin("mix", profile)
    from worker.lora_tools.maker import LoRAMaker
    from worker.lora_tools.photos import read_photos

    found = [(read_photos([names], settings), weight) for names, weight in asked]
    need_different([photos for photos, _ in found], "a mix needs different people; a lone one is `lora generate`'s")
    maker = LoRAMaker.load(place)
    read = [(read_person(maker, photos), weight) for photos, weight in found]
    made = save(maker.mix(read, branch.value), out, form)
    roles = {f"person {number}, weight {weight:g}": one for number, (one, weight) in enumerate(read, 1)}
    answer(made, roles, as_json=as_json, kind="mix", branch=branch.value)


def slide(
    edited: Annotated[
        list[str], typer.Option("--edited", metavar="PHOTOS", help=f"Photos with the change: {_PHOTOS}.")
    ],
    original: Annotated[list[str], typer.Option("--original", metavar="PHOTOS", help="Photos of the same without it.")],
    out: Out,
    profile: Profile = None,
    branch: BranchOption = Branch.ID,
    form: FormatOption = Format.DIFFUSERS,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a concept slider: the LoRA of edited photos minus that of the original ones.

    Apply it beside a person's LoRA: a weight above zero adds what the edit added (a smile, glasses, years), below zero
    takes it away. The difference is exact, so its rank is twice a person's.
    """
    need_free(out, ".safetensors", force)
    settings, place = begin("slide", profile)
    from worker.lora_tools.maker import LoRAMaker
    from worker.lora_tools.photos import read_photos

    photos = [read_photos(names, settings) for names in (edited, original)]
    need_different(photos, "a slider needs photos with the change and others without it, else it does nothing")
    maker = LoRAMaker.load(place)
    sides = [read_person(maker, one) for one in photos]
    made = save(maker.slide(sides[0], sides[1], branch.value), out, form)
    answer(made, {"edited": sides[0], "original": sides[1]}, as_json=as_json, kind="slider", branch=branch.value)


def _weighted(texts: list[str]) -> list[tuple[str, float]]:
    """Photos and weight of each person. The last `=` separates them: a file's name may hold others."""
    if not MIN_MIXED <= len(texts) <= MAX_MIXED:
        raise typer.BadParameter(f"wanted {MIN_MIXED} to {MAX_MIXED} people, found {len(texts)}")
    asked = []
    for text in texts:
        names, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not names or not 0 < weight < float("inf"):
            raise typer.BadParameter(
                f"wanted photos=weight with a weight above zero, as in ada.jpg=0.6, found {text!r}"
            )
        asked.append((names, weight))
    return asked
