"""Text still rules: attributes that the prompt asks for are seen, with the LoRA as without.

Shapes: N people, P pictures of each, A attributes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.rows import measured, not_measured
from hyperlora.evaluation.shots import SLOTS, Shots
from hyperlora.evaluation.statistics import mean_over_people
from hyperlora.evaluation.study import MiniStudy

TEXT_SLOTS = ("clothing", "background", "accessory", "expression")
"""The attributes whose mean is the accuracy; the colour of the clothing is told beside."""
PLAIN_BAR, KEPT_BAR = 0.90, 0.90
NO_LABELS = "the judge {!r} reads no attributes; the mini world's judge does"


def obeyed(shots: Shots, wanted_NPA: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N, A) share of each person's pictures that show the word that was asked for; no label counts as wrong."""
    right: npt.NDArray[np.float64] = (shots.labels_NPA == wanted_NPA).mean(axis=1)
    return right


def accuracy(obeyed_NA: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) mean over clothing, background, accessory and expression."""
    mean_N: npt.NDArray[np.float64] = obeyed_NA[:, [SLOTS.index(slot) for slot in TEXT_SLOTS]].mean(axis=1)
    return mean_N


def text(study: MiniStudy) -> Outcome:
    """Accuracy of the attributes with ID-LoRA against without."""
    if not study.labels:
        return Outcome([not_measured("text", "attribute accuracy", NO_LABELS.format(study.judge.name), unit="share")])
    count = study.extent.prompts
    wanted_NPA = study.asked_NPA(count)
    with_NA = obeyed(study.with_lora(study.extent.photos, count), wanted_NPA)
    without_NA = obeyed(study.without_lora(count), wanted_NPA)
    drawn_NA = obeyed(study.ideal_shots(), wanted_NPA)
    kept, plain = mean_over_people(accuracy(with_NA)), mean_over_people(accuracy(without_NA))
    rows = [
        measured(
            "text", "attribute accuracy with ID-LoRA", "share", kept,
            baseline=plain.value, baseline_is="without LoRA", bar="at least 90 % of that without",
            reached=kept.value >= KEPT_BAR * plain.value,
        ),
        measured(
            "text", "attribute accuracy without LoRA", "share", plain,
            baseline=float(accuracy(drawn_NA).mean()), baseline_is="the judge on drawn portraits",
            bar="at least 90 %", reached=plain.value >= PLAIN_BAR,
        ),
    ]  # fmt: skip
    for place, slot in enumerate(SLOTS):
        rows.append(
            measured(
                "text", f"  {slot.replace('_', ' ')}", "share", mean_over_people(with_NA[:, place]),
                baseline=float(without_NA[:, place].mean()), baseline_is="without LoRA",
                note=f"the judge on drawn portraits: {drawn_NA[:, place].mean():.1%}",
            )
        )  # fmt: skip
    series = {
        "with": with_NA.mean(axis=0).tolist(),
        "without": without_NA.mean(axis=0).tolist(),
        "drawn": drawn_NA.mean(axis=0).tolist(),
    }
    return Outcome(rows, series)
