"""What Pillow's decoders raise on damaged files, hostile ones included; warnings too, where they are made errors."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

DECODER_ERRORS = (
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
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
