"""What drawing costs on a device: whether people are better drawn one after another or together.

A batch of one person's pictures is drawn with the LoRA merged. A batch of several people's has one LoRA per sample on
activations, which is dearer for each picture, and cheaper than batches that are nearly empty. `portraits calibrate`
measures both; what it found is kept in PORTRAITS_HOME, one entry for each model on each device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.advice import AdviceFile
from worker.renderer import Renderer

FILE = "calibration.json"


@dataclass(frozen=True)
class Costs:
    """Seconds of drawing with guidance.

    Parameters
    ----------
    base, each
        A denoising step of n merged pictures of `pixels` takes base + n * each.
    dearer
        A step with one LoRA per sample takes so much more, as a share: 0.14 is 14 %.
    merge
        Merging one person, once a batch.
    own
        Making one picture's own LoRA ready, once a picture of a mixed batch.
    pixels
        Width times height that was measured; `each` grows with it.
    """

    base: float
    each: float
    dearer: float
    merge: float
    own: float
    pixels: int

    def __post_init__(self) -> None:
        """Raises ValueError for what is no time or no size, TypeError for what is no number."""
        if not all(math.isfinite(value) and value >= 0 for value in asdict(self).values()) or self.pixels < 1:
            raise ValueError(f"wanted seconds of at least 0 and pixels of at least 1, found {asdict(self)}")

    def merged(self, count: int, steps: int, pixels: int) -> float:
        """A batch of one person's pictures."""
        return self.merge + steps * self._step(count, pixels)

    def mixed(self, count: int, steps: int, pixels: int) -> float:
        """A batch of several people's pictures."""
        return count * self.own + steps * self._step(count, pixels) * (1 + self.dearer)

    def to_mix(self, counts: Sequence[int], size: int, steps: int, pixels: int) -> int:
        """How many of these left-over batches, the smallest ones first, are cheapest drawn together.

        `counts` are their pictures in ascending order, `size` is the largest batch. 0 or at least 2.
        """
        apart = [self.merged(count, steps, pixels) for count in counts]
        best, least = 0, sum(apart)
        for chosen in range(2, len(counts) + 1):
            together = sum(counts[:chosen])
            whole, left = divmod(together, size)
            cost = whole * self.mixed(size, steps, pixels) + sum(apart[chosen:])
            cost += self.mixed(left, steps, pixels) if left else 0.0
            if cost < least:
                best, least = chosen, cost
        return best

    def left_over(self, counts: Sequence[int], size: int, steps: int, pixels: int) -> float:
        """Seconds of these left-over batches, in ascending order, with as many of them together as is cheapest."""
        chosen = self.to_mix(counts, size, steps, pixels)
        whole, left = divmod(sum(counts[:chosen]), size)
        together = whole * self.mixed(size, steps, pixels) + (self.mixed(left, steps, pixels) if left else 0.0)
        return together + sum(self.merged(count, steps, pixels) for count in counts[chosen:])

    def pays(self, count: int, size: int, steps: int, pixels: int) -> bool:
        """Whether pictures of a left-over batch are cheaper in a full mixed batch, if enough others are found."""
        return 0 < count < size and (self.mixed(size, steps, pixels) / size < self.merged(count, steps, pixels) / count)

    def _step(self, count: int, pixels: int) -> float:
        return self.base + count * self.each * pixels / self.pixels


GPU = Costs(base=0.018, each=0.028, dearer=0.14, merge=0.005, own=0.002, pixels=1024 * 1024)
"""An H100 with SDXL, compiled, in float16: what is assumed of a GPU until it is measured. Only proportions count."""


def name_of(renderer: Renderer) -> str:
    """By what a calibration is found: device and base model."""
    return f"{renderer.device}, model {renderer.model_fingerprint}"


def load_costs(home: Path, renderer: Renderer) -> Costs | None:
    """What was measured for this model on this device; else the assumption for GPUs, and None for a CPU or a fake.

    With None people are never drawn together. A file that is no calibration is warned of, and the same assumed.
    """
    file = calibration(home)
    found = file.entry(name_of(renderer))
    costs = None if found is None else file.told(Costs, found)
    if costs is not None:
        return costs
    return None if renderer.device.startswith(("cpu", "fake")) else GPU


def save_costs(home: Path, renderer: Renderer, costs: Costs) -> Path:
    """Keep what was measured; returns the file."""
    file = calibration(home)
    file.keep(name_of(renderer), asdict(costs))
    return file.path


def calibration(home: Path) -> AdviceFile:
    """What `portraits calibrate` found, for every model and device of this home."""
    return AdviceFile(home / FILE, again="run `portraits calibrate` again")
