"""One base model in memory, with the LoRAs of whoever is drawn merged into its weights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch

from hyperlora.components import SDXLComponents
from hyperlora.lora import LoRA
from hyperlora.lossy import Lossy
from hyperlora.merge import WeightMerger
from hyperlora.presets import Preset


class MergedModel:
    """SDXL's parts and the merger that swaps LoRAs in its UNet."""

    def __init__(self, components: SDXLComponents) -> None:
        self.components = components
        self.merger = WeightMerger(components.unet, pristine_on_host=components.pristine_on_host)
        self._applied: tuple[tuple[LoRA, float], ...] = ()
        self.lossy = Lossy(components.unet)

    @property
    def device(self) -> torch.device:
        """Where the UNet runs."""
        device: torch.device = self.components.unet.device
        return device

    @property
    def size_step(self) -> int:
        """Width and height must be multiples of this: pixels per latent."""
        return 1 << (len(self.components.vae.config.block_out_channels) - 1)

    @property
    def default_size(self) -> int:
        """The side length that the base model was trained for, in pixels."""
        return int(self.components.unet.config.sample_size) * self.size_step

    @property
    def preset(self) -> Preset | None:
        """The few-step preset that is fused into the UNet."""
        return self.components.preset

    @property
    def fingerprint(self) -> str:
        """The base model's SHA-256, 64 hex digits: names and contents of its config, vocabulary and weight files.

        For a single file it is the file's own SHA-256; a preset's name and weights count too, and lossy options that
        are on. Computed when first asked for; every file is read once.
        """
        return self.lossy.options.fingerprint(self._base_fingerprint)

    @cached_property
    def _base_fingerprint(self) -> str:
        return self.components.fingerprint()

    def apply(self, loras: Sequence[tuple[LoRA, float]]) -> float:
        """Make the UNet pristine plus these LoRAs; returns the seconds, 0.0 if exactly this is applied already.

        Raises what `WeightMerger.merge` raises; after an error nothing is applied.
        """
        if self._is_applied(loras):
            return 0.0
        self._applied = ()
        started = self._now()
        try:
            if loras:
                self.merger.merge(loras)
            else:
                self.merger.restore()
        finally:
            self.lossy.refresh(self.merger.layers)
        self._applied = tuple(loras)
        return self._now() - started

    def restore(self) -> None:
        """Give the UNet its pristine weights back, bit for bit."""
        self._applied = ()
        self.merger.restore()
        self.lossy.refresh(self.merger.layers)

    def _is_applied(self, loras: Sequence[tuple[LoRA, float]]) -> bool:
        return len(loras) == len(self._applied) and all(
            weight == old_weight and lora.equals(old)
            for (lora, weight), (old, old_weight) in zip(loras, self._applied, strict=True)
        )

    @contextmanager
    def _timed(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        started = self._now()
        yield
        seconds[name] = self._now() - started

    def _now(self) -> float:
        # A GPU works on after a call returns; a time means something only when it has finished.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
