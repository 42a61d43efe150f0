"""Any samples, sorted into batches that can be drawn together, and the pictures back in the order asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from hyperlora.errors import InvalidRequest
from hyperlora.sample import Sample

if TYPE_CHECKING:
    from hyperlora.pipeline import PortraitPipeline


def batches(pipeline: PortraitPipeline, samples: Sequence[Sample], batch_size: int) -> Iterator[list[int]]:
    """Indices of samples for each batch: equal in guidance or none, in given pictures, and in chunks of text."""
    kinds: dict[tuple[bool, bool, bool, int], list[int]] = {}
    for index, sample in enumerate(samples):
        kind = (sample.guided, sample.image is None, sample.mask is None, pipeline.prompt_chunks(sample))
        kinds.setdefault(kind, []).append(index)
    for indices in kinds.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def draw_all(
    pipeline: PortraitPipeline, samples: Sequence[Sample], batch_size: int, **setting: Any
) -> list[Image.Image]:
    """Draw every sample with what is applied; `setting` are the other arguments of `PortraitPipeline.draw`."""
    if batch_size < 1:
        raise InvalidRequest(f"batch_size must be at least 1, found {batch_size}")
    images: dict[int, Image.Image] = {}
    for indices in batches(pipeline, samples, batch_size):
        drawing = pipeline.draw([samples[index] for index in indices], **setting)
        images.update(zip(indices, drawing.images, strict=True))
    return [images[index] for index in range(len(samples))]


def paired(prompts: str | Sequence[str], seeds: int | Sequence[int]) -> list[tuple[str, int]]:
    """Prompts with seeds, of which one may stand for many; `InvalidRequest` for unequal numbers or none."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    count = max(len(texts), len(numbers))
    if not texts or not numbers or len(texts) not in (1, count) or len(numbers) not in (1, count):
        raise InvalidRequest(f"prompts and seeds are paired, found {len(texts)} prompts and {len(numbers)} seeds")
    return list(zip(texts * (count // len(texts)), numbers * (count // len(numbers)), strict=True))


def decoded_at_once(most: int, usual_pixels: int, pixels: int) -> int:
    """How many pictures of so many pixels the VAE takes in one pass: no more pixels than `most` usual ones have."""
    return max(1, min(most, most * usual_pixels // pixels))
