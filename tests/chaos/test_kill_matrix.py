"""The whole kill matrix on Redis with PostgreSQL and S3 (see `matrix`), and what keeps chaos workers honest."""

from __future__ import annotations

import pytest
from fleet import Fleet
from matrix import CASES, FULL_BROKER, HARMS, PLACES, cases_of, go_through, parameters
from stacks import Stack


@pytest.mark.parametrize(("broker", "harm", "place"), parameters(FULL_BROKER))
def test_whoever_is_ended_anywhere_every_render_is_recorded_once(
    harm: str, place: str, stack: Stack, fleet: Fleet
) -> None:
    # Given a worker at this point of its way, when it is ended, then others finish its job and every gate holds
    counts = go_through(harm, place, stack, fleet)
    assert (counts.losses, counts.duplicates) == (0, 0)


def test_the_matrix_is_whole_and_rotates() -> None:
    # Given the cases of the full broker, and those of another one on 60 days
    days = [cases_of("filesystem", day) for day in range(60)]

    # Then the first has every pair, each day has every place once and every harm, and in time every pair comes
    assert cases_of(FULL_BROKER, 0) == CASES and len(set(CASES)) == len(HARMS) * len(PLACES) == 30
    assert all({place for _, place in day} == set(PLACES) and {harm for harm, _ in day} == set(HARMS) for day in days)
    assert {case for day in days for case in day} == set(CASES)
