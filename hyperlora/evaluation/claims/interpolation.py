"""The space is linear: on the way from one person to another, one likeness falls as the other grows.

Shapes: M pairs of people, T places on the way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.coefficients import interpolate
from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.people import prompt_of
from hyperlora.evaluation.rows import measured, not_measured
from hyperlora.evaluation.shots import SHOWN_PEOPLE
from hyperlora.evaluation.statistics import Chosen, bootstrap
from hyperlora.evaluation.study import MiniStudy

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)


def interpolation(study: MiniStudy) -> Outcome:
    """ID similarity to A and to B at t = 0, 1/4, 1/2, 3/4 and 1, in pairs of neighbours."""
    people = study.photos.usable(study.extent.photos)
    measure = "smallest step of both ID similarities between A and B"
    if len(people) < 2:
        return Outcome([not_measured("interpolation", measure, "two people with usable photos are needed")])
    pairs = [(people[index], people[(index + 1) % len(people)]) for index in range(len(people))]
    to_a_MT, to_b_MT, grid = _walk(study, pairs)
    away_MS, near_MS = -np.diff(to_a_MT, axis=1), np.diff(to_b_MT, axis=1)

    def smallest_step(chosen_DM: Chosen) -> npt.NDArray[np.float64]:
        steps_D2S = np.stack([away_MS[chosen_DM].mean(axis=1), near_MS[chosen_DM].mean(axis=1)], axis=1)
        return np.asarray(steps_D2S.min(axis=(1, 2)))

    step = bootstrap(smallest_step, len(pairs))
    middle = float((to_a_MT[:, 2] + to_b_MT[:, 2]).mean() / 2)
    row = measured(
        "interpolation", measure, "cosine", step,
        baseline=0.0, baseline_is="no step", bar="monotone: every step above 0", reached=step.value > 0,
        note=f"{len(pairs)} pairs; half way both are alike by {middle:.3f}",
    )  # fmt: skip
    series = {"t": list(PLACES), "to A": to_a_MT.mean(axis=0).tolist(), "to B": to_b_MT.mean(axis=0).tolist()}
    return Outcome([row], series, {"interpolation": grid})


def _walk(
    study: MiniStudy, pairs: list[tuple[int, int]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Grid]:
    """Similarities to both ends (M, T) each, and the first pairs' pictures; several pairs share a batch."""
    to_a_MT, to_b_MT = np.zeros((2, len(pairs), len(PLACES)))
    rows: list[tuple[str, list[Image.Image | None]]] = []
    at_once = max(1, study.model.setting.batch_size // len(PLACES))
    for start in range(0, len(pairs), at_once):
        study.tell("walking between people", start, len(pairs))
        group = pairs[start : start + at_once]
        images = _between(study, group)
        for row, (a, b) in enumerate(group, start):
            own = images[(row - start) * len(PLACES) : (row - start + 1) * len(PLACES)]
            for column, seen in enumerate(study.judge.embed(own)):
                # A picture without a face is like nobody: it counts with 0.
                if seen is not None:
                    to_a_MT[row, column], to_b_MT[row, column] = seen @ study.gallery_NE[a], seen @ study.gallery_NE[b]
            if row < SHOWN_PEOPLE:
                ends = [study.people[index].gallery()[0] for index in (a, b)]
                rows.append((str(study.people[a].seed), [ends[0], *own, ends[1]]))
    return to_a_MT, to_b_MT, Grid("From one person to another", ["A", *(f"t = {t:g}" for t in PLACES), "B"], rows)


def _between(study: MiniStudy, pairs: list[tuple[int, int]]) -> list[Image.Image]:
    """For each pair a picture at each place on the way, all with the prompt and the seed of A."""
    model = study.model
    loras, prompts, seeds = [], [], []
    for a, b in pairs:
        first, last = (model.coefficients(study.photos.known(index, study.extent.photos)) for index in (a, b))
        loras += [[(model.lora(interpolate(first, last, t)), model.setting.weight)] for t in PLACES]
        prompts += [prompt_of(study.people[a].asked(0))] * len(PLACES)
        seeds += [study.people[a].picture_seed(0)] * len(PLACES)
    return model.draw_each(loras, prompts, seeds)
