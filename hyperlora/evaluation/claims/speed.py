"""No cost at inference: a step with merged LoRAs takes as long as a plain one."""

from __future__ import annotations

import numpy as np

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.rows import measured
from hyperlora.evaluation.statistics import bootstrap
from hyperlora.evaluation.study import MiniStudy
from hyperlora.sample import Sample

ROUNDS, STEPS, MOST_PICTURES = 7, 4, 8
PROMPT = "portrait photo of a person"


def speed(study: MiniStudy) -> Outcome:
    """Milliseconds per step of a batch, plain and merged in turns, the medians compared; also of one merge."""
    plain, merged, merges = [], [], []
    loras = study.loras(study.photos.usable(1)[0], 1)
    for place in range(ROUNDS + 1):
        study.tell("measuring steps", place, ROUNDS + 1)
        study.model.pipeline.apply([])
        without = _step_ms(study)
        seconds = study.model.pipeline.apply(loras)
        with_lora = _step_ms(study)
        if place:  # the first round warms up
            plain.append(without)
            merged.append(with_lora)
            merges.append(1000 * seconds)
    study.model.pipeline.restore()
    merged_R, plain_R = np.array(merged), np.array(plain)
    step = bootstrap(lambda chosen_DR: np.median(merged_R[chosen_DR], axis=1), ROUNDS)
    batch = _pictures(study)
    row = measured(
        "speed", f"ms per step of {batch} pictures, merged", "ms", step,
        baseline=float(np.median(plain_R)), baseline_is="plain",
        note=f"medians of {ROUNDS} rounds, interval over rounds; one merge takes {np.median(merges):.1f} ms",
    )  # fmt: skip
    return Outcome([row])


def _step_ms(study: MiniStudy) -> float:
    """The UNet alone, guidance and sampler: neither text nor decoding."""
    setting = study.model.setting
    samples = [Sample(PROMPT, seed, guidance=setting.guidance) for seed in range(_pictures(study))]
    steps = min(STEPS, setting.steps)
    drawing = study.model.pipeline.draw(
        samples, width=setting.size, height=setting.size, steps=steps, scheduler=setting.scheduler
    )
    return 1000 * drawing.seconds["denoise"] / steps


def _pictures(study: MiniStudy) -> int:
    return min(MOST_PICTURES, study.model.setting.batch_size)
