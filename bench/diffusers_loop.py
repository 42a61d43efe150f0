"""What a user would write with diffusers: a LoRA file for each person, `load_lora_weights`, and the pipeline's call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from bench.product import LORA_WEIGHT, Asked
from hyperlora.lora import LoRA


class DiffusersLoop:
    """An SDXL pipeline of diffusers' own with the same weights and sampler; nothing merged, nothing compiled."""

    def __init__(self, base: str, device: torch.device, dtype: torch.dtype, *, trigger_words: str) -> None:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

        pipe: Any = cast(Any, StableDiffusionXLPipeline).from_pretrained(base, dtype=dtype)
        pipe.scheduler = cast(Any, DPMSolverMultistepScheduler).from_config(
            pipe.scheduler.config, use_karras_sigmas=True
        )
        pipe.set_progress_bar_config(disable=True)
        self._pipe, self._words = pipe.to(device), trigger_words

    def draw(self, asked: Asked, files: Sequence[Path], *, batch: int) -> None:
        """Everybody's pictures: a person's LoRA on, the pictures `batch` at a time, the LoRA off again."""
        for file in files:
            self._pipe.load_lora_weights(str(file))
            for start in range(0, asked.prompts, batch):
                self._draw(asked, start, min(batch, asked.prompts - start))
            self._pipe.unload_lora_weights()

    def _draw(self, asked: Asked, start: int, count: int) -> None:
        texts = [f"{self._words}, {text}".lstrip(", ") for text in asked.texts[start : start + count]]
        self._pipe(
            texts,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance,
            generator=[torch.Generator().manual_seed(start + n) for n in range(count)],
            width=asked.size,
            height=asked.size,
            cross_attention_kwargs={"scale": LORA_WEIGHT},
        )


def save_loras(loras: Sequence[LoRA], folder: Path) -> list[Path]:
    """Files in diffusers' own names."""
    files = []
    for number, lora in enumerate(loras):
        file = folder / f"person-{number}.safetensors"
        lora.save(file, format="diffusers")
        files.append(file)
    return files
