"""A person's photos as training pictures: square crops around the face, and their latents.

Shapes: P photos, S side in pixels; latents (P, 4, S/8, S/8).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperlora.errors import FaceError, InvalidRequest, NoUsablePhoto
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.prepare import prepare_photo
from hyperlora.faces.types import Face, FaceAnalyzer

logger = logging.getLogger(__name__)

FACE_SIDES = 2.0
"""Side of a crop in units of the face's longer side, as in the detail pass."""


def crops_of(photos: Sequence[Image.Image], side: int, analyzer: FaceAnalyzer | None) -> list[Image.Image]:
    """A square RGB crop of `side` pixels from every usable photo, around its face or, without analyzer, its middle.

    A photo that cannot be used is left out and logged. Raises `InvalidRequest` without photos and `NoUsablePhoto` where
    none can be used, with each one's reason.
    """
    if not photos:
        raise InvalidRequest("refining needs at least one photo of the person, found none")
    crops: list[Image.Image] = []
    refused: list[str] = []
    for number, photo in enumerate(photos, start=1):
        try:
            if analyzer is None:
                upright = upright_rgb(photo).image
                crops.append(_square(upright, upright.width / 2, upright.height / 2, min(upright.size), side))
            else:
                prepared = prepare_photo(analyzer, photo)
                crops.append(face_crop(prepared.photo, prepared.face, side))
        except FaceError as fault:
            refused.append(f"photo {number}: {fault}")
            logger.warning("not refined on photo %d: %s", number, fault)
    if not crops:
        raise NoUsablePhoto(f"none of the {len(photos)} photos can be used: {'; '.join(refused)}")
    return crops


def face_crop(photo: Image.Image, face: Face, side: int) -> Image.Image:
    """A square of twice the face's longer side around its middle, moved and shrunk to lie inside the photo."""
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    return _square(photo, (left + right) / 2, (top + bottom) / 2, FACE_SIDES * max(face.width, face.height), side)


def _square(photo: Image.Image, x: float, y: float, wanted: float, side: int) -> Image.Image:
    extent = min(wanted, *photo.size)
    left = min(max(x - extent / 2, 0.0), photo.width - extent)
    top = min(max(y - extent / 2, 0.0), photo.height - extent)
    box = (left, top, left + extent, top + extent)
    return photo.resize((side, side), Image.Resampling.LANCZOS, box=box)


@torch.no_grad()
def latents_of(vae: Any, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """The latents that the UNet was trained on, (P, 4, S/8, S/8), float32: the VAE's mean, scaled, without noise."""
    rows = []
    for picture in pictures:
        pixels_HW3 = torch.from_numpy(np.asarray(picture, dtype=np.float32)) / 127.5 - 1.0
        pixels_13HW = pixels_HW3.permute(2, 0, 1).unsqueeze(0).to(vae.device, vae.dtype)
        rows.append(vae.encode(pixels_13HW).latent_dist.mode().float())
    latents_P4HW = torch.cat(rows)
    scale = float(vae.config.scaling_factor)
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return latents_P4HW * scale
    mean_1411 = torch.tensor(mean, device=latents_P4HW.device).view(1, -1, 1, 1)
    std_1411 = torch.tensor(std, device=latents_P4HW.device).view(1, -1, 1, 1)
    return (latents_P4HW - mean_1411) * scale / std_1411
