"""No trigger words, no effect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.people import HeldOut, prompt_of
from hyperlora.evaluation.rows import measured
from hyperlora.evaluation.statistics import ratio_over_people
from hyperlora.evaluation.study import MiniStudy, Weighted

MOST = 0.20
PICTURES = 2
OTHER_SEED = 500_000_000_000  # beyond every seed of a picture


def pixel_distance(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Mean absolute difference of pixels, 0 to 1, over pairs of pictures."""
    pairs = zip(pictures, others, strict=True)
    return float(np.mean([np.abs(_pixels(one) - _pixels(other)).mean() for one, other in pairs]))


def trigger(study: MiniStudy) -> Outcome:
    """How far the LoRA moves a picture without its trigger words, in units of the distance between two seeds."""
    count = min(PICTURES, study.extent.prompts)
    plain, spoken = study.without_lora(study.extent.prompts), study.with_lora(study.extent.photos, study.extent.prompts)
    distances = []
    rows = []
    for index, (silent, other) in enumerate(zip(*_drawn(study, count), strict=True)):
        # Without a usable photo there is no LoRA, and no effect of one to be measured.
        if silent is None or other is None:
            continue
        begun, called = ([shots.picture(index, place) for place in range(count)] for shots in (plain, spoken))
        distances.append([pixel_distance(begun, each) for each in (silent, called, other)])
        if index in plain.shown:
            rows.append((str(study.people[index].seed), [begun[0], silent[0], called[0], other[0]]))
    silent_N, spoken_N, seeds_N = np.array(distances).T
    ratio = ratio_over_people(silent_N, seeds_N)
    spoken_ratio = ratio_over_people(spoken_N, seeds_N)
    left_out = len(study.people) - ratio.people
    row = measured(
        "trigger", "distance without trigger words, over that of two seeds", "ratio", ratio,
        baseline=spoken_ratio.value, baseline_is="with trigger words", bar="at most 0.20, goal 0.05",
        reached=ratio.value <= MOST, note=f"{left_out} people have no usable photo" if left_out else "",
    )  # fmt: skip
    columns = ["without LoRA", "LoRA, no trigger words", "LoRA, trigger words", "without, other seed"]
    return Outcome([row], grids={"trigger": Grid("The same prompt and seed", columns, rows)})


def _drawn(study: MiniStudy, count: int) -> list[list[list[Image.Image] | None]]:
    """Everybody's pictures with the LoRA but without trigger words, and without LoRA from another seed."""

    def texts(one: HeldOut) -> list[str]:
        return [prompt_of(one.asked(place)) for place in range(count)]

    def seeds(one: HeldOut) -> list[int]:
        return [one.picture_seed(place) for place in range(count)]

    def other_seeds(one: HeldOut) -> list[int]:
        return [OTHER_SEED + seed for seed in seeds(one)]

    def loras_of(index: int) -> Weighted:
        return study.loras(index, study.extent.photos)

    return [
        list(study.drawn("without trigger words", texts, seeds, loras_of, trigger_words=False)),
        list(study.drawn("with other seeds", texts, other_seeds, None)),
    ]


def _pixels(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(image.convert("RGB"), np.float64) / 255
