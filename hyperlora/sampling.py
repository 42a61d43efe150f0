"""The steps from a batch of samples to pictures: noise, denoise, decode.

Shapes: B samples, T text tokens, C their width, P pooled width; latents (B, 4, H/8, W/8).

Nothing here mixes samples, and each sample's noise comes from its own seed, so a picture does not depend on the batch
that it is drawn in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from hyperlora.errors import NonFinitePicture
from hyperlora.prompts import PromptEmbedding

StepCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Conditioning:
    """What the UNet reads beside the latents; with guidance the first half of the rows is the negative prompt."""

    tokens_BTC: torch.Tensor
    pooled_BP: torch.Tensor
    time_ids_B6: torch.Tensor
    guidance_B111: torch.Tensor | None


def draw_noise(seeds: Sequence[int], channels: int, height: int, width: int) -> torch.Tensor:
    """Standard normal latents (B, channels, height, width), float32 on the CPU, one generator per seed.

    The CPU's generator gives the same numbers on every machine and for every batch.
    """
    shape = (1, channels, height, width)
    return torch.cat([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])


def make_conditioning(
    prompts: Sequence[PromptEmbedding],
    negatives: Sequence[PromptEmbedding] | None,
    guidance: Sequence[float],
    *,
    width: int,
    height: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Conditioning:
    """Stack the embeddings of a batch; without negatives there is no classifier-free guidance.

    Time ids are SDXL's micro-conditioning: original size, crop corner (0, 0), target size.
    """
    rows = [*(negatives or ()), *prompts]
    ids = torch.tensor([height, width, 0, 0, height, width], device=device, dtype=dtype)
    scale_B = torch.tensor(list(guidance), device=device, dtype=torch.float32)
    return Conditioning(
        tokens_BTC=torch.stack([row.tokens_TC for row in rows]).to(device, dtype),
        pooled_BP=torch.stack([row.pooled_P for row in rows]).to(device, dtype),
        time_ids_B6=ids.expand(len(rows), -1),
        guidance_B111=None if negatives is None else scale_B.view(-1, 1, 1, 1),
    )


def denoise(
    unet: Any,
    scheduler: Any,
    noise_BCHW: torch.Tensor,
    conditioning: Conditioning,
    steps: int,
    on_step: StepCallback | None = None,
) -> torch.Tensor:
    """Walk from noise to latents in `steps` steps; returns float32.

    Latents and guidance stay float32, only the UNet sees its own dtype. `on_step(done, steps)` is called after every
    step; what it raises ends the walk.
    """
    device = conditioning.tokens_BTC.device
    scheduler.set_timesteps(steps, device=device)
    latents: torch.Tensor = noise_BCHW.to(device) * scheduler.init_noise_sigma
    added = {"text_embeds": conditioning.pooled_BP, "time_ids": conditioning.time_ids_B6}
    total = len(scheduler.timesteps)
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        inputs = latents if conditioning.guidance_B111 is None else torch.cat([latents, latents])
        inputs = scheduler.scale_model_input(inputs, timestep).to(unet.dtype)
        predicted = unet(
            inputs,
            timestep,
            encoder_hidden_states=conditioning.tokens_BTC,
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        if conditioning.guidance_B111 is not None:
            without, with_prompt = predicted.chunk(2)
            predicted = without + conditioning.guidance_B111 * (with_prompt - without)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(done, total)
    return latents


def decode(vae: Any, latents_BCHW: torch.Tensor, *, at_once: int) -> list[Image.Image]:
    """Latents into RGB pictures, `at_once` of them in one pass of the VAE.

    Raises `NonFinitePicture` where the model gave NaN or infinity, which would look like a black picture.
    """
    latents_BCHW = _unscaled(vae.config, latents_BCHW).to(vae.dtype)
    pictures: list[Image.Image] = []
    for chunk in torch.split(latents_BCHW, at_once):
        pixels_B3HW = vae.decode(chunk, return_dict=False)[0].float()
        if not torch.isfinite(pixels_B3HW).all():
            raise NonFinitePicture()
        bytes_BHW3 = (pixels_B3HW / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        pictures.extend(Image.fromarray(picture) for picture in bytes_BHW3.cpu().numpy())
    return pictures


def _unscaled(config: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    scale = float(config.scaling_factor)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents_BCHW / scale
    mean_1C11 = torch.tensor(mean, device=latents_BCHW.device).view(1, -1, 1, 1)
    std_1C11 = torch.tensor(std, device=latents_BCHW.device).view(1, -1, 1, 1)
    return latents_BCHW * std_1C11 / scale + mean_1C11
