"""Pictures of the tests: given ones, drawn ones, and how far two lie apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from numpy.typing import NDArray
from PIL import Image
from tiny_sdxl import SIZE

from hyperlora import Drawing, HyperLoRA, LoRA, PortraitPipeline, Sample
from hyperlora.schedulers import make_scheduler

STEPS = 4


def pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def distance(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of any pixel, in 1/255."""
    return int(np.abs(pixels(a) - pixels(b)).max())


def draw(pipeline: PortraitPipeline, *samples: Sample, **changes: Any) -> Drawing:
    return pipeline.draw(samples, **{"width": SIZE, "height": SIZE, "steps": STEPS, **changes})


def photo(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Black with a white box (left, top, right, bottom)."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def diffusers_draws(pipe: Any, sample: Sample, scheduler: str, base: Any, **asked: Any) -> Image.Image:
    """One picture by a pipeline of diffusers from the same seed; `base` is the base model's scheduler config."""
    pipe.scheduler = make_scheduler(scheduler, base)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        sample.prompt,
        negative_prompt=sample.negative_prompt or None,
        guidance_scale=sample.guidance,
        generator=torch.Generator("cpu").manual_seed(sample.seed),
        num_inference_steps=STEPS,
        **asked,
    ).images
    picture: Image.Image = images[0]
    return picture


def tiny_controlnet(folder: Path, unet: Any, seed: int = 5) -> Path:
    """Save a ControlNet for the tiny UNet whose residuals are loud enough to be seen."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    for part in (net.controlnet_cond_embedding, net.controlnet_down_blocks, net.controlnet_mid_block):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    net.save_pretrained(folder, safe_serialization=True)
    return folder


def person(network: HyperLoRA, seed: int) -> LoRA:
    """A random person's LoRA."""
    generator = torch.Generator().manual_seed(seed)
    return network.generate(torch.randn(1, 10, generator=generator), torch.randn(1, 4, 24, generator=generator))
