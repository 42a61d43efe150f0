"""One picture to draw, a drawn batch, and what a batch may not ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from hyperlora.errors import InvalidRequest


@dataclass(frozen=True)
class Sample:
    """One picture to draw.

    Parameters
    ----------
    prompt, negative_prompt
        What is to be seen and what is not; texts of any length.
    seed
        Decides all noise of this picture, 0 to 2**64 - 1.
    guidance
        How closely the prompt is followed; 1 or below draws without the negative prompt, at half the cost.
    trigger_words
        False draws the prompt as it is written, without the pipeline's trigger words.
    weighted
        True reads both texts in compel's syntax: `a (red)1.3 hat`.
    image
        What to start from, or the picture whose masked part is drawn again. Of the drawn size.
    mask
        Mode L, of the drawn size. White is drawn again, black pixels stay as they are, exactly. Needs `image`.
    control
        The conditioning picture of each control of the batch, in their order, of the drawn size.
    """

    prompt: str
    seed: int
    negative_prompt: str = ""
    guidance: float = 5.0
    trigger_words: bool = True
    weighted: bool = False
    image: Image.Image | None = None
    mask: Image.Image | None = None
    control: tuple[Image.Image, ...] = ()

    @property
    def guided(self) -> bool:
        """True where the negative prompt takes part."""
        return self.guidance > 1


@dataclass(frozen=True)
class Drawing:
    """A drawn batch: a picture per sample, and the seconds of each stage.

    Stages are `encode_prompt`, `encode_image` (where pictures were given), `denoise` and `decode`.
    """

    images: list[Image.Image]
    seconds: dict[str, float] = field(default_factory=dict)


def check_samples(samples: Sequence[Sample], *, width: int, height: int, controls: int) -> None:
    """Refuse with `InvalidRequest` samples that cannot be drawn, or not in one batch of this size in pixels."""
    if not samples:
        raise InvalidRequest("a batch needs at least one sample, found none")
    for sample in samples:
        if not 0 <= sample.seed < 2**64:
            raise InvalidRequest(f"a seed must be from 0 to 2**64 - 1, found {sample.seed}")
        if not abs(sample.guidance) < float("inf"):
            raise InvalidRequest(f"guidance must be a finite number, found {sample.guidance}")
        if sample.mask is not None and sample.image is None:
            raise InvalidRequest("a mask says which part of a picture is drawn again, found a mask without an image")
        if len(sample.control) != controls:
            raise InvalidRequest(
                f"each control needs one conditioning picture in every sample, found {controls} controls and "
                f"{len(sample.control)} pictures"
            )
        if sample.mask is not None and sample.mask.mode != "L":
            raise InvalidRequest(f"a mask must be a picture of mode L, found {sample.mask.mode}; use mask.convert('L')")
        if sample.mask is not None and sample.mask.getbbox() is None:
            raise InvalidRequest("a mask is white where the picture is drawn again, found one black everywhere")
        _check_sizes(sample, (width, height))
    if len({sample.guided for sample in samples}) > 1:
        raise InvalidRequest(
            "a batch is drawn with guidance (above 1) or without (1 or below), found both: "
            f"{sorted({sample.guidance for sample in samples})}; draw them in two batches"
        )
    for what in ("image", "mask"):
        given = sum(getattr(sample, what) is not None for sample in samples)
        if given not in (0, len(samples)):
            raise InvalidRequest(
                f"all samples of a batch have the field {what} or none has, found {given} of {len(samples)}; "
                "draw them in two batches"
            )


def _check_sizes(sample: Sample, size: tuple[int, int]) -> None:
    pictures = [("image", sample.image), ("mask", sample.mask), *(("control picture", each) for each in sample.control)]
    for what, picture in pictures:
        if picture is not None and picture.size != size:
            raise InvalidRequest(
                f"the {what} must have the drawn size {size[0]} x {size[1]}, found {picture.width} x "
                f"{picture.height}; resize it first"
            )


def check_setting(
    samples: Sequence[Sample], *, width: int, height: int, size_step: int, steps: int, strength: float
) -> None:
    """Refuse with `InvalidRequest` a size (in pixels), number of steps or strength that cannot be drawn."""
    if width < size_step or height < size_step or width % size_step or height % size_step:
        raise InvalidRequest(f"width and height must be positive multiples of {size_step}, found {width} x {height}")
    if steps < 1:
        raise InvalidRequest(f"steps must be at least 1, found {steps}")
    if not 0 < strength <= 1:
        raise InvalidRequest(f"strength must be above 0 and at most 1, found {strength}")
    if strength < 1 and any(sample.image is None for sample in samples):
        raise InvalidRequest(
            f"a strength below 1 starts from a given picture, found strength {strength} and a sample without an image"
        )


def check_chunks(samples: Sequence[Sample], chunks_of: Callable[[Sample], int]) -> None:
    """Refuse with `InvalidRequest` texts that take the text encoders unequally often."""
    chunks = {chunks_of(sample) for sample in samples}
    if len(chunks) > 1:
        raise InvalidRequest(
            f"all texts of a batch must fit into the same number of chunks of 77 tokens, found {sorted(chunks)}; "
            "draw them in batches of equal `prompt_chunks`"
        )
