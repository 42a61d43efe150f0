"""Means and intervals over people."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyperlora.errors import InvalidRequest
from hyperlora.evaluation.statistics import (
    cosines,
    mean_over_people,
    other_similarity,
    own_similarity,
    rank_one,
    ratio_over_people,
)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    # Given 200 samples of 40 people from a known distribution
    dice = np.random.Generator(np.random.PCG64(0))

    # When each gives an interval, then the true mean lies in about 95 % of them
    inside = 0
    for _ in range(200):
        found = mean_over_people(dice.exponential(1.0, 40))
        inside += found.low <= 1.0 <= found.high
    assert 0.86 <= inside / 200 <= 0.99


def test_the_same_numbers_give_the_same_interval() -> None:
    values = np.arange(20.0)
    assert mean_over_people(values) == mean_over_people(values)
    assert mean_over_people(values).low < 9.5 < mean_over_people(values).high


def test_equal_people_leave_no_doubt() -> None:
    found = mean_over_people(np.full(5, 0.25))
    assert (found.value, found.low, found.high, found.people) == (0.25, 0.25, 0.25, 5)


def test_a_ratio_is_of_means_and_not_a_mean_of_ratios() -> None:
    # (1 + 9) / (2 + 2), where the mean of 1/2 and 9/2 is the same only by chance: (1 + 9) / (1 + 3) it is not
    assert ratio_over_people(np.array([1.0, 9.0]), np.array([1.0, 3.0])).value == 2.5
    assert math.isinf(ratio_over_people(np.ones(3), np.zeros(3)).value)


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.zeros((2, 2))])
def test_no_people_and_no_numbers_are_refused(values: np.ndarray) -> None:
    with pytest.raises(InvalidRequest):
        mean_over_people(values)


def test_ranks_and_similarities() -> None:
    # Given three people on the axes, two pictures each; the second of person 2 shows no face
    gallery_GE = np.eye(3)
    embeddings_NPE = np.array(
        [
            [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]],  # right; nearer to person 1
            [[0.0, 1.0, 0.0], [0.0, 0.8, 0.6]],  # right; right
            [[0.0, 0.0, 1.0], [np.nan, np.nan, np.nan]],  # right; no face
        ]
    )

    # When they are compared
    cosines_NPG = cosines(embeddings_NPE, gallery_GE)

    # Then no face is a miss with similarity 0
    assert rank_one(cosines_NPG).tolist() == [[1, 0], [1, 1], [1, 0]]
    assert own_similarity(cosines_NPG).tolist() == [[1.0, 0.6], [1.0, 0.8], [1.0, 0.0]]
    np.testing.assert_allclose(other_similarity(cosines_NPG), [[0, 0.4], [0, 0.3], [0, 0]])


def test_a_single_person_has_no_wrong_one() -> None:
    assert other_similarity(cosines(np.ones((1, 2, 1)), np.ones((1, 1)))).tolist() == [[0.0, 0.0]]
