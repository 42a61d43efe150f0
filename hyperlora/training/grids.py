"""Sample grids: how a run draws the first people of its dataset, beside the photos.

Shapes: N pictures; latents (N, C, h, w).

    photo | with ID-LoRA | with ID-LoRA and Base-LoRA | without        stages of the ID branch
    photo | with Base-LoRA | without                                   stage base

One person a row and one seed a row, so that the columns differ by the LoRAs alone. Nothing here draws from the
training's dice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from hyperlora.grouped import Factors, grouped, joined
from hyperlora.prompts import with_trigger_words
from hyperlora.sampling import Conditioning, decode, denoise, draw_noise, make_generators
from hyperlora.schedulers import DEFAULT_SCHEDULER, make_scheduler, set_timesteps

if TYPE_CHECKING:
    from hyperlora.dataset import PortraitBatch
    from hyperlora.training.trainer import Trainer

SAMPLES = "samples"
GAP = 2  # pixels between pictures


def draw_grid(trainer: Trainer, step: int) -> Image.Image:
    """Draw the grid with the averaged weights, and keep it as `samples/step-....png` of the run."""
    count = min(trainer.config.grids.count, len(trainer.dataset))
    batch = trainer.dataset.batch(np.arange(count), pixels=True)
    assert batch.pixels_B3HW is not None
    words = "" if trainer.config.stage == "base" else trainer.network.config.trigger_words
    with torch.inference_mode(), trainer.averaged():
        drawn = [_draw(trainer, batch.captions, factors, words) for factors in _columns(trainer, batch)]
        plain = _draw(trainer, batch.captions, None, "")
    sheet = _sheet([_pictures(batch.pixels_B3HW), *drawn, plain])
    if trainer.accelerator.is_main_process:
        folder = trainer.config.out / SAMPLES
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(folder / f"step-{step:08d}.png")
    return sheet


def _columns(trainer: Trainer, batch: PortraitBatch) -> list[Factors]:
    """The LoRAs of each drawn column, at the grids' weight."""
    conditions = trainer.conditions(batch)
    student = trainer.accelerator.unwrap_model(trainer.student)
    scale = trainer.config.grids.weight * trainer.network.config.alpha_over_rank
    with trainer.accelerator.autocast():
        if trainer.config.stage == "base":
            return [joined([(student(conditions.base_tokens_BTC), scale)])]
        id_factors: Factors = student(conditions.face_embeddings_BE, conditions.clip_tokens_BTC)
        base = trainer.objective.frozen.base
        if base is None:
            return [joined([(id_factors, scale)])]
        assert conditions.base_tokens_BTC is not None
        full = joined([(id_factors, scale), (base(conditions.base_tokens_BTC), scale)])
    return [joined([(id_factors, scale)]), full]


def _draw(trainer: Trainer, captions: list[str], factors: Factors | None, words: str) -> list[Image.Image]:
    config, components, device = trainer.config.grids, trainer.components, trainer.accelerator.device
    prompts = [with_trigger_words(config.prompt or caption, words) for caption in captions]
    scheduler = make_scheduler(DEFAULT_SCHEDULER, components.scheduler_config)
    timesteps = set_timesteps(scheduler, config.steps)
    generators = make_generators(range(len(prompts)))
    noise = draw_noise(generators, *trainer.latent_shape).to(device) * scheduler.init_noise_sigma
    conditioning = _conditioning(trainer, prompts)
    with trainer.accelerator.autocast():
        if factors is None:
            latents = denoise(components.unet, scheduler, timesteps, noise, conditioning, generators=generators)
        else:
            if conditioning.guidance_B111 is not None:
                # Guidance runs every sample in two rows.
                factors = {layer: (down.repeat(2, 1, 1), up.repeat(2, 1, 1)) for layer, (down, up) in factors.items()}
            with grouped(components.unet, factors):
                latents = denoise(components.unet, scheduler, timesteps, noise, conditioning, generators=generators)
    return decode(components.vae, latents, at_once=1)


def _conditioning(trainer: Trainer, prompts: list[str]) -> Conditioning:
    """Texts cut after 77 tokens, as in training; the negative prompt is empty."""
    guidance, unet, side = trainer.config.grids.guidance, trainer.components.unet, trainer.dataset.info.image_size
    negatives = [""] * len(prompts) if guidance > 1 else []
    tokens_BTC, pooled_BP = trainer.captions.encode([*negatives, *prompts])
    ids = torch.tensor([side, side, 0, 0, side, side], device=unet.device, dtype=unet.dtype)
    return Conditioning(
        tokens_BTC=tokens_BTC.to(unet.device, unet.dtype),
        pooled_BP=pooled_BP.to(unet.device, unet.dtype),
        time_ids_B6=ids.expand(len(tokens_BTC), -1),
        guidance_B111=torch.full((len(prompts), 1, 1, 1), guidance, device=unet.device) if negatives else None,
    )


def _pictures(pixels_N3HW: torch.Tensor) -> list[Image.Image]:
    bytes_NHW3 = (pixels_N3HW / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(picture) for picture in bytes_NHW3.cpu().numpy()]


def _sheet(columns: list[list[Image.Image]]) -> Image.Image:
    """One person a row, every picture as large as the drawn ones."""
    width, height = columns[-1][0].size
    rows = len(columns[0])
    sheet = Image.new("RGB", (len(columns) * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for column, pictures in enumerate(columns):
        for row, picture in enumerate(pictures):
            sheet.paste(picture.resize((width, height)), (column * (width + GAP), row * (height + GAP)))
    return sheet
