#!/usr/bin/env python
"""What is wanted of one H100, beside what was found: `python bench/targets.py FOLDER` reads the results there.

Elsewhere than on an H100 at 1024 pixels the figures are shown without a verdict. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import common

DEVICE = "H100"
PIXELS = 1024


@dataclass(frozen=True)
class Target:
    """A bound for one figure of one benchmark: `at_least` or else at most; goals go beyond."""

    bench: str
    place: tuple[str, ...]
    what: str
    bound: float
    at_least: bool = True
    goals: tuple[float, ...] = ()
    steps: int | None = None  # it holds for pictures of so many steps
    pixels: bool = True  # it holds for pictures of 1024 pixels alone

    def found(self, result: Mapping[str, Any]) -> float | None:
        """The figure; None where the result has none, or is of other steps."""
        if self.steps is not None and result.get("steps") != self.steps:
            return None
        value: Any = result
        for key in self.place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            value = value.get("median")
        return None if value is None else float(value)

    def reached(self, value: float) -> bool:
        """Whether the figure is good enough."""
        return value >= self.bound if self.at_least else value <= self.bound

    def told(self) -> str:
        """`at least 1.5 (goals 1.75, 2)`."""
        goals = f" (goals {', '.join(f'{goal:g}' for goal in self.goals)})" if self.goals else ""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:.3g}{goals}"


_IPS = ("images_per_second", "portraits")
TARGETS = (
    Target("job", _IPS, "images/s through the whole product, 20 steps", 1.5, goals=(1.75, 2.0), steps=20),
    Target("job", _IPS, "images/s through the whole product, 30 steps", 1.05, goals=(1.2, 1.35), steps=30),
    Target("job", ("portraits_against", "loop"), "times the user's loop", 6.0),
    Target("job", ("portraits_against", "batched loop"), "times the user's loop in batches", 1.4),
    Target("job", ("portraits_against", "bare"), "share of the bare loop", 0.97),
    Target("swap", ("milliseconds", "stacked", "change"), "ms for a change of identity", 5.0, False, pixels=False),
    Target("people", ("milliseconds_per_person",), "ms of preprocessing a person", 50.0, False, pixels=False),
    Target("mixed", ("mixed_share",), "mixed batches' share of merged throughput", 0.85),
    Target("unet", ("recompilations", "compilations"), "recompilations over identity swaps", 0.0, False, pixels=False),
    Target(
        "lossy", ("seconds_a_picture", "fp8"), "s a picture with fp8, 20 steps (2.1 images/s)", 1 / 2.1, False, steps=20
    ),
)


def table(results: Sequence[Mapping[str, Any]], targets: Sequence[Target] = TARGETS) -> tuple[str, int]:
    """A Markdown table of all that the results have a figure for, and how many targets are missed."""
    rows, missed = [], 0
    for target in targets:
        for result in (each for each in results if each["bench"] == target.bench):
            value = target.found(result)
            if value is None:
                continue
            judged = _is_judged(result, target)
            verdict = ("reached" if target.reached(value) else "MISSED") if judged else "not judged"
            missed += verdict == "MISSED"
            rows.append((target.what, f"{value:.3g}", target.told(), verdict, result["machine"]["device"]))
    return common.table(("what", "found", "wanted of an H100", "verdict", "device"), rows), missed


def _is_judged(result: Mapping[str, Any], target: Target) -> bool:
    on_device = DEVICE in str(result["machine"]["device"])
    return on_device and (not target.pixels or result.get("size") == PIXELS)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every result of a folder."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [each for each in found if isinstance(each, dict) and "bench" in each]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path)
    told, missed = table(read(made.parse_args(arguments).folder))
    print(told)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
