#!/usr/bin/env python
"""How the cost of a job grows: people, prompts, photos, size and steps, one at a time, through the whole product.

    python bench/scale.py                                          toy size: the mini pack on a CPU
    python bench/scale.py --device cuda --people 2 --prompts 8     SDXL with random weights
    python bench/scale.py --factors people,steps --steps-to 8,16,32

Each factor is varied around the same small job, in jobs whose turns alternate. Two fits are told: seconds = fixed +
slope * factor, and the exponent of seconds ~ factor ** exponent (1: proportional; of a size, 2 is as its pixels). Where
networks are compiled, it is for the job's own size: others run as in a worker that was not told of them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import common
from bench.product import Asked, Product, add_job_lines
from worker.quiet import quiet_libraries

FACTORS = ("people", "prompts", "photos", "size", "steps")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every factor, its values in turn."""
    with tempfile.TemporaryDirectory() as folder:
        product = Product(options, Path(folder))
        asked = product.asked(options)
        factors = {
            name: _varied(product, asked, name, _values(name, asked, options), options) for name in options.factors
        }
        product.close()
    return {"profile": options.profile, "asked_of_each": vars(asked), "factors": factors}


def _values(name: str, asked: Asked, options: argparse.Namespace) -> list[int]:
    """Those of the command's lines, else the job's own value, and a half and a double of it where that can be."""
    given: list[int] | None = getattr(options, f"{name}_to")
    if given:
        return given
    base: int = getattr(asked, name)
    if name == "size":
        return [base // 2, base, base * 3 // 2]
    return [base, 2 * base, 4 * base]


def _varied(
    product: Product, asked: Asked, name: str, values: Sequence[int], options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of jobs that differ in one thing."""
    jobs = {str(value): replace(asked, **{name: value}) for value in values}
    ways = {value: (lambda job=job: product.job(job).seconds) for value, job in jobs.items()}
    turns = common.take_rounds(ways, options)
    spreads = [turns.spread(value) for value in jobs]
    seconds = [each.median for each in spreads]
    rows = [
        {"value": value, "pictures": job.pictures, "seconds": spread}
        for value, job, spread in zip(values, jobs.values(), spreads, strict=True)
    ]
    return {"rows": rows, **fitted([float(value) for value in values], seconds)}


def fitted(values: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Least squares: `fixed` and `slope` of a line in seconds, and the `exponent` of a power law."""
    slope, fixed = _line(values, seconds)
    exponent, _ = _line([math.log(value) for value in values], [math.log(each) for each in seconds])
    return {"fixed_seconds": fixed, "slope_seconds": slope, "exponent": exponent}


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope and height at 0 of the straight line that is nearest."""
    middle, height = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle) ** 2 for x in xs)
    slope = sum((x - middle) * (y - height) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
    return slope, height - slope * middle


def markdown(found: dict[str, Any]) -> str:
    """The tables of a result."""
    asked = found["asked_of_each"]
    head = (
        f"profile {found['profile']}; varied around {asked['people']} people x {asked['prompts']} prompts, "
        f"{asked['photos']} photos each, {asked['size']} px, {asked['steps']} steps, batches of {asked['batch']}"
    )
    rows = [
        (name, row["value"], row["pictures"], row["seconds"].told(), f"{row['pictures'] / row['seconds'].median:.2f}")
        for name, factor in found["factors"].items()
        for row in factor["rows"]
    ]
    fits = [
        (name, f"{each['fixed_seconds']:.2f}", f"{each['slope_seconds']:.4f}", f"{each['exponent']:.2f}")
        for name, each in found["factors"].items()
    ]
    table = common.table(("factor", "value", "pictures", "seconds", "images/s"), rows)
    fit = common.table(("factor", "fixed, s", "s for one more", "exponent"), fits)
    return f"{head}\n\n{table}\n\n{fit}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    made = common.parser(__doc__, repeat=3)
    add_job_lines(made, people=2, prompts=4)
    made.add_argument(
        "--factors", type=lambda text: text.split(","), default=list(FACTORS), help="of " + ",".join(FACTORS)
    )
    for name in FACTORS:
        made.add_argument(f"--{name}-to", type=common.numbers, help=f"values of {name}, with commas")
    options = common.parsed(made, arguments)
    if unknown := [name for name in options.factors if name not in FACTORS]:
        made.error(f"unknown factor {unknown[0]!r}, known: {', '.join(FACTORS)}")
    if options.toy:
        options.people, options.prompts, options.steps = 1, 1, 1
        options.people_to, options.size_to, options.steps_to = [1, 2], [64, 96], [1, 4]
        options.factors = [name for name in options.factors if getattr(options, f"{name}_to")]
    quiet_libraries()
    found = measure(options)
    common.finish("scale", found, markdown(found), options)


if __name__ == "__main__":
    main()
