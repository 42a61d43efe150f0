"""Prompts and LoRAs into portraits, a batch at a time, on diffusers' own SDXL components."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest
from hyperlora.lora import LoRA
from hyperlora.merge import WeightMerger
from hyperlora.prompts import PromptEmbedding, PromptEncoder, with_trigger_words
from hyperlora.sampling import Conditioning, StepCallback, decode, denoise, draw_noise, make_conditioning
from hyperlora.schedulers import DEFAULT_SCHEDULER, make_scheduler


@dataclass(frozen=True)
class Sample:
    """One picture to draw; guidance 1 or below draws without the negative prompt, at half the cost."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    guidance: float = 5.0


@dataclass(frozen=True)
class Drawing:
    """A drawn batch: a picture per sample, and the seconds of `encode_prompt`, `denoise`, `decode`."""

    images: list[Image.Image]
    seconds: dict[str, float] = field(default_factory=dict)


class PortraitPipeline:
    """An SDXL model that LoRAs are merged into and that draws batches of samples.

    `trigger_words` are put in front of every prompt that lacks them (see `final_prompt`); "" adds none.
    """

    def __init__(self, components: SDXLComponents, *, trigger_words: str = "", decode_at_once: int = 4) -> None:
        self.components = components
        self.trigger_words = trigger_words
        self.decode_at_once = decode_at_once
        self.prompts = PromptEncoder(components.tokenizers, components.text_encoders)
        self.merger = WeightMerger(components.unet)
        self._applied: tuple[tuple[LoRA, float], ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id_or_file: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        trigger_words: str = "",
        revision: str | None = None,
        variant: str | None = None,
    ) -> PortraitPipeline:
        """Load a diffusers SDXL folder, a hub id, or a single .safetensors file; `WeightsMissing` where it is not."""
        components = SDXLComponents.load(
            folder_or_hub_id_or_file, device=device, dtype=dtype, revision=revision, variant=variant
        )
        return cls(components, trigger_words=trigger_words)

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

    @cached_property
    def fingerprint(self) -> str:
        """The base model's SHA-256, 64 hex digits: names and contents of its config, vocabulary and weight files.

        For a single file it is the file's own SHA-256. Computed when first asked for; every file is read once.
        """
        return self.components.fingerprint()

    def apply(self, loras: Sequence[tuple[LoRA, float]]) -> float:
        """Make the UNet pristine plus these LoRAs; returns the seconds, 0.0 if exactly this is applied already.

        Raises what `WeightMerger.merge` raises; after an error nothing is applied.
        """
        if self._is_applied(loras):
            return 0.0
        self._applied = ()
        started = self._now()
        if loras:
            self.merger.merge(loras)
        else:
            self.merger.restore()
        self._applied = tuple(loras)
        return self._now() - started

    def restore(self) -> None:
        """Give the UNet its pristine weights back, bit for bit."""
        self._applied = ()
        self.merger.restore()

    def final_prompt(self, sample: Sample) -> str:
        """The prompt as it is encoded: with the trigger words."""
        return with_trigger_words(sample.prompt, self.trigger_words)

    @torch.inference_mode()
    def draw(
        self,
        samples: Sequence[Sample],
        *,
        width: int,
        height: int,
        steps: int,
        scheduler: str = DEFAULT_SCHEDULER,
        on_step: StepCallback | None = None,
    ) -> Drawing:
        """Draw one batch with the LoRAs that are applied; a picture does not depend on its neighbours.

        `on_step(done, steps)` is called after every step and may raise to abort; the pipeline stays usable.

        Raises `InvalidRequest` for sizes, steps or guidance that cannot be drawn, `UnknownScheduler`, and
        `NonFinitePicture` where the model's numbers overflow.
        """
        seconds: dict[str, float] = {}
        # 1. Refuse what cannot be drawn.
        self._check(samples, width, height, steps)
        sampler = make_scheduler(scheduler, self.components.scheduler_config)
        # 2. Texts into embeddings.
        with self._timed("encode_prompt", seconds):
            conditioning = self._encode(samples, width, height)
        with self._timed("denoise", seconds):
            # 3. Noise, each sample from its own seed.
            unet = self.components.unet
            noise = draw_noise(
                [sample.seed for sample in samples],
                unet.config.in_channels,
                height // self.size_step,
                width // self.size_step,
            )
            # 4. Noise into latents.
            latents = denoise(unet, sampler, noise, conditioning, steps, on_step)
        # 5. Latents into pictures.
        with self._timed("decode", seconds):
            images = decode(self.components.vae, latents, at_once=self.decode_at_once)
        return Drawing(images, seconds)

    def __call__(
        self,
        prompts: str | Sequence[str],
        loras: Sequence[tuple[LoRA, float]] = (),
        *,
        seeds: int | Sequence[int],
        negative_prompt: str = "",
        guidance: float = 5.0,
        width: int | None = None,
        height: int | None = None,
        steps: int = 20,
        scheduler: str = DEFAULT_SCHEDULER,
        batch_size: int = 4,
        on_step: StepCallback | None = None,
    ) -> list[Image.Image]:
        """Apply the LoRAs and draw a picture per prompt and seed, in batches.

        One prompt with many seeds, or many prompts with one seed, are paired with each other; else both need the same
        length (`InvalidRequest`). Sizes default to what the base model was trained for. The LoRAs stay applied.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        numbers = [seeds] if isinstance(seeds, int) else list(seeds)
        count = max(len(texts), len(numbers))
        if not texts or not numbers or len(texts) not in (1, count) or len(numbers) not in (1, count) or batch_size < 1:
            raise InvalidRequest(
                f"prompts and seeds are paired, batch_size is at least 1; found {len(texts)} prompts, "
                f"{len(numbers)} seeds, batch_size {batch_size}"
            )
        pairs = zip(texts * (count // len(texts)), numbers * (count // len(numbers)), strict=True)
        samples = [Sample(text, seed, negative_prompt, guidance) for text, seed in pairs]
        self.apply(loras)
        images: list[Image.Image] = []
        for start in range(0, count, batch_size):
            drawing = self.draw(
                samples[start : start + batch_size],
                width=width or self.default_size,
                height=height or self.default_size,
                steps=steps,
                scheduler=scheduler,
                on_step=on_step,
            )
            images.extend(drawing.images)
        return images

    def _check(self, samples: Sequence[Sample], width: int, height: int, steps: int) -> None:
        if not samples:
            raise InvalidRequest("a batch needs at least one sample, found none")
        step = self.size_step
        if width < step or height < step or width % step or height % step:
            raise InvalidRequest(f"width and height must be positive multiples of {step}, found {width} x {height}")
        if steps < 1:
            raise InvalidRequest(f"steps must be at least 1, found {steps}")
        for sample in samples:
            if not 0 <= sample.seed < 2**64:
                raise InvalidRequest(f"a seed must be from 0 to 2**64 - 1, found {sample.seed}")
            if not abs(sample.guidance) < float("inf"):
                raise InvalidRequest(f"guidance must be a finite number, found {sample.guidance}")
        guided = {sample.guidance > 1 for sample in samples}
        if len(guided) > 1:
            raise InvalidRequest(
                "a batch is drawn with guidance (above 1) or without (1 or below), found both: "
                f"{sorted({sample.guidance for sample in samples})}; draw them in two batches"
            )

    def _encode(self, samples: Sequence[Sample], width: int, height: int) -> Conditioning:
        prompts = [self.prompts.encode(self.final_prompt(sample)) for sample in samples]
        guided = samples[0].guidance > 1
        return make_conditioning(
            prompts,
            [self._negative(sample, prompt) for sample, prompt in zip(samples, prompts, strict=True)]
            if guided
            else None,
            [sample.guidance for sample in samples],
            width=width,
            height=height,
            device=self.device,
            dtype=self.components.unet.dtype,
        )

    def _negative(self, sample: Sample, prompt: PromptEmbedding) -> PromptEmbedding:
        # SDXL was trained with zeros for "no text"; its folders say so.
        if not sample.negative_prompt and self.components.force_zeros_for_empty_prompt:
            return prompt.zeros()
        return self.prompts.encode(sample.negative_prompt)

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
