"""The steps from a batch of samples to pictures: noise, denoise, decode.

Shapes: B samples, T text tokens, C their width, P pooled width; latents (B, 4, H/8, W/8).

Nothing here mixes samples, and each sample's noise comes from its own seed, so a picture does not depend on the batch
that it is drawn in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperlora.control import ControlInput, residuals
from hyperlora.errors import NonFinitePicture
from hyperlora.host_memory import present
from hyperlora.pace import Pace
from hyperlora.schedulers import takes_generator
from hyperlora.texts import TextPair

StepCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Conditioning:
    """What the UNet reads beside the latents; with guidance the first half of the rows is the negative prompt."""

    tokens_BTC: torch.Tensor
    pooled_BP: torch.Tensor
    time_ids_B6: torch.Tensor
    guidance_B111: torch.Tensor | None

    @cached_property
    def added(self) -> dict[str, torch.Tensor]:
        """What SDXL's UNet takes beside the tokens."""
        return {"text_embeds": self.pooled_BP, "time_ids": self.time_ids_B6}


def make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per seed, on the CPU, which gives the same numbers on every machine and for every batch.

    The first numbers are the noise that a picture begins with; samplers that add noise draw on from there.
    """
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_noise(generators: Sequence[torch.Generator], channels: int, height: int, width: int) -> torch.Tensor:
    """Standard normal latents (B, channels, height, width), float32 on the CPU, a row per generator."""
    return torch.cat([torch.randn((1, channels, height, width), generator=each) for each in generators])


def make_conditioning(
    texts: Sequence[TextPair],
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
    negatives = [text.negative for text in texts if text.negative is not None]
    rows = [*negatives, *(text.prompt for text in texts)]
    ids = torch.tensor([height, width, 0, 0, height, width], device=device, dtype=dtype)
    scale_B = torch.tensor(list(guidance), device=device, dtype=torch.float32)
    return Conditioning(
        tokens_BTC=torch.stack([row.tokens_TC for row in rows]).to(device, dtype),
        pooled_BP=torch.stack([row.pooled_P for row in rows]).to(device, dtype),
        time_ids_B6=ids.expand(len(rows), -1),
        guidance_B111=scale_B.view(-1, 1, 1, 1) if negatives else None,
    )


def denoise(
    unet: Any,
    scheduler: Any,
    timesteps: torch.Tensor,
    latents_BCHW: torch.Tensor,
    conditioning: Conditioning,
    *,
    generators: Sequence[torch.Generator],
    controls: Sequence[ControlInput] = (),
    keep: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None = None,
    on_step: StepCallback | None = None,
) -> torch.Tensor:
    """Walk over the timesteps from noisy latents to clean ones; returns float32.

    Latents and guidance stay float32, only the UNet sees its own dtype. `generators` (one per sample) feed samplers
    that add noise. `keep(latents, next timestep or None)` may replace latents after each step. `on_step(asked, steps)`
    is called when a step has been asked of the device, which is at most two steps behind; what it raises ends the walk.
    """
    latents, total = latents_BCHW, len(timesteps)
    added, pace = conditioning.added, Pace(latents_BCHW.device)
    moments = timesteps.to(latents_BCHW.device, torch.float32)  # in one transfer; the UNet makes them float32 itself
    noise = {"generator": list(generators)} if takes_generator(scheduler) else {}
    for step, timestep in enumerate(timesteps):
        inputs = latents if conditioning.guidance_B111 is None else torch.cat([latents, latents])
        inputs = scheduler.scale_model_input(inputs, timestep).to(unet.dtype)
        predicted = unet(
            inputs,
            moments[step],
            encoder_hidden_states=conditioning.tokens_BTC,
            added_cond_kwargs=added,
            return_dict=False,
            **residuals(controls, inputs, moments[step], conditioning.tokens_BTC, added, share=(step, total)),
        )[0].float()
        if conditioning.guidance_B111 is not None:
            without, with_prompt = predicted.chunk(2)
            predicted = without + conditioning.guidance_B111 * (with_prompt - without)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False, **noise)[0]
        if keep is not None:
            latents = keep(latents, timesteps[step + 1] if step + 1 < total else None)
        pace.step()
        if on_step is not None:
            on_step(step + 1, total)
    return latents


def encode(vae: Any, pictures: Sequence[Image.Image], *, at_once: int) -> torch.Tensor:
    """RGB pictures of one size into latents (B, 4, H/8, W/8), float32: the mean of the VAE's distribution, scaled.

    Raises `NonFinitePicture` where the VAE gave NaN or infinity.
    """
    pixels_BHW3 = torch.from_numpy(np.stack([np.asarray(picture, dtype=np.uint8) for picture in pictures]))
    rows: list[torch.Tensor] = []
    with present(vae):
        for chunk in torch.split(pixels_BHW3, at_once):
            pixels_B3HW = (chunk.permute(0, 3, 1, 2).float() / 127.5 - 1).to(vae.device, vae.dtype)
            rows.append(vae.encode(pixels_B3HW, return_dict=False)[0].mode().float())
    latents_BCHW = torch.cat(rows)
    if not torch.isfinite(latents_BCHW).all():
        raise NonFinitePicture("the VAE gave NaN or infinity for the given picture; draw in bfloat16 or float32")
    scale, mean_1C11, std_1C11 = _statistics(vae.config, latents_BCHW.device)
    return (latents_BCHW - mean_1C11) * scale / std_1C11


def decode(
    vae: Any,
    latents_BCHW: torch.Tensor,
    *,
    at_once: int,
    run: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[Image.Image]:
    """Latents into RGB pictures, `at_once` of them in one pass of the VAE; `run` makes the pass in a way of its own.

    Raises `NonFinitePicture` where the model gave NaN or infinity, which would look like a black picture.
    """
    scale, mean_1C11, std_1C11 = _statistics(vae.config, latents_BCHW.device)
    latents_BCHW = (latents_BCHW * std_1C11 / scale + mean_1C11).to(vae.dtype)
    pictures: list[Image.Image] = []
    with present(vae):
        for chunk in torch.split(latents_BCHW, at_once):
            pixels_B3HW = (run(chunk) if run else vae.decode(chunk, return_dict=False)[0]).float()
            if not torch.isfinite(pixels_B3HW).all():
                raise NonFinitePicture()
            bytes_BHW3 = (pixels_B3HW / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
            pictures.extend(Image.fromarray(picture) for picture in bytes_BHW3.cpu().numpy())
    return pictures


def _statistics(config: Any, device: torch.device) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Scale, mean and standard deviation of the VAE's latents; models that name none have 0 and 1."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        mean, std = [0.0], [1.0]
    mean_1C11, std_1C11 = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))
    return float(config.scaling_factor), mean_1C11, std_1C11
