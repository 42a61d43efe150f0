"""The drawn portraits as a prepared data set, so that HyperLoRA's stages train on them as on any other.

Shapes: N portraits, latents (c, h, w), T and W tokens and width of the vision tower, E numbers of a face embedding.

Nothing is detected: a drawing's landmarks are exact. Who is to be seen is said in the caption half of the time only, as
a hypernetwork has nothing to learn where the text says it all.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hyperlora.dataset import ShardWriter
from hyperlora.dataset.info import FILE
from hyperlora.faces import load_analyzer
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.looks import FACES, SURROUNDINGS, face_of
from hyperlora.mini.learn.vae import small_pixels
from hyperlora.mini.learn.vision import tokens_of
from hyperlora.mini.learn.words import general_subject
from hyperlora.mini.people import person

CLIP_VISION = "mini-clip-vision"
SAID = 0.1  # how often the caption says who it is


def write_rows(
    drawings: Drawings,
    looks: npt.NDArray[np.uint8],
    folder: Path,
    *,
    latents: torch.Tensor,
    tower: Any,
    faces: Path,
    side: int,
    device: str = "cpu",
) -> Path:
    """Write the set, or leave the one that is there; an unfinished one is written anew."""
    if (folder / FILE).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    pixels = small_pixels(drawings, side)
    clip_tokens = tokens_of(tower, looks[:, FACES], device)
    base_tokens = tokens_of(tower, looks[:, SURROUNDINGS], device)
    analyzer = load_analyzer(f"insightface:{faces}")
    with ShardWriter(
        folder,
        image_size=side,
        face_encoder=analyzer.name,
        clip_vision=CLIP_VISION,
        vae=None,  # its decoder may still be learning; the encoder is what made the latents
        made={"by": "python -m hyperlora.mini train", "people": len(set(drawings.persons.tolist()))},
    ) as writer:
        for row in range(len(drawings)):
            writer.add(
                Image.fromarray(pixels[row].numpy()),
                training_caption(drawings, row),
                {"person": int(drawings.persons[row])},
                {
                    "latents": latents[row],
                    "clip_tokens": clip_tokens[row],
                    "base_tokens": base_tokens[row],
                    "face_embeddings": embedding_of(analyzer, drawings, row),
                },
            )
    return folder


def training_caption(drawings: Drawings, row: int) -> str:
    """The portrait's caption; most rows say "a woman" or "a person" instead of what somebody looks like."""
    caption, seed = drawings.captions[row], int(drawings.persons[row])
    dice = torch.Generator().manual_seed(row)
    says, kind = torch.rand(2, generator=dice).tolist()
    return caption if says < SAID else caption.replace(person(seed).subject, general_subject(seed, kind))


def embedding_of(analyzer: FaceAnalyzer, drawings: Drawings, row: int) -> torch.Tensor:
    """(E,) of unit length, from the exact landmarks."""
    portrait = drawings.pixels[row]
    return torch.from_numpy(analyzer.embed(portrait, face_of(drawings.landmarks[row], len(portrait))))
