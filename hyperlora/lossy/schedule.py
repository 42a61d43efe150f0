"""In which steps the deep part of the UNet is computed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from hyperlora.lossy.options import CacheOptions


def whole_steps(options: CacheOptions, conditions: Sequence[Hashable]) -> list[bool]:
    """For every step whether all of the UNet is computed, in the order in which steps are walked.

    Whole are the first ceil(first * steps), from there on every `every`-th, and each whose condition is another than
    that of the step before: what a ControlNet adds to the deep part may not outlive it. `conditions` tell for every
    step what is at work in it.
    """
    whole: list[bool] = []
    beginning = math.ceil(options.first * len(conditions))
    since = 0
    for step, condition in enumerate(conditions):
        changed = step == 0 or condition != conditions[step - 1]
        if step < beginning or changed or since + 1 >= options.every:
            whole.append(True)
            since = 0
        else:
            whole.append(False)
            since += 1
    return whole
