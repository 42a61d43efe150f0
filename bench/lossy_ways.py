"""The ways of `bench/lossy.py`, drawn and timed with one model in memory."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench import common
from bench.lossy_people import Asked
from bench.lossy_pictures import Pictures
from hyperlora.engine import EngineOptions
from hyperlora.errors import LossyMismatch
from hyperlora.evaluation.model import PortraitModel
from hyperlora.lossy import EXACT, CacheOptions, LossyOptions
from hyperlora.lossy.kinds import KINDS
from hyperlora.pipeline import PortraitPipeline
from hyperlora.sample import Sample

EXACT_WAY = "exact"
OTHER_SEED = 7_000_001
MOST_TIMED = 8
"""Pictures of the batch that is timed, unless the command says another number."""
COLUMNS = (
    "way", "times as fast", "ms a step", "change of person, ms", "PSNR, dB (lowest)", "CLIP distance",
    "face to exact", "face to person", "rank-1", "attributes",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How pictures are drawn: with lossy options, with a share of the steps, or from other noise."""

    lossy: LossyOptions = EXACT
    steps: float = 1.0
    seed: int = 0


_SECOND, _THIRD = CacheOptions(every=2), CacheOptions(every=3)
WAYS: Mapping[str, Way] = {
    EXACT_WAY: Way(),
    "int8": Way(LossyOptions("int8")),
    "fp8": Way(LossyOptions("fp8")),
    "fp8-emulated": Way(LossyOptions("fp8-emulated")),
    "cache-2": Way(LossyOptions(cache=_SECOND)),
    "cache-3": Way(LossyOptions(cache=_THIRD)),
    "int8+cache-2": Way(LossyOptions("int8", _SECOND)),
    "fp8+cache-2": Way(LossyOptions("fp8", _SECOND)),
    "half-the-steps": Way(steps=0.5),
    "another-seed": Way(seed=OTHER_SEED),
}


def default_ways(device: torch.device) -> list[str]:
    """All that the device can; emulated where it cannot."""
    try:
        KINDS["fp8"].require_device(device)
    except LossyMismatch:
        return [name for name in WAYS if name not in ("fp8", "fp8+cache-2")]
    return [name for name in WAYS if name != "fp8-emulated"]


class Drawer:
    """One model that is switched from way to way."""

    def __init__(self, model: PortraitModel, asked: Sequence[Asked], *, compile_as: Any = "off") -> None:
        self.model, self.asked, self.compile_as = model, asked, compile_as
        if compile_as != "off":
            old = model.pipeline
            engine = EngineOptions(compile=compile_as)
            model.pipeline = PortraitPipeline(old.components, trigger_words=old.trigger_words, engine=engine)

    def pictures(self, way: Way) -> Pictures:
        """Everybody's pictures."""
        with self._switched(way) as model:
            return Pictures(
                [model.draw(one.loras, one.prompts, [seed + way.seed for seed in one.seeds])[0] for one in self.asked]
            )

    def times(self, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
        """Denoising of a full batch, all ways in turns, and what a change of person takes in each."""
        batch = options.batch or min(MOST_TIMED, self.model.setting.batch_size)
        timed = [name for name in names if not WAYS[name].seed]
        turns = common.take_turns(
            {name: self._denoising(WAYS[name], batch) for name in timed}, repeat=options.repeat, device=options.device
        )
        steps = {name: self._steps(WAYS[name]) for name in timed}
        return {
            "batch": batch,
            "compile": self.compile_as,
            "step_seconds": {name: turns.spread(name).scaled(1 / steps[name]) for name in timed},
            "seconds_a_picture": {name: turns.spread(name).scaled(1 / batch) for name in timed},
            "faster": {name: turns.faster(name, EXACT_WAY) for name in timed},
            "change_ms": {name: self._change_ms(WAYS[name], options.repeat) for name in timed},
            "buffer_bytes": {name: self._buffer_bytes(WAYS[name]) for name in timed},
            "told": {name: WAYS[name].lossy.told for name in names},
        }

    def _denoising(self, way: Way, batch: int) -> Callable[[], float]:
        one = self.asked[0]
        guidance = self.model.setting.guidance
        samples = [Sample(one.prompts[0], seed, guidance=guidance) for seed in range(batch)]

        def act() -> float:
            with self._switched(way) as model:
                setting = model.setting
                model.pipeline.apply(one.loras)
                if self.compile_as != "off":
                    model.pipeline.engine.warm(setting.size, setting.size, batch, guided=guidance > 1)
                return model.pipeline.draw(
                    samples, width=setting.size, height=setting.size, steps=setting.steps, scheduler=setting.scheduler
                ).seconds["denoise"]

        return act

    def _change_ms(self, way: Way, repeat: int) -> float:
        """The median of a merge and what must be made anew after it; two people in turns, or one and nobody."""
        others = [one.loras for one in self.asked[:2]]
        others = others if len(others) > 1 else [*others, []]
        with self._switched(way) as model:
            seconds = [model.pipeline.apply(others[turn % 2]) for turn in range(2 * repeat + 2)]
        return 1e3 * statistics.median(seconds[2:])

    def _buffer_bytes(self, way: Way) -> int:
        with self._switched(way) as model:
            return model.pipeline.lossy.buffer_bytes

    def _steps(self, way: Way) -> int:
        return max(1, round(self.model.setting.steps * way.steps))

    @contextmanager
    def _switched(self, way: Way) -> Any:
        """The model in this way; number types may change here although shapes are warm, as they are warmed anew."""
        model, setting = self.model, self.model.setting
        model.pipeline.engine.warmed.clear()
        model.pipeline.use(way.lossy)
        model.setting = replace(setting, steps=self._steps(way))
        try:
            yield model
        finally:
            model.setting = setting
