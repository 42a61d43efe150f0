"""Means over people with intervals, from a bootstrap over people.

Shapes: N people, P pictures of each, E numbers of an embedding, D draws of a bootstrap.

People are resampled whole, never their single pictures: eight pictures of one person are not eight independent trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperlora.errors import InvalidRequest

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 20250610  # of the resampling: the same numbers give the same interval

FloatArray = npt.NDArray[np.floating]
Chosen = npt.NDArray[np.intp]
"""(D, N): places of people, drawn D times."""


@dataclass(frozen=True)
class Estimate:
    """A number, the interval that holds it with 95 % confidence over people, and how many people it rests on."""

    value: float
    low: float
    high: float
    people: int


def bootstrap(statistic: Callable[[Chosen], npt.NDArray[np.float64]], people: int) -> Estimate:
    """A statistic with its percentile interval; `InvalidRequest` without people.

    `statistic` turns chosen people (D, N), D draws at once, into D numbers.
    """
    if people < 1:
        raise InvalidRequest("an interval needs at least one person, found none")
    dice = np.random.Generator(np.random.PCG64(_SEED))
    draws_D = statistic(dice.integers(people, size=(RESAMPLES, people)))
    tail = 50 * (1 - CONFIDENCE)
    # Draws themselves, nothing between them: a ratio may be infinite.
    low, high = (float(each) for each in np.percentile(draws_D, [tail, 100 - tail], method="inverted_cdf"))
    return Estimate(float(statistic(np.arange(people)[None])[0]), low, high, people)


def mean_over_people(values_N: FloatArray) -> Estimate:
    """The mean of one number per person. Raises `InvalidRequest` for no people or a NaN."""
    values = _checked(values_N)
    return bootstrap(lambda chosen_DN: np.asarray(values[chosen_DN].mean(axis=1)), len(values))


def ratio_over_people(above_N: FloatArray, below_N: FloatArray) -> Estimate:
    """The ratio of two means over the same people; infinite where the lower one is not above zero."""
    above, below = _checked(above_N), _checked(below_N)

    def ratio(chosen_DN: Chosen) -> npt.NDArray[np.float64]:
        tops_D, bottoms_D = above[chosen_DN].mean(axis=1), below[chosen_DN].mean(axis=1)
        return np.asarray(np.divide(tops_D, bottoms_D, out=np.full(len(tops_D), np.inf), where=bottoms_D > 0))

    return bootstrap(ratio, len(above))


def cosines(embeddings_NPE: FloatArray, gallery_GE: FloatArray) -> npt.NDArray[np.float64]:
    """(N, P, G) cosines of unit embeddings; NaN where a picture has no embedding."""
    if np.isnan(embeddings_NPE).all():  # no face anywhere, so that nobody knows the embeddings' width
        return np.full((*embeddings_NPE.shape[:2], len(gallery_GE)), np.nan)
    return np.asarray(embeddings_NPE, np.float64) @ np.asarray(gallery_GE, np.float64).T


def rank_one(cosines_NPG: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, P) 1 where a picture of person n is nearest to gallery n, else 0; a picture without a face is a miss."""
    seen_NPG = np.where(np.isnan(cosines_NPG), -np.inf, cosines_NPG)
    nearest_NP = seen_NPG.argmax(axis=2)
    hits_NP = nearest_NP == np.arange(len(cosines_NPG))[:, None]
    hits: npt.NDArray[np.float64] = (hits_NP & ~np.isnan(cosines_NPG).all(axis=2)).astype(np.float64)
    return hits


def own_similarity(cosines_NPG: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, P) cosine to the person's own gallery; 0 for a picture without a face."""
    places_N = np.arange(len(cosines_NPG))
    return np.nan_to_num(cosines_NPG[places_N, :, places_N], nan=0.0)


def other_similarity(cosines_NPG: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, P) mean cosine to everybody else's gallery; 0 for a picture without a face, and with nobody else."""
    others = cosines_NPG.shape[2] - 1
    if others < 1:
        return np.zeros(cosines_NPG.shape[:2])
    seen_NPG = np.nan_to_num(cosines_NPG, nan=0.0)
    rest: npt.NDArray[np.float64] = (seen_NPG.sum(axis=2) - own_similarity(cosines_NPG)) / others
    return rest


def _checked(values_N: FloatArray) -> npt.NDArray[np.float64]:
    values = np.asarray(values_N, np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise InvalidRequest(f"one number per person was wanted, found shape {values.shape} or a NaN in it")
    return values
