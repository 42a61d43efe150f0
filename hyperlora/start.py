"""Given pictures: where a drawing starts from one, and where only the masked part of one is drawn again.

Shapes: B samples; latents (B, 4, H/8, W/8); masks (B, 1, H/8, W/8), 1 where the picture is drawn again.

Pictures are encoded to the mean of the VAE's distribution, so that a given picture always starts alike. An ordinary
UNet of four channels redraws a part by being shown, before each step, the given picture at that step's noise level
everywhere else. The finished picture is laid over the given one, so that black pixels of the mask stay untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperlora.sample import Sample
from hyperlora.sampling import encode

FEATHER = 4
"""Pixels inside the mask's edge over which the redrawn part fades in."""


@dataclass(frozen=True, eq=False)
class Start:
    """The given pictures of a batch as latents, and the masks where there are some."""

    latents_BCHW: torch.Tensor
    mask_B1HW: torch.Tensor | None = None

    def begin(self, scheduler: Any, noise_BCHW: torch.Tensor, timesteps: torch.Tensor, strength: float) -> torch.Tensor:
        """The latents that the walk over `timesteps` begins with.

        As in diffusers, a masked part at full strength begins with nothing but noise; else the given picture is noised
        to the first timestep.
        """
        if strength == 1 and hasattr(scheduler, "set_begin_index"):
            # Else a sampler looks its place up by the timestep's number, which two steps may share.
            scheduler.set_begin_index(0)
        if self.mask_B1HW is not None and strength == 1:
            latents: torch.Tensor = noise_BCHW * scheduler.init_noise_sigma
            return latents
        latents = scheduler.add_noise(self.latents_BCHW, noise_BCHW, timesteps[:1])
        return latents

    def keeper(
        self, scheduler: Any, noise_BCHW: torch.Tensor
    ) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None:
        """What puts the given picture back outside the mask after each step; None without a mask.

        It takes the latents and the next timestep (None after the last), and returns the latents with the given
        picture, as noisy as that step expects, in place of what is not to change.
        """
        mask_B1HW = self.mask_B1HW
        if mask_B1HW is None:
            return None

        def keep(latents_BCHW: torch.Tensor, next_timestep: torch.Tensor | None) -> torch.Tensor:
            given_BCHW = self.latents_BCHW
            if next_timestep is not None:
                given_BCHW = scheduler.add_noise(given_BCHW, noise_BCHW, next_timestep.reshape(1))
            return given_BCHW * (1 - mask_B1HW) + latents_BCHW * mask_B1HW

        return keep


def make_start(vae: Any, samples: Sequence[Sample], *, at_once: int, size_step: int, device: torch.device) -> Start:
    """Encode the pictures of samples that all have one; raises `NonFinitePicture` where the VAE overflows."""
    latents_BCHW = encode(vae, [_given(sample) for sample in samples], at_once=at_once).to(device)
    masks = [sample.mask for sample in samples if sample.mask is not None]
    if not masks:
        return Start(latents_BCHW)
    masks_BHW = torch.stack([torch.from_numpy(np.asarray(mask) > 0) for mask in masks]).float()
    # A latent covers a square of pixels, and is drawn again if any of them is to change.
    mask_B1HW = torch.nn.functional.max_pool2d(masks_BHW[:, None], size_step)
    return Start(latents_BCHW, mask_B1HW.to(device))


def lay_over(drawn: Sequence[Image.Image], samples: Sequence[Sample]) -> list[Image.Image]:
    """Each drawn picture over its given one where the mask is white; without masks the drawn pictures as they are."""
    return [
        picture if sample.mask is None else _blend(_given(sample), picture, sample.mask)
        for picture, sample in zip(drawn, samples, strict=True)
    ]


def _given(sample: Sample) -> Image.Image:
    if sample.image is None:
        raise ValueError("a sample with a given picture was wanted")
    return sample.image.convert("RGB")


def _blend(given: Image.Image, drawn: Image.Image, mask: Image.Image) -> Image.Image:
    import cv2

    values_HW = np.asarray(mask, dtype=np.uint8)
    # Pixels to the nearest black one: the seam is hidden inside the mask, as nothing outside may change.
    inside_HW = cv2.distanceTransform((values_HW > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share_HW1 = (np.clip(inside_HW / (FEATHER + 1), 0.0, 1.0) * (values_HW / 255.0))[..., None]
    given_HW3 = np.asarray(given, dtype=np.float32)
    blended_HW3 = given_HW3 + share_HW1 * (np.asarray(drawn, dtype=np.float32) - given_HW3)
    return Image.fromarray(np.rint(blended_HW3).clip(0, 255).astype(np.uint8))
