"""An invisible watermark that says AI-made: 32 bits in the pixels, which outlive other formats and sizes.

By the network RivaGAN of the package `invisible-watermark`. It is asked at one area, SIDE by SIDE pixels, whatever the
picture's own: what it changes there is enlarged and added to the picture. So it costs the same for every size, and a
picture that was resized is read at the scale it was written at. All pictures have the same bits, and they tell of
nobody; whoever has a picture and the package can find them, and whoever wants to can remove them.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import cv2
import numpy as np
from PIL import Image

from worker.errors import MarkingBroken, WatermarkImpossible

SIDE = 320
STRENGTH = 0.7
"""The share of the network's change: at a half, bits are lost to JPEG 85 at half the size; at the whole it is seen."""
LEAST_PIXELS = 256 * 256
BITS = np.unpackbits(np.frombuffer(hashlib.sha256(b"hyperlora-portraits: made by AI").digest()[:4], np.uint8))
FOUND_BITS = 27
"""So many of the 32 are right where a picture is said to carry them: 6 in 100,000 would by chance."""
HINT = "pip install 'hyperlora-portraits[watermark]'"
_lock = threading.Lock()


def is_large_enough(image: Image.Image) -> bool:
    """Whether a picture has pixels enough to hide the bits in."""
    return image.width * image.height >= LEAST_PIXELS


def embed(image: Image.Image) -> Image.Image:
    """The picture with the bits hidden in it. Raises WatermarkImpossible, MarkingBroken without the package."""
    small = _at_side(image)
    encoder = _package().WatermarkEncoder()
    encoder.set_watermark("bits", BITS.tolist())
    # The package cuts fractions off, which darkens by half a level.
    change = STRENGTH * (encoder.encode(small, "rivaGan").astype(np.float32) + 0.5 - small)
    whole = cv2.resize(change, image.size, interpolation=cv2.INTER_CUBIC)
    marked = np.asarray(image.convert("RGB"), np.float32) + whole[:, :, ::-1]
    return Image.fromarray(np.clip(np.rint(marked), 0, 255).astype(np.uint8))


def matching_bits(image: Image.Image) -> int:
    """How many of the 32 bits are found right: about 16 where none are. Raises WatermarkImpossible, MarkingBroken."""
    found = _package().WatermarkDecoder("bits", len(BITS)).decode(_at_side(image), "rivaGan")
    return int(np.sum(np.asarray(found, np.uint8) == BITS))


def is_marked(image: Image.Image) -> bool:
    """Whether a picture carries the watermark. Raises WatermarkImpossible, MarkingBroken."""
    return matching_bits(image) >= FOUND_BITS


def load() -> None:
    """Load the network, which takes a second. Raises MarkingBroken without the package."""
    _package()


def _at_side(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture at the network's area, as (height, width, BGR)."""
    if not is_large_enough(image):
        raise WatermarkImpossible(
            f"a watermark wants at least {LEAST_PIXELS} pixels, as 256x256 has; the picture has "
            f"{image.width}x{image.height}"
        )
    scale = SIDE / (image.width * image.height) ** 0.5
    size = (int(np.ceil(image.width * scale)), int(np.ceil(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(small)[:, :, ::-1])


def _package() -> Any:
    try:
        import imwatermark
    except ImportError as error:
        raise MarkingBroken(f"PORTRAITS_WATERMARK=on needs {HINT}; not installed: {error.name}") from None
    with _lock:
        if imwatermark.rivaGan.RivaWatermark.encoder is None:
            imwatermark.WatermarkEncoder.loadModel()
    return imwatermark
