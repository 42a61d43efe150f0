"""Stored pictures: which bytes are decoded at all, and how far.

A set may come from anywhere, so its bytes are strangers' bytes. Their number is limited before they are read, the
pixels before they are decoded; JPEG, PNG and WebP only, one picture a file, decoded whole. The content decides, never
the name.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from hyperlora.errors import BadPhoto

MOST_PICTURE_BYTES = 32 * 1024 * 1024
MOST_PIXELS = 50_000_000
# Behind FF in a JPEG's data there is always 00, so FF DA begins a scan; thousands of them cost minutes to decode.
MOST_JPEG_SCANS = 500
_FORMATS = ("JPEG", "PNG", "WEBP")
# What Pillow's decoders raise on damaged and hostile files; warnings too, where their user made them errors.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    UserWarning,
)


def decode_picture(data: bytes) -> Image.Image:
    """The picture, decoded whole, with colours, turning and transparency as its file has them.

    Raises `BadPhoto`: another format, too many bytes, pixels or scans, an animation, truncated or damaged data.
    """
    image = _opened(data)
    try:
        image.load()
    except _DECODER_ERRORS as fault:
        raise BadPhoto(f"wanted a whole picture, found damaged or missing data ({fault})") from fault
    return image


def _opened(data: bytes) -> Image.Image:
    """Only the header is read here, so that what must not be decoded is refused."""
    if len(data) > MOST_PICTURE_BYTES:
        raise BadPhoto(f"the picture has {len(data)} bytes, at most {MOST_PICTURE_BYTES} are read")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise BadPhoto(f"too many pixels ({fault}), at most {MOST_PIXELS} are decoded") from fault
    except _DECODER_ERRORS as fault:
        raise BadPhoto("wanted a JPEG, PNG or WebP picture, found other or damaged content") from fault
    if image.width * image.height > MOST_PIXELS:
        raise BadPhoto(f"the picture has {image.width} x {image.height} pixels, at most {MOST_PIXELS} are decoded")
    if frames > 1:
        raise BadPhoto(f"the file is an animation of {frames} pictures, wanted one picture")
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MOST_JPEG_SCANS:
        raise BadPhoto(f"the JPEG has more than {MOST_JPEG_SCANS} scans")
    return image
