"""`portraits lora strip`: what a LoRA does at several weights, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.lora_options import Force, Profile, begin, need_free, need_lora, write
from worker.cli.options import AsJson
from worker.cli.output import print_json, say

MAX_FILES, MAX_WEIGHTS = 8, 12


def strip(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="LoRA files; each gets a row.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write, .png.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What to draw.")] = "portrait photo of a person",
    weights: Annotated[str, typer.Option("--weights", help="LoRA weights with commas between them.")] = "0,0.4,0.8,1.2",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same for every picture.")] = 1,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Default: the profile's, else 20.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Side in pixels; default: the base model's.")] = None,
    profile: Profile = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Draw a strip of pictures: the same prompt and seed, each LoRA at each weight.

    It loads the profile's base model. A weight of 0 is the base model alone.
    """
    need_free(out, ".png", force)
    numbers = _weights(weights)
    if len(files) > MAX_FILES:
        raise typer.BadParameter(f"at most {MAX_FILES} files fit on a strip, found {len(files)}")
    settings, place = begin("strip", profile)
    for file in files:
        need_lora(file)
    if size is not None and not 1 <= size <= settings.max_side:
        raise typer.BadParameter(f"wanted 1 to {settings.max_side} pixels, found {size}", param_hint="--size")
    from hyperlora.lora import LoRA
    from worker.lora_tools.drawing import Drawer
    from worker.lora_tools.strip import Row, Strip, Tile, draw_strip
    from worker.marking.marker import Marker
    from worker.version import package_version

    loras = [LoRA.load(file) for file in files]
    drawer = Drawer.load(place)
    rows = []
    for file, lora in zip(files, loras, strict=True):
        drawn = drawer.at_weights(lora, numbers, prompt=prompt, seed=seed, steps=steps, size=size)
        tiles = [Tile(image, f"weight {weight:g}") for image, weight in zip(drawn, numbers, strict=True)]
        rows.append(Row(file.name, tiles))
    page = draw_strip(Strip(f"{prompt}, seed {seed}", rows, place.profile.notice))
    write(Marker(settings, version=package_version()).page(page), out)
    if as_json:
        told = {"out": out, "files": files, "weights": numbers, "prompt": prompt, "seed": seed}
        print_json({**told, "notice": place.profile.notice})
    else:
        say(f"{out}: {len(files)} by {len(numbers)} pictures")


def _weights(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"wanted numbers with commas between them, found {text!r}") from None
    if len(numbers) > MAX_WEIGHTS or not all(abs(number) < float("inf") for number in numbers):
        raise typer.BadParameter(f"wanted 1 to {MAX_WEIGHTS} finite weights, found {text!r}")
    return numbers
