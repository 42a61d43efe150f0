"""Inputs of nobody: what a UNet is warmed with, of the shapes and kinds that drawing gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hyperlora.lora import LoRA
from hyperlora.lora_layer import FactorStack, StackedLayers
from hyperlora.sampling import Conditioning
from hyperlora.shapes import Shape


def stand_in(unet: Any, shape: Shape, size_step: int) -> tuple[torch.Tensor, Conditioning]:
    """Latents (B, 4, H, W) and texts of zeros; `size_step` is the pixels of a latent."""
    room = {"device": unet.device, "dtype": unet.dtype}
    config, rows = unet.config, shape.rows
    pooled = unet.add_embedding.linear_1.in_features - 6 * config.addition_time_embed_dim
    conditioning = Conditioning(
        tokens_BTC=torch.zeros((rows, shape.tokens, config.cross_attention_dim), **room),
        pooled_BP=torch.zeros((rows, pooled), **room),
        time_ids_B6=torch.zeros((rows, 6), **room),
        guidance_B111=None,
    )
    size = (rows, config.in_channels, shape.height // size_step, shape.width // size_step)
    return torch.zeros(size, **room), conditioning


def stand_in_timestep(unet: Any) -> torch.Tensor:
    """A timestep as `denoise` gives it: one number in float32 on the UNet's device."""
    return torch.full((1,), 500.0, device=unet.device)[0]


def lora_of_nobody(shapes: Mapping[str, tuple[int, int]], rank: int) -> LoRA:
    """A LoRA that changes nothing, of this rank on all these layers, name -> (out, in)."""
    alike: dict[tuple[int, int], list[str]] = {}
    for name, size in shapes.items():
        alike.setdefault(size, []).append(name)
    return LoRA(
        StackedLayers(
            [
                FactorStack(
                    tuple(names),
                    torch.zeros((1, rank, size[1])).expand(len(names), -1, -1),
                    torch.zeros((1, size[0], rank)).expand(len(names), -1, -1),
                    (float(rank),) * len(names),
                )
                for size, names in alike.items()
            ],
            tuple(shapes),
        )
    )
