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
from hyperlora.evaluation.shots import KEPT_PEOPLE
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
    sets = _drawn(study)
    distances = []
    rows = []
    for index, (plain, other, silent, spoken) in enumerate(zip(*sets, strict=True)):
        # Without a usable photo there is no LoRA, and no effect of one to be measured.
        if plain is None or other is None or silent is None or spoken is None:
            continue
        distances.append([pixel_distance(plain, each) for each in (silent, spoken, other)])
        if index < KEPT_PEOPLE:
            rows.append((str(study.people[index].seed), [plain[0], silent[0], spoken[0], other[0]]))
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


def _drawn(study: MiniStudy) -> list[list[list[Image.Image] | None]]:
    """Everybody's pictures without LoRA, the same with another seed, with the LoRA silent, and with it called."""
    count = min(PICTURES, study.extent.prompts)

    def texts(one: HeldOut) -> list[str]:
        return [prompt_of(one.asked(place)) for place in range(count)]

    def seeds(one: HeldOut) -> list[int]:
        return [one.picture_seed(place) for place in range(count)]

    def other_seeds(one: HeldOut) -> list[int]:
        return [OTHER_SEED + seed for seed in seeds(one)]

    def loras_of(index: int) -> Weighted:
        return study.loras(index, study.extent.photos)

    return [
        list(study.drawn("without LoRA", texts, seeds, None)),
        list(study.drawn("without LoRA, other seeds", texts, other_seeds, None)),
        list(study.drawn("without trigger words", texts, seeds, loras_of, trigger_words=False)),
        list(study.drawn("with trigger words", texts, seeds, loras_of)),
    ]


def _pixels(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(image.convert("RGB"), np.float64) / 255
