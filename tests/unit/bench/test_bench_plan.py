"""The worker's plans of whom to draw together are near the best of all plans, which is found exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from bench import plan, plan_traces
from bench.plan_traces import Device, Trace
from worker.costs import GPU, Costs

MARGIN = 1.03
"""So much dearer than the best plan the worker's may be."""
CHEAP_MERGE = Costs(base=0.1, each=0.03, dearer=0.2, merge=0.01, own=0.005, pixels=64 * 64)


def parts(things: list[int]) -> Iterator[list[list[int]]]:
    """Every way of laying things into batches."""
    if not things:
        yield []
        return
    first, others = things[0], things[1:]
    for rest in parts(others):
        yield [[first], *rest]
        for place, batch in enumerate(rest):
            yield [*rest[:place], [first, *batch], *rest[place + 1 :]]


def best_by_trying(trace: Trace, device: Device) -> float:
    """The least of the costs of all ways of laying the pictures into batches."""
    pictures = [who for who, count in enumerate(trace) for _ in range(count)]
    return min(
        sum(device.merged(len(batch)) if len(set(batch)) == 1 else device.mixed(len(batch)) for batch in each)
        for each in parts(pictures)
        if all(len(batch) <= device.size for batch in each)
    )


@pytest.mark.parametrize("trace", [[1], [3], [1, 1], [2, 3], [1, 1, 1, 1], [4, 1, 2], [1, 1, 5], [2, 2, 2], [3, 3, 1]])
@pytest.mark.parametrize("costs", [GPU, CHEAP_MERGE, dataclasses.replace(GPU, dearer=0.9)], ids=["gpu", "slow", "dear"])
@pytest.mark.parametrize("size", [2, 3])
def test_the_best_plan_is_the_best_of_all(trace: Trace, costs: Costs, size: int) -> None:
    device = Device(costs, size, 20)
    assert plan_traces.best(trace, device) == pytest.approx(best_by_trying(trace, device))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 8, 12, 16, 32])
@pytest.mark.parametrize("name", list(plan.DEVICES))
def test_the_workers_plan_is_near_the_best(name: str, size: int) -> None:
    # Given people with few prompts, with many, and mixtures
    device = Device(plan.DEVICES[name], size, 20)
    for told, trace in plan_traces.traces(200).items():
        # When a worker plans, and somebody who knows everybody beforehand
        ours, least = plan_traces.planned(trace, device), plan_traces.best(trace, device)
        # Then the first is nearly as cheap, and neither of the two simple ways is cheaper than the second
        assert least <= ours * (1 + 1e-9) and ours <= MARGIN * least, told
        assert least <= min(plan_traces.apart(trace, device), plan_traces.together(trace, device)) * (1 + 1e-9), told


def test_whoever_would_not_be_cheaper_together_keeps_no_company() -> None:
    # Given people whose pictures fill their batches, and people with one picture each
    device = Device(GPU, 8, 20)
    # Then the first are taken one by one, and of the others as many as fill a batch
    assert plan_traces.hands([8, 16, 8], device) == [[8], [16], [8]]
    assert plan_traces.hands([1] * 20, device) == [[1] * 8, [1] * 8, [1] * 4]
    assert plan_traces.hands([1] * 3, Device(dataclasses.replace(GPU, dearer=2.0), 8, 20)) == [[1], [1], [1]]


def test_every_picture_of_a_hand_is_drawn_once() -> None:
    # Given a hand of people with different needs
    batches = plan_traces.cut([1, 11, 3, 1], Device(CHEAP_MERGE, 4, 20))
    # Then all pictures are in some batch, and a batch of several people is called mixed
    drawn = [(draw.who, draw.render.ordinal) for batch in batches for draw in batch.draws]  # type: ignore[attr-defined]
    assert len(drawn) == len(set(drawn)) == 16
    for batch in batches:
        assert len(batch.draws) <= 4
        assert batch.mixed or len({draw.who for draw in batch.draws}) == 1  # type: ignore[attr-defined]
