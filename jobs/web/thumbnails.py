"""Small pictures for pages, made when they are first looked at and kept in memory within a bound."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

from PIL import ImageOps

from jobs.photos import load_photo
from jobs.settings import Settings

SIDE = 320
MOST_BYTES = 64 * 1024 * 1024
QUALITY = 80
# Each may hold one decoded picture; more at once would not be faster.
_AT_ONCE = 2


class Thumbnails:
    """WebP pictures of at most `SIDE` pixels, by the SHA-256 of what they show. Thread-safe."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock, self._making = threading.Lock(), threading.BoundedSemaphore(_AT_ONCE)

    def get(self, sha256: str) -> bytes | None:
        """The thumbnail, if it was made before and is still kept."""
        with self._lock:
            if sha256 in self._kept:
                self._kept.move_to_end(sha256)
            return self._kept.get(sha256)

    def make(self, sha256: str, picture: bytes, settings: Settings) -> bytes:
        """Make it and keep it. Raises PhotoRefused for what is no picture, or too large a one."""
        with self._making:
            image = load_photo(picture, settings)
            small = ImageOps.contain(image, (SIDE, SIDE)) if max(image.size) > SIDE else image
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=QUALITY)
        made = buffer.getvalue()
        with self._lock:
            if sha256 not in self._kept:
                self._kept[sha256] = made
                self._size += len(made)
            while self._size > self._most and self._kept:
                self._size -= len(self._kept.popitem(last=False)[1])
        return made
