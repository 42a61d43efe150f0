"""Plans of whom to draw together, as a worker makes them, and the best that any plan could reach.

A trace is how many pictures each of the people wants, in the order in which they are claimed. The worker's plan is made
by its own code: people are taken into the hand as `worker.shift` takes them, and cut into batches by `worker.plan`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from worker.costs import Costs
from worker.plan import BatchKey, BatchSizes, Planned, batches, has_room

Trace = list[int]
KEY = BatchKey(0.8, 0.0, (), -1, 1024, 1024, 20, "dpmpp_2m_karras", True, 1.0, "", (), 1, 1)


@dataclass(frozen=True)
class Device:
    """What drawing costs, and in what batches: everything that a plan depends on."""

    costs: Costs
    size: int
    steps: int

    @property
    def pixels(self) -> int:
        """Of each picture."""
        return self.costs.pixels

    def merged(self, count: int) -> float:
        """Seconds of a batch of one person's pictures."""
        return self.costs.merged(count, self.steps, self.pixels)

    def mixed(self, count: int) -> float:
        """Seconds of a batch of several people's."""
        return self.costs.mixed(count, self.steps, self.pixels)


def traces(pictures: int, seeds: Sequence[int] = (1, 2, 3)) -> dict[str, Trace]:
    """People with 1, 2, 4, 9, 20 and 100 prompts each, and seeded mixtures; about so many pictures in all."""
    made = {f"{each} each": [each] * max(2, pictures // each) for each in (1, 2, 4, 9, 20, 100)}
    made["1 and 100 by turns"] = [1, 100] * max(1, pictures // 101)
    for seed in seeds:
        dice = random.Random(seed)
        wanted: Trace = []
        while sum(wanted) < pictures:
            wanted.append(dice.choice((1, 1, 2, 3, 4, 5, 8, 11, 20, 33)))
        made[f"mixture {seed}"] = wanted
    return made


def planned(trace: Trace, device: Device) -> float:
    """Seconds by the costs of what a worker would do."""
    return sum(_cost(batch, device) for hand in hands(trace, device) for batch in cut(hand, device))


def hands(trace: Trace, device: Device) -> list[Trace]:
    """The people that a worker takes together, one hand after another."""
    made: list[Trace] = []
    for count in trace:
        if made and has_room(made[-1], device.size, device.steps, device.pixels, device.costs):
            made[-1].append(count)
        else:
            made.append([count])
    return made


def cut(hand: Trace, device: Device) -> list[Planned]:
    """One hand's pictures in batches, by the worker's own planner; a draw is no more than an owner and a number."""
    side = int(device.pixels**0.5)
    key = BatchKey(**{**KEY.__dict__, "width": side, "height": device.pixels // side, "steps": device.steps})
    draws = [
        SimpleNamespace(
            render=SimpleNamespace(unit=SimpleNamespace(job_id=0), ordinal=1000 * who + n),
            attempt=0,
            part=None,
            who=who,
        )
        for who, count in enumerate(hand)
        for n in range(count)
    ]
    return batches(cast(Any, draws), BatchSizes(device.size), lambda _: key, attrgetter("who"), device.costs)


def _cost(batch: Planned, device: Device) -> float:
    people = {cast(Any, draw).who for draw in batch.draws}
    if len(people) > 1 and not batch.mixed:
        raise ValueError(f"a merged batch of {len(people)} people was planned")
    return device.mixed(len(batch.draws)) if batch.mixed else device.merged(len(batch.draws))


def apart(trace: Trace, device: Device) -> float:
    """Seconds of everybody one after another."""
    full, seconds = device.size, 0.0
    for count in trace:
        seconds += (count // full) * device.merged(full) + (device.merged(count % full) if count % full else 0.0)
    return seconds


def together(trace: Trace, device: Device) -> float:
    """Seconds of everybody's pictures in full batches of several people."""
    full, left = divmod(sum(trace), device.size)
    return full * device.mixed(device.size) + (device.mixed(left) if left else 0.0)


def best(trace: Trace, device: Device) -> float:
    """The fewest seconds of all plans, exactly.

    Any plan draws of each person some pictures alone, in the cheapest batches for that many, and gives the rest to the
    pool, which is drawn in the cheapest mixed batches for as many as all have given. So what has been given so far is
    all that must be remembered from one person to the next.
    """
    total, most = sum(trace), max(trace)
    alone_M = _cheapest([device.merged(n) for n in range(1, device.size + 1)], most)
    pool_T = _cheapest([device.mixed(n) for n in range(1, device.size + 1)], total)
    least_T = np.full(total + 1, np.inf)
    least_T[0], given = 0.0, 0
    for count in trace:
        now_T = np.full(total + 1, np.inf)
        for pooled in range(count + 1):
            reached = slice(pooled, pooled + given + 1)
            now_T[reached] = np.minimum(now_T[reached], least_T[: given + 1] + alone_M[count - pooled])
        least_T, given = now_T, given + count
    return float((least_T + pool_T).min())


def _cheapest(batch_costs: Sequence[float], most: int) -> np.ndarray[Any, Any]:
    """Fewest seconds for 0 to `most` pictures in batches of 1 to len(batch_costs)."""
    least_M = np.zeros(most + 1)
    for count in range(1, most + 1):
        sizes = range(1, min(count, len(batch_costs)) + 1)
        least_M[count] = min(least_M[count - size] + batch_costs[size - 1] for size in sizes)
    return least_M
