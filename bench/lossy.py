#!/usr/bin/env python
"""Lossy speed-ups: how much faster, and what they change in pictures, beside the exact pictures of the same seeds.

    python bench/lossy.py                                              the mini pack on a CPU
    python bench/lossy.py --device cuda --profile realvis --photos people/       a folder of photos for each person
    python bench/lossy.py --device cuda --model sdxl                   random weights: speed and PSNR, nobody to know
    python bench/lossy.py --profile realvis --beside realvis-lightning           a few-step preset, as another profile
    python bench/lossy.py --ways exact,int8,cache-2 --sheet sheet.png            fewer, and a picture of them

All ways draw the same people, prompts and seeds with the same LoRAs, and take their turns in time. The ways:

    int8, fp8, fp8-emulated     linear layers in 8 bits; fp8 needs a GPU that has it, emulated it is slower than exact
    cache-2, cache-3            the UNet's deep part in every second, third step
    int8+cache-2, fp8+cache-2   both
    half-the-steps              nothing but fewer steps: what a lossy way should beat
    another-seed                no speed-up, but the scale: how far apart two pictures of one prompt are

Measures: PSNR to the exact picture; the distance of what the profile's CLIP tower sees (1 - cosine of its mean token);
the cosine of the judge's embeddings to the exact picture, and to the person's own portraits; rank-1 among the people;
attributes of the prompt that the judge reads, where it reads any. The judge has no part in drawing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import common
from bench.lossy_people import Asked, people_of
from bench.lossy_pictures import Pictures, compared, told
from bench.lossy_ways import COLUMNS, EXACT_WAY, WAYS, Drawer, default_ways
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.judges import Judge, load_judge
from worker.evaluation import MINI_JUDGE, is_mini, load_model
from worker.quiet import quiet_libraries

SHOWN = 6


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Draw every way, compare with the exact pictures, and time all in turns."""
    quiet_libraries()
    with tempfile.TemporaryDirectory() as home:
        settings = common.settings(options, Path(home))
        changes = {} if options.steps is None else {"steps": options.steps}
        model = load_model(settings, pack=None, profile=options.profile, changes=changes)
        asked = people_of(model, options, settings)
        judge = _judge(model, options, asked)
        drawer = Drawer(model, asked, compile_as=options.compile)
        drawn = {name: drawer.pictures(WAYS[name]) for name in options.ways}
        if options.beside:
            other = load_model(settings, pack=None, profile=options.beside, changes={})
            drawn[options.beside] = Drawer(other, asked).pictures(WAYS[EXACT_WAY])
        exact = drawn[EXACT_WAY]
        rows = {name: compared(found, exact, asked, model.clip, judge) for name, found in drawn.items()}
        found = {
            "profile": model.name,
            "size": model.setting.size,
            "steps": model.setting.steps,
            "people": len(asked),
            "pictures": sum(len(one.prompts) for one in asked),
            "judge": None if judge is None else judge.name,
            **drawer.times(options.ways, options),
            "pictures_changed": rows,
        }
        if options.sheet:
            _sheet(drawn, asked).draw().save(options.sheet)
        return found


def _judge(model: Any, options: argparse.Namespace, asked: Sequence[Asked]) -> Judge | None:
    """Who knows the people; nobody where they are nobody."""
    if any(one.gallery is None for one in asked):
        return None
    spec = options.judge or (str(MINI_JUDGE) if is_mini(model) else "sface")
    return load_judge(spec, conditioning=model.analyzer)


def _sheet(drawn: dict[str, Pictures], asked: Sequence[Asked]) -> Grid:
    """Everybody's first picture, the ways side by side."""
    rows = [
        (one.name, [pictures.images[row][0] for pictures in drawn.values()]) for row, one in enumerate(asked[:SHOWN])
    ]
    return Grid("The same people, prompts and seeds", list(drawn), rows)


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    head = (
        f"profile {found['profile']}, {found['size']} px, {found['steps']} steps, {found['people']} people, "
        f"{found['pictures']} pictures a way, batches of {found['batch']}, compile {found['compile']}, "
        f"judge {found['judge'] or 'none'}"
    )
    rows = [
        [
            name,
            *(
                (found["faster"][name].told(), f"{1e3 * found['step_seconds'][name].median:.1f}")
                if name in found["faster"]
                else ("", "")
            ),
            f"{found['change_ms'][name]:.1f}" if name in found["change_ms"] else "",
            *told(measures),
        ]
        for name, measures in found["pictures_changed"].items()
    ]
    return "\n\n".join([head, common.table(COLUMNS, rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    parser = common.parser(__doc__, repeat=5)
    common.add_profile_lines(parser)
    parser.add_argument("--ways", help=f"with commas, of {', '.join(WAYS)}; default: those that the device can")
    parser.add_argument("--beside", help="another profile that draws the same, such as one with a few-step preset")
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=4, help="pictures of each")
    parser.add_argument("--photos", type=Path, help="a folder with a folder of photos for each person")
    parser.add_argument("--judge", help="default: the mini world's, else sface")
    parser.add_argument("--steps", type=int, help="default: the profile's")
    parser.add_argument("--batch", type=int, help="pictures of the timed batch; default: the profile's, at most 8")
    parser.add_argument("--compile", choices=("off", "blocks"), help="default: blocks on a GPU")
    parser.add_argument("--sheet", type=Path, help="write a picture of all ways side by side")
    options = common.parsed(parser, arguments)
    options.compile = options.compile or ("blocks" if options.device.type == "cuda" else "off")
    options.ways = default_ways(options.device) if options.ways is None else options.ways.split(",")
    options.ways = [EXACT_WAY, *(name for name in options.ways if name != EXACT_WAY)]
    unknown = [name for name in options.ways if name not in WAYS]
    if unknown:
        print(f"no way is called {unknown[0]!r}; known: {', '.join(WAYS)}", file=sys.stderr)
        raise SystemExit(2)
    if options.toy:
        options.people, options.prompts, options.steps, options.batch = 2, 1, 3, 1
    found = measure(options)
    common.finish("lossy", found, markdown(found), options)


if __name__ == "__main__":
    main()
