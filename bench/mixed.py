#!/usr/bin/env python
"""People with few prompts: drawn one after another, or several in a batch.

    python bench/mixed.py                                   toy size: the mini pack on a CPU
    python bench/mixed.py --profile realvis --each 1,2,4,20,100 --pictures 200

For every number of prompts a person, on one machine in one run:

    planned        what a worker does: it chooses by the costs that are measured first
    apart          one person after another, merged
    together       everybody's pictures in full batches, each with LoRAs of its own

Measured are batches as they are drawn, without queue and files. Beside it stands what the costs foretell, and the best
that any choice of left-over batches could reach.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from jobs.profiles import find_profile
from jobs.settings import Settings
from worker.calibration import measure_costs
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
        settings = Settings(home=home, profile=options.profile, profiles_file=options.profiles_file)
        profile = find_profile(settings, options.profile)
        if options.batch:
            settings = settings.model_copy(update={"batch_size": options.batch})
        self.renderer = SdxlRenderer.load_profile(profile, settings)
        drawing = profile.drawing()
        side = options.size or int(drawing.get("size", self.renderer.default_size))
        self.setting = Setting(side, side, options.steps or int(drawing.get("steps", 30)), "dpmpp_2m_karras")
        self.guidance = float(drawing.get("guidance", 5.0))
        self.people = self.renderer.stand_ins(8)

    def costs(self, repeat: int) -> Costs:
        """Measured here and now."""
        return measure_costs(
            self.renderer, size=self.setting.width, scheduler=self.setting.scheduler, guidance=self.guidance,
            repeat=repeat, tell=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip

    def seconds(self, plan: Batches) -> float:
        """Draw a plan."""
        _wait()
        began = time.perf_counter()
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
        _wait()
        return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every number of prompts, all three ways in turn."""
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        costs, size, steps = bench.costs(options.repeat), bench.renderer.batch_size, bench.setting.steps
        rows = []
        for each in options.each:
            people = max(2, options.pictures // each)
            plans = {
                "planned": planned(people, each, size, costs, steps),
                "apart": apart(people, each, size),
                "together": together(people, each, size),
            }
            taken: dict[str, list[float]] = {name: [] for name in plans}
            for turn in range(options.repeat + 1):
                for name, plan in plans.items():
                    seconds = bench.seconds(plan)
                    if turn:
                        taken[name].append(seconds)
            pictures = people * each
            rows.append(
                {
                    "each": each,
                    "people": people,
                    "images_per_second": {
                        name: round(pictures / statistics.median(seconds), 3) for name, seconds in taken.items()
                    },
                    "foretold": {
                        name: round(pictures / foretold(plan, costs, steps), 3) for name, plan in plans.items()
                    },
                    "best": round(pictures / best(people, each, size, costs, steps), 3),
                }
            )
        return {
            "device": bench.renderer.device,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "profile": options.profile,
            "size": bench.setting.width,
            "steps": steps,
            "batch": size,
            "repeat": options.repeat,
            "costs": costs.__dict__,
            "rows": rows,
        }


def markdown(found: dict[str, Any]) -> str:
    """The table of a result."""
    head = (
        f"{found['device']}, {found['threads']} threads, profile {found['profile']}, {found['size']} px, "
        f"{found['steps']} steps, batches of {found['batch']}; images/s, in brackets as foretold"
    )
    lines = ["| prompts each | planned | apart | together | best, foretold |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        seen, told = row["images_per_second"], row["foretold"]
        cells = [f"{seen[name]:.2f} ({told[name]:.2f})" for name in ("planned", "apart", "together")]
        lines.append(f"| {row['each']} | {' | '.join(cells)} | {row['best']:.2f} |")
    return "\n".join([head, "", *lines])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--profiles-file", type=Path)
    parser.add_argument("--each", type=_numbers, default=[1, 2, 4, 20], help="prompts a person, with commas")
    parser.add_argument("--pictures", type=int, default=16, help="pictures of everybody together, about")
    parser.add_argument("--size", type=int, help="pixels; default: the profile's")
    parser.add_argument("--steps", type=int, help="default: the profile's")
    parser.add_argument("--batch", type=int, help="default: the profile's")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here too")
    options = parser.parse_args(arguments)
    found = measure(options)
    print(markdown(found))
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
