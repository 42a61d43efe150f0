"""What the engine asks of whoever draws: the seam between the queue and the model.

`worker.sdxl.SdxlRenderer` is the real one; `worker.testing.FakeRenderer` draws flat colours without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image


@dataclass(frozen=True)
class Verdict:
    """What was found in one reference photo: `usable`, `warning` or `refused`, and why."""

    position: int
    verdict: str
    reason: str | None = None


@dataclass(frozen=True)
class GeneratedWeights:
    """A weight set fresh from the hypernetwork: the LoRA as safetensors, and the face to compare pictures with."""

    lora: bytes
    reference_embedding: bytes  # float32, little-endian, unit length
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Sample:
    """What differs between the pictures of one batch."""

    prompt: str
    negative_prompt: str
    seed: int
    guidance: float


@dataclass(frozen=True)
class Batch:
    """Finished pictures in the order of the samples, and the seconds the whole batch took."""

    images: Sequence[Image]
    seconds_denoise: float
    seconds_decode: float


class Renderer(Protocol):
    """One profile, loaded on one device."""

    profile: str
    device: str
    model_fingerprint: str
    hyperlora_fingerprint: str
    conditioning: str  # whatever else decides a weight set: analyzer, CLIP, preprocessing
    recogniser: str
    batch_size: int
    notice: str | None  # what must be said beside every picture, such as "untrained"

    def generate(self, photos: Sequence[bytes], names: Sequence[str]) -> GeneratedWeights:
        """One person's photos to a LoRA. Raises FaceError when no photo can be used."""

    def load(self, lora: bytes) -> Any:
        """Make a stored LoRA ready to be applied. Raises LoRAMismatch, NonFiniteWeights."""

    def apply(self, weights: Any, weight: float) -> float:
        """Merge a loaded LoRA into the network, replacing whatever was merged; returns seconds, 0.0 if it is there."""

    def final_prompt(self, prompt: str) -> str:
        """The prompt as it is encoded, trigger words included."""

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
        """Draw one batch with what is applied. Raises OutOfMemory; what `on_step` raises ends the batch."""

    def similarity(self, image: Image, reference_embedding: bytes) -> tuple[float | None, str | None]:
        """Cosine between the picture's face and the reference, or None and the reason."""
