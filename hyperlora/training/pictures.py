"""Pixels into latents, as the pipeline's own encoder scales them.

Shapes: B pictures, (B, 3, H, W) in -1..1; latents (B, C, h, w).
"""

from __future__ import annotations

from typing import Any

import torch

from hyperlora.errors import NonFinitePicture


@torch.no_grad()
def latents_of(vae: Any, pixels_B3HW: torch.Tensor) -> torch.Tensor:
    """The mean of the VAE's distribution, scaled, float32 on the VAE's device.

    Raises `NonFinitePicture` where the VAE gave NaN or infinity.
    """
    encoded = vae.encode(pixels_B3HW.to(vae.device, vae.dtype), return_dict=False)[0].mode().float()
    if not torch.isfinite(encoded).all():
        raise NonFinitePicture(
            "the VAE gave NaN or infinity for a picture of the dataset; train in bfloat16 or float32"
        )
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is not None and std is not None:
        mean_1C11, std_1C11 = (torch.tensor(each, device=encoded.device).view(1, -1, 1, 1) for each in (mean, std))
        encoded = (encoded - mean_1C11) / std_1C11
    latents_BCHW: torch.Tensor = encoded * float(vae.config.scaling_factor)
    return latents_BCHW
