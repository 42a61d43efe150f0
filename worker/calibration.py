"""Measures what `worker.costs` needs: steps of one person's pictures and of several people's, on this device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from worker.costs import Costs
from worker.errors import CalibrationImpossible
from worker.renderer import Renderer, Sample, Setting

FEW, MANY = 2, 6
"""Denoising steps of the two drawings whose difference is what steps take, without everything else."""

Tell = Callable[[str], None]


class Measured(Renderer, Protocol):
    """A renderer that has LoRAs of nobody to measure with."""

    def stand_ins(self, count: int) -> Sequence[Any]:
        """Loaded LoRAs of random people, as large as real ones."""


def measure_costs(renderer: Measured, *, size: int, scheduler: str, guidance: float, repeat: int, tell: Tell) -> Costs:
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

    def drawn(count: int, steps: int, *, mixed: bool) -> float:
        samples = [Sample("portrait photo of a person", "", seed, guidance) for seed in range(count)]
        setting = Setting(size, size, steps, scheduler)
        stacks = [((person, 1.0),) for person in people[:count]] if mixed else None
        return renderer.draw(samples, setting, stacks=stacks).seconds_denoise

    one, full, together, merges, made = [], [], [], [], []
    for turn in range(repeat + 1):
        merging = renderer.apply(((people[turn % most], 1.0),))
        step_one, step_full = _step(drawn, 1, mixed=False)[0], _step(drawn, most, mixed=False)[0]
        step_mixed, before_mixed = _step(drawn, most, mixed=True)
        tell(
            f"turn {turn} of {repeat}: {1e3 * step_one:.1f} ms a step of one picture, {1e3 * step_full:.1f} ms of "
            f"{most}, {1e3 * step_mixed:.1f} ms of {most} people's"
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
        pixels=size * size,
    )


def _step(drawn: Callable[..., float], count: int, *, mixed: bool) -> tuple[float, float]:
    """Seconds of a step, and of all that comes before the first one."""
    few, many = drawn(count, FEW, mixed=mixed), drawn(count, MANY, mixed=mixed)
    step = (many - few) / (MANY - FEW)
    return step, few - FEW * step
