"""What to draw together: the drawings for one person, cut into batches that share a batch key.

Inside one batch everything is equal but prompt, seed, guidance value and given pictures: size, steps, scheduler,
whether there is guidance at all, ControlNets, and the LoRAs that are merged. The order is fixed, so that a restart
cuts the same way, and LoRA weights come one after the other, so that each is merged once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hyperlora.detail import DetailPass
from worker.trial import Draw

# Their models know the steps of their own schedule only: a detail pass walks the end of the render's own steps.
FEW_STEP_SCHEDULERS = frozenset({"euler_trailing", "ddim_trailing", "lcm", "tcd", "dmd2"})


@dataclass(frozen=True, order=True)
class BatchKey:
    """What must be equal inside one batch."""

    lora_weight: float
    base_weight: float
    sliders: tuple[tuple[str, float], ...]  # photo set of the slider, weight
    member: int  # whose face is redrawn in a picture of several people; -1: everybody
    width: int
    height: int
    steps: int
    scheduler: str
    guided: bool
    strength: float
    given: str  # "", "image" or "mask": what the drawing starts from
    controls: tuple[tuple[str, float, float, float], ...]  # name, scale, start, end
    chunks: int  # text encoder lengths of the prompt
    people: int  # drawn side by side; 1 for a picture of one person

    @property
    def merged(self) -> tuple[object, ...]:
        """What must be merged into the network."""
        return self.lora_weight, self.base_weight, self.sliders, self.member


def batch_key(draw: Draw, *, chunks: int, detail_side: int, people: int = 1) -> BatchKey:
    """The key of the batches this drawing may be made in; guidance of 1 or less means none."""
    render, options, part = draw.render, draw.trial.options, draw.part
    width, height, steps, strength = render.width, render.height, render.steps, 1.0
    given, controls = "", tuple((c.net, c.scale, c.start, c.end) for c in options.control)
    if options.start is not None:
        strength, given = options.start.strength, "image" if options.start.mask is None else "mask"
    if part is not None:
        width = height = detail_side
        strength, given, controls = options.detail.strength, "image", ()
        if render.scheduler not in FEW_STEP_SCHEDULERS:
            steps = DetailPass(strength=strength, steps=options.detail.steps).schedule_steps
    return BatchKey(
        lora_weight=render.lora_weight,
        base_weight=options.base_weight,
        sliders=tuple((str(slider.photo_set), slider.weight) for slider in options.sliders),
        member=-1 if part is None or part.member is None else part.member,
        width=width,
        height=height,
        steps=steps,
        scheduler=render.scheduler,
        guided=render.guidance > 1.0,
        strength=strength,
        given=given,
        controls=controls,
        chunks=chunks,
        people=people if part is None else 1,
    )


class BatchSizes:
    """How many pictures fit at once: as configured, or as many as turned out to fit for that kind of picture."""

    def __init__(self, configured: int) -> None:
        self._configured = configured
        self._learned: dict[tuple[int | bool | str, ...], int] = {}

    def of(self, key: BatchKey) -> int:
        """The largest batch to try for this key."""
        return self._learned.get(_weight(key), self._configured)

    def did_not_fit(self, key: BatchKey, size: int) -> int:
        """Remember that `size` pictures did not fit; returns what to try from now on."""
        self._learned[_weight(key)] = max(1, (size + 1) // 2)
        return self.of(key)


def _weight(key: BatchKey) -> tuple[int | bool | str, ...]:
    """What a picture's memory depends on."""
    return key.width, key.height, key.guided, key.given, len(key.controls), key.people, key.chunks


def batches(
    draws: Sequence[Draw], sizes: BatchSizes, key_of: Callable[[Draw], BatchKey]
) -> list[tuple[BatchKey, list[Draw]]]:
    """Cut drawings into batches: as few as possible, each with one key and at most as large as fits."""
    by_key: dict[BatchKey, list[Draw]] = {}
    for draw in sorted(draws, key=_order):
        by_key.setdefault(key_of(draw), []).append(draw)
    return [
        (key, by_key[key][start : start + sizes.of(key)])
        for key in sorted(by_key)
        for start in range(0, len(by_key[key]), sizes.of(key))
    ]


def _order(draw: Draw) -> tuple[object, ...]:
    return draw.render.unit.job_id, draw.render.ordinal, draw.attempt, draw.part.number if draw.part else -1
