"""Six cases of the kill matrix on each of the other brokers, others from day to day (see `matrix`)."""

from __future__ import annotations

import pytest
from fleet import Fleet
from matrix import FULL_BROKER, go_through, parameters
from stacks import STACKS, Stack

OTHERS = [name for name in STACKS if name != FULL_BROKER]


@pytest.mark.parametrize(("broker", "harm", "place"), parameters(*OTHERS))
def test_whoever_is_ended_anywhere_every_render_is_recorded_once(
    harm: str, place: str, stack: Stack, fleet: Fleet
) -> None:
    # Given a worker at this point of its way, when it is ended, then others finish its job and every gate holds
    counts = go_through(harm, place, stack, fleet)
    assert (counts.losses, counts.duplicates) == (0, 0)
