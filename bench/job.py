#!/usr/bin/env python
"""A whole job through queue, database and storage, beside the loops that a user would write with diffusers.

    python bench/job.py                                       toy size: the mini pack on a CPU
    python bench/job.py --device cuda --targets               SDXL with random weights, 1024 pixels, 20 steps
    python bench/job.py --profile realvis --profiles-file profiles.toml --people 4 --prompts 16 --repeat 3

All of it in one process, each way once a round; ratios are of images a second within a round. What is compared:

    portraits        enqueue, then a shift: photos, weight sets made anew, full batches, PNG files and rows
    bare             the same compiled UNet and VAE in the same batches, the LoRAs in memory: no photos, queue,
                     database, storage or PNG
    loop             diffusers: load_lora_weights of a stored file for each person, one picture at a time, unmerged
    batched loop     the same, one person's pictures in batches

The last two take long: they may draw for fewer people (--loop-people), each with all prompts. Idle is the share of the
time between the first batch and the last in which nothing was drawn. Time to the first picture: bench/first.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import common, targets
from bench.diffusers_loop import DiffusersLoop, save_loras
from bench.product import Asked, Done, Product, add_job_lines
from worker.lora_tools.maker import Place
from worker.quiet import quiet_libraries

WAYS = ("portraits", "bare", "loop", "batched loop")
STAGES = ("weights", "merge", "denoise", "decode", "encode", "upload")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All ways in turn."""
    with tempfile.TemporaryDirectory() as folder:
        product = Product(options, Path(folder))
        asked = product.asked(options)
        jobs: list[Done] = []
        ways = _ways(product, asked, options, jobs)
        turns = common.take_rounds(ways, options)
        product.close()
    return {**_told(asked, options), **_rates(turns, asked, options), **_of_jobs(jobs[-options.repeat :], asked)}


def _ways(
    product: Product, asked: Asked, options: argparse.Namespace, jobs: list[Done]
) -> dict[str, Callable[[], object]]:
    loras = product.loras(asked)
    ways: dict[str, Callable[[], object]] = {
        "portraits": lambda: jobs.append(product.job(asked)),
        "bare": lambda: product.bare(asked, loras),
    }
    if options.loop_people:
        files = save_loras(loras[: options.loop_people], product.home)
        place = Place.of(product.profile, product.settings)
        words = product.renderer.final_prompt("").strip(", ")
        theirs = DiffusersLoop(place.profile.base, options.device, place.dtype, trigger_words=words)
        ways["loop"] = lambda: theirs.draw(asked, files, batch=1)
        ways["batched loop"] = lambda: theirs.draw(asked, files, batch=asked.batch)
    return ways


def _told(asked: Asked, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "profile": options.profile,
        "people": asked.people,
        "prompts": asked.prompts,
        "photos": asked.photos,
        "size": asked.size,
        "steps": asked.steps,
        "guidance": asked.guidance,
        "batch": asked.batch,
        "loop_people": options.loop_people,
    }


def _rates(turns: common.Turns, asked: Asked, options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of each way, and how many times as fast the product is, round by round."""
    drawn = {name: asked.pictures for name in turns.seconds}
    drawn |= {name: options.loop_people * asked.prompts for name in WAYS[2:] if name in drawn}
    rates = {name: turns.spread(name).inverse(drawn[name]) for name in turns.seconds}
    against = {
        name: turns.faster("portraits", name).scaled(drawn["portraits"] / drawn[name])
        for name in turns.seconds
        if name != "portraits"
    }
    return {"images_per_second": rates, "portraits_against": against}


def _of_jobs(jobs: Sequence[Done], asked: Asked) -> dict[str, Any]:
    """What the product itself tells: idle share, the first picture, and what each stage took a picture."""
    return {
        "idle_share": common.Spread.of([done.report.idle_share for done in jobs]),
        "first_picture_seconds": common.Spread.of([done.first_seconds for done in jobs]),
        "seconds_per_picture": {
            name: common.Spread.of([done.stage(name) / asked.pictures for done in jobs]) for name in STAGES
        },
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def markdown(found: dict[str, Any]) -> str:
    """The tables of a result."""
    asked = (
        f"{found['people']} people x {found['prompts']} prompts, {found['photos']} photos each, {found['size']} px, "
        f"{found['steps']} steps, guidance {found['guidance']:g}, batches of {found['batch']}, profile "
        f"{found['profile']}; medians, in brackets quartiles"
    )
    rows = [
        (name, rate.told(3), found["portraits_against"][name].told() if name in found["portraits_against"] else "1")
        for name, rate in found["images_per_second"].items()
    ]
    table = common.table(("way", "images/s", "portraits is so many times as fast"), rows)
    stages = ", ".join(f"{name} {1000 * each.median:.1f}" for name, each in found["seconds_per_picture"].items())
    more = (
        f"Nothing was drawn in {100 * found['idle_share'].median:.1f} % of the time between the first and the last "
        f"batch; the first picture was recorded after {found['first_picture_seconds'].told()} s. A picture's share, "
        f"ms: {stages}."
    )
    return f"{asked}\n\n{table}\n\n{more}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print Markdown, write JSON; with --targets 1 where one is missed."""
    made = common.parser(__doc__, repeat=3)
    add_job_lines(made, people=3, prompts=8)
    made.add_argument("--loop-people", type=int, help="people for whom diffusers' loops draw; 0: none; default: all")
    made.add_argument("--targets", action="store_true", help="show the figures beside what is wanted of an H100")
    options = common.parsed(made, arguments)
    if options.toy:
        options.people, options.prompts, options.steps = 2, 3, 2
    options.loop_people = options.people if options.loop_people is None else min(options.loop_people, options.people)
    quiet_libraries()
    found = measure(options)
    result = common.finish("job", found, markdown(found), options)
    if not options.targets:
        return 0
    table, missed = targets.table([result])
    print(f"\n{table}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
