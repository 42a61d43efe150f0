"""The autoencoder of the mini pack: diffusers' AutoencoderKL, small, with more latent channels than SDXL's.

Shapes: B pictures (B, 3, S, S) in -1..1, latents (B, c, h, w).

The encoder begins as the main components of patches (see `codec`). In the tiny configuration it stays so and the
decoder alone learns, from latents that are computed once; in the full one both learn. The loss is the absolute error of
pixels and of their differences to the right and downwards (edges are what a face is known by).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from hyperlora.mini.learn.codec import set_encoder
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.fit import Outcome, fit
from hyperlora.mini.learn.sizes import Sizes

EDGES = 1.0
NOISE = 0.08  # of the latents that the decoder learns from: what is drawn later is not exact either
KL = 1e-7


def new_vae(sizes: Sizes, pixels_NSS3: torch.Tensor, seed: int = 0) -> Any:
    """An AutoencoderKL of this size: the encoder of these pictures' components, a decoder with fresh weights."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = cast(Any, AutoencoderKL)(scaling_factor=1.0, **sizes.vae)
    set_encoder(vae, pixels_NSS3)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(sizes.encoder_learns)
    return vae


def train_vae(
    drawings: Drawings,
    sizes: Sizes,
    work: Path,
    *,
    device: str = "cpu",
    max_seconds: float = math.inf,
    tell: Callable[[str], None] = print,
) -> tuple[Any, Outcome]:
    """Train, or go on training, the autoencoder; its state lies in `work`."""
    pixels = small_pixels(drawings, sizes.side)
    vae = new_vae(sizes, pixels).to(device, memory_format=torch.channels_last)
    known = None if sizes.encoder_learns or max_seconds == 0 else encode_all(vae, pixels, device)

    def loss(_: int, chance: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(pixels), (sizes.vae_plan.batch,), generator=chance)
        images = as_images(pixels[rows], device)
        parts = {}
        if known is None:
            posterior = vae.encode(images).latent_dist
            latents, parts["kl"] = posterior.mode(), KL * posterior.kl().mean()
        else:
            latents = known[rows].to(device)
        noise = NOISE * torch.randn(latents.shape, generator=chance).to(device)
        drawn = vae.decode(latents + noise).sample
        parts["pixels"] = functional.l1_loss(drawn, images)
        parts["edges"] = (
            EDGES * torch.stack([(_step(drawn, d) - _step(images, d)).abs().mean() for d in (-1, -2)]).sum()
        )
        return parts

    outcome = fit(vae, loss, sizes.vae_plan, work / "vae.safetensors", max_seconds=max_seconds, tell=tell)
    return vae, outcome


def small_pixels(drawings: Drawings, side: int) -> torch.Tensor:
    """(N, S, S, 3) uint8 at the side that is learned, by averaging areas.

    Raises `ValueError` if the drawings' side is no multiple.
    """
    drawn = drawings.pixels.shape[1]
    if drawn % side:
        raise ValueError(f"pictures of {drawn} pixels cannot be averaged to {side}")
    step = drawn // side
    pieces = np.array_split(drawings.pixels, max(1, len(drawings) // 1_000))
    shrunk = [
        np.rint(piece.reshape(len(piece), side, step, side, step, 3).mean(axis=(2, 4), dtype=np.float32))
        for piece in pieces
    ]
    return torch.from_numpy(np.concatenate([piece.astype(np.uint8) for piece in shrunk]))


def as_images(pixels_BSS3: torch.Tensor, device: str) -> torch.Tensor:
    """(B, 3, S, S) float32 in -1..1."""
    return pixels_BSS3.to(device).movedim(-1, 1).float().div(127.5).sub(1)


@torch.no_grad()
def encode_all(vae: Any, pixels: torch.Tensor, device: str, at_once: int = 64) -> torch.Tensor:
    """(N, c, h, w) latents of all pictures, float32 on the CPU: the middle of each posterior."""
    return torch.cat(
        [vae.encode(as_images(rows, device)).latent_dist.mode().cpu() for rows in torch.split(pixels, at_once)]
    ) * float(vae.config.scaling_factor)


@torch.no_grad()
def psnr(vae: Any, pixels: torch.Tensor, device: str) -> float:
    """Peak signal to noise ratio in dB of what comes out against what went in, over all pictures."""
    errors = []
    for rows in torch.split(pixels, 64):
        images = as_images(rows, device)
        drawn = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(((drawn - images) / 2).square().mean(dim=(1, 2, 3)))
    return float(-10 * torch.cat(errors).mean().log10())


def _step(images: torch.Tensor, dim: int) -> torch.Tensor:
    return images.narrow(dim, 1, images.shape[dim] - 1) - images.narrow(dim, 0, images.shape[dim] - 1)
