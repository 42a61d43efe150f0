"""What to draw together: the renders of one person, cut into batches that share a batch key.

Inside one batch everything is equal but prompt, seed and guidance value: size, steps, scheduler, whether there is
guidance at all, and the weight of the LoRA that is merged. The order is fixed, so that a restart cuts the same way,
and LoRA weights come one after the other, so that each is merged once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.repository.renders import WaitingRender


@dataclass(frozen=True, order=True)
class BatchKey:
    """What must be equal inside one batch of a merged weight set."""

    lora_weight: float
    width: int
    height: int
    steps: int
    scheduler: str
    guided: bool


def batch_key(render: WaitingRender) -> BatchKey:
    """The key of the batches this render may be drawn in; guidance of 1 or less means none."""
    return BatchKey(
        render.lora_weight, render.width, render.height, render.steps, render.scheduler, render.guidance > 1.0
    )


def batches(renders: Sequence[WaitingRender], batch_size: int) -> list[tuple[BatchKey, list[WaitingRender]]]:
    """Cut renders into batches of at most `batch_size`: as few as possible, each with one key."""
    by_key: dict[BatchKey, list[WaitingRender]] = {}
    for render in sorted(renders, key=lambda render: (render.unit.job_id, render.ordinal)):
        by_key.setdefault(batch_key(render), []).append(render)
    return [
        (key, by_key[key][start : start + batch_size])
        for key in sorted(by_key)
        for start in range(0, len(by_key[key]), batch_size)
    ]
