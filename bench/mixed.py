#!/usr/bin/env python
"""People with few prompts: drawn one after another, or several in a batch.

    python bench/mixed.py                                   toy size: the mini pack on a CPU
    python bench/mixed.py --device cuda                     SDXL with random weights
    python bench/mixed.py --profile realvis --profiles-file profiles.toml --each 1,2,4,20,100 --pictures 200

For every number of prompts a person, on one machine in one run:

    planned        what a worker does: it chooses by the costs that are measured first
    apart          one person after another, merged
    together       everybody's pictures in full batches, each with LoRAs of its own

Measured are batches as they are drawn, without queue and files. Beside it stands what the costs foretell, and the best
that any choice of left-over batches could reach (bench/plan.py has more of that). The share of mixed batches is that of
full batches of different people in the throughput of full merged ones, in pairs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from bench import common
from jobs.profiles import find_profile
from worker.calibration import Asked, measure_costs
from worker.costs import Costs
from worker.quiet import quiet_libraries
from worker.renderer import Sample, Setting
from worker.sdxl import SdxlRenderer

Batches = list[list[int]]
"""For each batch whose pictures it holds: the number of the person, once a picture."""


def apart(people: int, each: int, size: int) -> Batches:
    """Everybody's pictures in batches of their own."""
    return [[who] * min(size, each - start) for who in range(people) for start in range(0, each, size)]


def together(people: int, each: int, size: int) -> Batches:
    """All pictures, in full batches."""
    rows = [who for who in range(people) for _ in range(each)]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def planned(people: int, each: int, size: int, costs: Costs, steps: int) -> Batches:
    """As a worker plans: left-over batches are put together where that is cheaper."""
    plan = apart(people, each, size)
    rest = [batch for batch in plan if len(batch) < size]
    chosen = costs.to_mix([len(batch) for batch in rest], size, steps, costs.pixels)
    shared = list(chain.from_iterable(rest[:chosen]))
    whole = [batch for batch in plan if len(batch) == size]
    return [*whole, *rest[chosen:], *(shared[start : start + size] for start in range(0, len(shared), size))]


def foretold(plan: Batches, costs: Costs, steps: int) -> float:
    """Seconds by the costs."""
    return sum(
        costs.merged(len(batch), steps, costs.pixels)
        if len(set(batch)) == 1
        else costs.mixed(len(batch), steps, costs.pixels)
        for batch in plan
    )


def best(people: int, each: int, size: int, costs: Costs, steps: int) -> float:
    """The fewest seconds over all numbers of left-over batches that are put together; all are of one size."""
    plan = apart(people, each, size)
    rest = [batch for batch in plan if len(batch) < size]
    whole = foretold([batch for batch in plan if len(batch) == size], costs, steps)
    options = []
    for chosen in range(len(rest) + 1):
        rows = list(chain.from_iterable(rest[:chosen]))
        shared = [rows[start : start + size] for start in range(0, len(rows), size)]
        options.append(foretold([*shared, *rest[chosen:]], costs, steps))
    return whole + min(options)


class Bench:
    """One profile and people who are nobody."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        settings = common.settings(options, home)
        profile = find_profile(settings, options.profile)
        if options.batch:
            settings = settings.model_copy(update={"batch_size": options.batch})
        self.renderer = SdxlRenderer.load_profile(profile, settings)
        self.renderer.warm(lambda: False)
        drawing = profile.drawing()
        side = options.pixels or int(drawing.get("size", self.renderer.default_size))
        self.setting = Setting(side, side, options.steps or int(drawing.get("steps", 30)), "dpmpp_2m_karras")
        self.guidance = float(drawing.get("guidance", 5.0))
        self.people = self.renderer.stand_ins(8)

    def costs(self, repeat: int) -> Costs:
        """Measured here and now."""
        asked = Asked(self.setting.width, self.setting.scheduler, self.guidance, repeat)
        return measure_costs(self.renderer, asked, lambda line: print(line, file=sys.stderr))

    def draw(self, plan: Batches) -> None:
        """Draw a plan."""
        for number, batch in enumerate(plan):
            samples = [
                Sample("portrait photo of a person", "", 100 * number + row, self.guidance) for row in range(len(batch))
            ]
            loras = [((self.people[who % len(self.people)], 0.8),) for who in batch]
            if len(set(batch)) == 1:
                self.renderer.apply(loras[0])
                self.renderer.draw(samples, self.setting)
            else:
                self.renderer.draw(samples, self.setting, stacks=loras)

    def turns(self, plans: Mapping[str, Batches], options: argparse.Namespace) -> common.Turns:
        """Every plan in turn."""
        ways = {name: (lambda plan=plan: self.draw(plan)) for name, plan in plans.items()}
        return common.take_rounds(ways, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every number of prompts, all three ways in turn."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        costs, size, steps = bench.costs(options.repeat), bench.renderer.batch_size, bench.setting.steps
        full = {"merged": [[0] * size], "mixed": [list(range(size))]}
        turns = bench.turns(full, options)
        return {
            "profile": options.profile,
            "size": bench.setting.width,
            "steps": steps,
            "batch": size,
            "costs": vars(costs),
            "full_batch_seconds": {name: turns.spread(name) for name in full},
            "mixed_share": turns.faster("mixed", "merged"),
            "rows": [_row(each, bench, costs, options) for each in options.each],
        }


def _row(each: int, bench: Bench, costs: Costs, options: argparse.Namespace) -> dict[str, Any]:
    """People with so many prompts each."""
    size, steps, people = bench.renderer.batch_size, bench.setting.steps, max(2, options.pictures // each)
    pictures = people * each
    plans = {
        "planned": planned(people, each, size, costs, steps),
        "apart": apart(people, each, size),
        "together": together(people, each, size),
    }
    turns = bench.turns(plans, options)
    return {
        "each": each,
        "people": people,
        "images_per_second": {name: turns.spread(name).inverse(pictures) for name in plans},
        "foretold": {name: pictures / foretold(plan, costs, steps) for name, plan in plans.items()},
        "best": pictures / best(people, each, size, costs, steps),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    head = (
        f"profile {found['profile']}, {found['size']} px, {found['steps']} steps, batches of {found['batch']}; full "
        f"batches of different people reach {found['mixed_share'].told()} of the throughput of merged ones; images/s, "
        "in brackets quartiles, then what was foretold"
    )
    rows = []
    for row in found["rows"]:
        seen, told = row["images_per_second"], row["foretold"]
        cells = [f"{seen[name].told()}, {told[name]:.2f}" for name in ("planned", "apart", "together")]
        rows.append((row["each"], *cells, f"{row['best']:.2f}"))
    table = common.table(("prompts each", "planned", "apart", "together", "best, foretold"), rows)
    return f"{head}\n\n{table}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    made = common.parser(__doc__, repeat=3)
    common.add_profile_lines(made)
    made.add_argument("--each", type=common.numbers, default=[1, 2, 4, 20], help="prompts a person, with commas")
    made.add_argument("--pictures", type=int, default=16, help="pictures of everybody together, about")
    made.add_argument("--pixels", type=int, help="width and height; default: the profile's")
    made.add_argument("--steps", type=int, help="default: the profile's")
    made.add_argument("--batch", type=int, help="default: the profile's")
    options = common.parsed(made, arguments)
    if options.toy:
        options.each, options.pictures, options.steps, options.batch = [1, 3], 4, 1, 2
    quiet_libraries()
    found = measure(options)
    common.finish("mixed", found, markdown(found), options)


if __name__ == "__main__":
    main()
