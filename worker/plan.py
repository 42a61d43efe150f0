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


class BatchSizes:
    """How many pictures fit at once: as configured, or as many as turned out to fit for that size of picture."""

    def __init__(self, configured: int) -> None:
        self._configured = configured
        self._learned: dict[tuple[int, int, bool], int] = {}

    def of(self, key: BatchKey) -> int:
        """The largest batch to try for this key."""
        return self._learned.get((key.width, key.height, key.guided), self._configured)

    def did_not_fit(self, key: BatchKey, size: int) -> int:
        """Remember that `size` pictures did not fit; returns what to try from now on."""
        self._learned[key.width, key.height, key.guided] = max(1, (size + 1) // 2)
        return self.of(key)


def batches(renders: Sequence[WaitingRender], sizes: BatchSizes) -> list[tuple[BatchKey, list[WaitingRender]]]:
    """Cut renders into batches: as few as possible, each with one key and at most as large as fits."""
    by_key: dict[BatchKey, list[WaitingRender]] = {}
    for render in sorted(renders, key=lambda render: (render.unit.job_id, render.ordinal)):
        by_key.setdefault(batch_key(render), []).append(render)
    return [
        (key, by_key[key][start : start + sizes.of(key)])
        for key in sorted(by_key)
        for start in range(0, len(by_key[key]), sizes.of(key))
    ]
