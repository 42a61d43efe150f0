"""Small sets of drawn people, and what their samples should be."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperlora.dataset import ShardWriter, face_record
from hyperlora.faces import Face
from hyperlora.mini import person, portrait

SIDE = 64
SHAPES = {"clip_tokens": (5, 6), "base_tokens": (5, 6), "face_embeddings": (7,), "latents": (4, 8, 8)}


@cache
def drawn(number: int, size: int = SIDE) -> Image.Image:
    """Picture `number`: every person is drawn twice."""
    return portrait(person(number // 2), seed=number, size=size)


def face_in(image: Image.Image) -> Face:
    """The exact face of a drawn portrait, with the five points taken from the 106."""
    points = image.info["landmarks"]
    low, high = points.min(axis=0), points.max(axis=0)
    five = points[[38, 88, 86, 52, 61]]
    return Face(torch.cat([torch.tensor(low), torch.tensor(high)]).numpy(), 0.99, five, points)


def tensors_of(number: int) -> dict[str, torch.Tensor]:
    """Numbers that half precision holds exactly, and that tell sample and tensor."""
    return {name: torch.full(shape, number + 0.25 * place) for place, (name, shape) in enumerate(SHAPES.items())}


def write_set(folder: Path, count: int = 5, shard_size: int = 2, *, with_tensors: bool = True, **how: Any) -> Path:
    """A prepared set of `count` drawn portraits."""
    with ShardWriter(folder, image_size=SIDE, shard_size=shard_size, **how) as writer:
        for number in range(count):
            image = drawn(number)
            record = face_record(face_in(image), person=number // 2, source=f"drawn {number}")
            writer.add(image, f"portrait {number}", record, tensors_of(number) if with_tensors else None)
    return folder
