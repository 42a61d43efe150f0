"""Fakes with the real interface, for tests of the queue: no torch, no model, the same calls."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image as PilImage
from PIL.Image import Image

from worker.errors import OutOfMemory
from worker.renderer import Batch, GeneratedWeights, Sample, Verdict


class FakeRenderer:
    """Draws a flat colour that depends on weights, prompt and seed, and counts what it was asked to do.

    `fits` is the largest batch that does not run out of memory; `refuse` raises instead of generating; `step_seconds`
    is how long a denoising step takes.
    """

    device = "fake"
    model_fingerprint = hashlib.sha256(b"fake model").hexdigest()
    hyperlora_fingerprint = hashlib.sha256(b"fake hyperlora").hexdigest()
    conditioning = "fake"
    recogniser = "fake"
    notice: str | None = "fake: flat colours from a test renderer"

    def __init__(
        self,
        profile: str = "fake",
        *,
        batch_size: int = 4,
        fits: int | None = None,
        refuse: Callable[[Sequence[bytes]], Exception | None] = lambda photos: None,
        at_step: Callable[[int], None] = lambda step: None,
        step_seconds: float = 0.0,
    ) -> None:
        self.profile = profile
        self.batch_size = batch_size
        self.calls: Counter[str] = Counter()
        self.batch_sizes: list[int] = []
        self._fits, self._refuse, self._at_step = fits, refuse, at_step
        self._applied: tuple[Any, float] | None = None
        self._step_seconds = step_seconds
        self._pause = threading.Event()

    def generate(self, photos: Sequence[bytes], names: Sequence[str]) -> GeneratedWeights:
        """A stand-in weight set: the hash of the photos."""
        self.calls["generate"] += 1
        error = self._refuse(photos)
        if error is not None:
            raise error
        mark = hashlib.sha256(b"".join(photos)).digest()
        return GeneratedWeights(mark, mark, [Verdict(position, "usable") for position in range(len(names))])

    def load(self, lora: bytes) -> Any:
        """The stored bytes themselves."""
        self.calls["load"] += 1
        return lora

    def apply(self, weights: Any, weight: float) -> float:
        """Remember what is applied; nothing happens when it is already."""
        if self._applied == (weights, weight):
            return 0.0
        self.calls["merge"] += 1
        self._applied = (weights, weight)
        return 1e-6

    def final_prompt(self, prompt: str) -> str:
        """The prompt itself: there are no trigger words."""
        return prompt

    def draw(
        self,
        samples: Sequence[Sample],
        *,
        width: int,
        height: int,
        steps: int,
        scheduler: str,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Batch:
        """Flat pictures."""
        if self._fits is not None and len(samples) > self._fits:
            raise OutOfMemory
        began = time.perf_counter()
        for step in range(steps):
            self._at_step(step)
            if self._step_seconds:
                self._pause.wait(self._step_seconds)
            if on_step is not None:
                on_step(step, steps)
        self.calls["draw"] += 1
        self.batch_sizes.append(len(samples))
        images = [PilImage.new("RGB", (width, height), self._colour(sample)) for sample in samples]
        return Batch(images, time.perf_counter() - began, 0.0)

    def _colour(self, sample: Sample) -> tuple[int, int, int]:
        told = f"{self._applied!r} {sample.prompt} {sample.seed} {sample.guidance}"
        digest = hashlib.sha256(told.encode()).digest()
        return digest[0], digest[1], digest[2]

    def similarity(self, image: Image, reference_embedding: bytes) -> tuple[float | None, str | None]:
        """There is no face in a flat colour."""
        return None, "no_face"
