#!/usr/bin/env python
"""The worker's plan of whom to draw together, against the best possible one: seconds by the costs, nothing is drawn.

    python bench/plan.py                                 costs that are assumed of an H100, and others around them
    python bench/plan.py --calibration calibration.json  those that `portraits calibrate` measured

For traces of people who want 1, 2, 4, 9, 20 and 100 pictures each, and for mixtures: what a worker does (its own code,
with people taken one after another), everybody apart (merged), everybody together (a LoRA for each picture), and the
best of all plans, found exactly by dynamic programming for somebody who knows all people beforehand.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import common
from bench.plan_traces import Device, apart, best, planned, together, traces
from worker.costs import GPU, Costs

DEVICES: dict[str, Costs] = {
    "assumed of an H100": GPU,
    "together dearer": dataclasses.replace(GPU, dearer=0.5),
    "together for nothing": dataclasses.replace(GPU, dearer=0.0, own=0.0),
    "slow to start a step": dataclasses.replace(GPU, base=0.1),
    "slow to merge": dataclasses.replace(GPU, merge=0.2),
    "slow to make LoRAs ready": dataclasses.replace(GPU, own=0.1),
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every device's costs, every size of a batch, every trace."""
    devices = _calibrated(options.calibration) if options.calibration else DEVICES
    rows = []
    for name, costs in devices.items():
        for size in options.sizes:
            for told, trace in traces(options.pictures).items():
                device = Device(costs, size, options.steps)
                least = best(trace, device)
                plans = {"planned": planned, "apart": apart, "together": together}
                rows.append(
                    {
                        "device": name,
                        "size": size,
                        "trace": told,
                        "people": len(trace),
                        "pictures": sum(trace),
                        "best_seconds": least,
                        "against_best": {plan: how(trace, device) / least for plan, how in plans.items()},
                    }
                )
    return {
        "steps": options.steps,
        "costs": {name: dataclasses.asdict(costs) for name, costs in devices.items()},
        "worst": max(row["against_best"]["planned"] for row in rows),
        "rows": rows,
    }


def _calibrated(file: Path) -> dict[str, Costs]:
    """The costs of a calibration file, which keeps other things too."""
    found = json.loads(file.read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(Costs)}
    return {name: Costs(**each) for name, each in found.items() if set(each) == fields}


def markdown(found: dict[str, Any]) -> str:
    """The tables of a result: one for each device."""
    parts = [
        f"{found['steps']} steps; seconds by the costs, against the best possible plan (1.000). The worker's plan is "
        f"at worst {100 * (found['worst'] - 1):.1f} % dearer."
    ]
    for name, costs in found["costs"].items():
        told = ", ".join(f"{field} {value:g}" for field, value in costs.items())
        rows = [
            (
                row["size"], row["trace"], row["people"], row["pictures"], f"{row['best_seconds']:.1f}",
                *(f"{row['against_best'][plan]:.3f}" for plan in ("planned", "apart", "together")),
            )
            for row in found["rows"]
            if row["device"] == name
        ]  # fmt: skip
        head = ("batch", "trace", "people", "pictures", "best, s", "as planned", "all apart", "all together")
        parts.append(f"### {name}\n\n{told}\n\n{common.table(head, rows)}")
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute, print Markdown, write JSON."""
    made = common.parser(__doc__)
    made.add_argument("--calibration", type=Path, help="PORTRAITS_HOME/calibration.json")
    made.add_argument("--sizes", type=common.numbers, default=[4, 8, 16], help="pictures in a full batch")
    made.add_argument("--steps", type=int, default=20)
    made.add_argument("--pictures", type=int, default=400, help="of everybody together, about")
    options = common.parsed(made, arguments)
    if options.toy:
        options.sizes, options.pictures = [8], 60
    found = measure(options)
    common.finish("plan", found, markdown(found), options)


if __name__ == "__main__":
    main()
