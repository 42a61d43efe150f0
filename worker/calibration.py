"""Measures what `worker.costs` needs: steps of one person's pictures and of several people's, on this device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hyperlora.compiler import EngineOptions
from worker.costs import Costs
from worker.errors import CalibrationImpossible
from worker.renderer import Renderer, Sample, Setting

FEW, MANY = 2, 6
"""Denoising steps of the two drawings whose difference is what steps take, without everything else."""

Tell = Callable[[str], None]


class Measured(Renderer, Protocol):
    """A renderer that has LoRAs of nobody to measure with, and can be run in several ways."""

    def stand_ins(self, count: int) -> Sequence[Any]:
        """Loaded LoRAs of random people, as large as real ones."""

    def run_with(self, options: EngineOptions, *, side: int) -> None:
        """Run the networks in another way, ready for full batches of this side."""


@dataclass(frozen=True)
class Asked:
    """What is measured: squares of `size` pixels, and of how many turns the medians are taken."""

    size: int
    scheduler: str
    guidance: float
    repeat: int


def measure_way(renderer: Measured, options: EngineOptions, asked: Asked, tell: Tell) -> float:
    """Seconds of a step of a full batch, run in this way. Raises `CompilationFailed`, and what drawing raises."""
    renderer.run_with(options, side=asked.size)
    drawn = _drawing(renderer, asked, [])
    turns = [_step(drawn, renderer.batch_size, mixed=False)[0] for _ in range(asked.repeat + 1)]
    seconds = statistics.median(turns[1:])
    fused = ", queries, keys and values together" if options.fuse_qkv else ""
    tell(f"compiled: {options.compile}{fused}: {1e3 * seconds:.1f} ms a step of {renderer.batch_size}")
    return seconds


def measure_costs(renderer: Measured, asked: Asked, tell: Tell) -> Costs:
    """Draw batches of one picture and of as many as the profile has, merged and mixed; medians of `repeat` turns.

    The first turn warms up and does not count. Raises `CalibrationImpossible` for a profile that draws one picture at a
    time, and what drawing raises.
    """
    most = renderer.batch_size
    if most < 2:
        raise CalibrationImpossible(
            f"the profile {renderer.profile} draws one picture at a time, so nobody ever shares a batch; raise its "
            "batch_size, or PORTRAITS_BATCH_SIZE"
        )
    people = renderer.stand_ins(most)
    drawn = _drawing(renderer, asked, people)
    one, full, together, merges, made = [], [], [], [], []
    for turn in range(asked.repeat + 1):
        merging = renderer.apply(((people[turn % most], 1.0),))
        step_one, step_full = _step(drawn, 1, mixed=False)[0], _step(drawn, most, mixed=False)[0]
        step_mixed, before_mixed = _step(drawn, most, mixed=True)
        tell(
            f"turn {turn} of {asked.repeat}: {1e3 * step_one:.1f} ms a step of one picture, {1e3 * step_full:.1f} ms "
            f"of {most}, {1e3 * step_mixed:.1f} ms of {most} people's"
        )
        if turn:
            one.append(step_one)
            full.append(step_full)
            together.append(step_mixed)
            merges.append(merging)
            made.append(max(0.0, before_mixed) / most)
    first, last = statistics.median(one), statistics.median(full)
    each = max(0.0, (last - first) / (most - 1))
    return Costs(
        base=max(0.0, first - each),
        each=each,
        dearer=max(0.0, statistics.median(together) / last - 1),
        merge=statistics.median(merges),
        own=statistics.median(made),
        pixels=asked.size * asked.size,
    )


def _drawing(renderer: Measured, asked: Asked, people: Sequence[Any]) -> Callable[..., float]:
    def drawn(count: int, steps: int, *, mixed: bool) -> float:
        samples = [Sample("portrait photo of a person", "", seed, asked.guidance) for seed in range(count)]
        setting = Setting(asked.size, asked.size, steps, asked.scheduler)
        stacks = [((person, 1.0),) for person in people[:count]] if mixed else None
        return renderer.draw(samples, setting, stacks=stacks).seconds_denoise

    return drawn


def _step(drawn: Callable[..., float], count: int, *, mixed: bool) -> tuple[float, float]:
    """Seconds of a step, and of all that comes before the first one."""
    few, many = drawn(count, FEW, mixed=mixed), drawn(count, MANY, mixed=mixed)
    step = (many - few) / (MANY - FEW)
    return step, few - FEW * step
