"""The autoencoder of the mini pack: diffusers' AutoencoderKL, small, with more latent channels than SDXL's.

Shapes: B pictures (B, 3, S, S) in -1..1, latents (B, c, h, w).

The loss is the absolute error of pixels and of their differences to the right and downwards (edges are what a face is
known by), and a very small KL term. After training every latent channel is brought to mean 0 and deviation 1 by the
1 x 1 convolutions that stand before and behind the latents, so `scaling_factor` is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.fit import Outcome, fit
from hyperlora.mini.learn.sizes import Sizes

KL = 1e-6
EDGES = 1.0


def new_vae(sizes: Sizes, seed: int = 0) -> Any:
    """An AutoencoderKL of this size with fresh weights."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(Any, AutoencoderKL)(scaling_factor=1.0, **sizes.vae)


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
    vae = new_vae(sizes).to(device, memory_format=torch.channels_last)
    pixels = small_pixels(drawings, sizes.side)

    def loss(_: int, chance: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(pixels), (sizes.vae_plan.batch,), generator=chance)
        images = as_images(pixels[rows], device)
        if torch.rand((), generator=chance) < 0.5:
            images = images.flip(-1)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=chance).to(device)
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample
        return {
            "pixels": functional.l1_loss(drawn, images),
            "edges": EDGES * sum((_step(drawn, d) - _step(images, d)).abs().mean() for d in (-1, -2)),
            "kl": KL * posterior.kl().mean(),
        }

    outcome = fit(vae, loss, sizes.vae_plan, work / "vae.safetensors", max_seconds=max_seconds, tell=tell)
    if outcome.finished:
        _standardise(vae, pixels, device)
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


@torch.no_grad()
def _standardise(vae: Any, pixels: torch.Tensor, device: str) -> None:
    """Fold mean and deviation of each latent channel into the convolutions around the latents."""
    latents = encode_all(vae, pixels[:: max(1, len(pixels) // 2_000)], device)
    middle = latents.mean(dim=(0, 2, 3)).to(device)
    spread = latents.std(dim=(0, 2, 3)).to(device)
    channels = len(middle)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.bias[:channels].sub_(middle)
    before.bias[:channels].div_(spread)
    before.weight[:channels].div_(spread[:, None, None, None])
    before.bias[channels:].sub_(2 * spread.log())  # the posterior's log variance shrinks along
    after.bias.add_(after.weight[:, :, 0, 0] @ middle)
    after.weight.mul_(spread[None, :, None, None])
