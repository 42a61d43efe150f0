"""The picture as a PNG file; `worker.picture_file` writes it and every other format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from worker.picture_file import encode


def encode_png(image: Image, record: Mapping[str, Any]) -> bytes:
    """The picture as PNG bytes with both text chunks."""
    return encode(image, record, format="png")[0]
