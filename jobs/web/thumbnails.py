"""Small pictures for pages, made when they are first looked at and kept in memory for minutes, within a bound.

Who is forgotten is not told to this process: so nothing is kept for long.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from PIL import ImageOps

from jobs.photos import load_photo
from jobs.settings import Settings

SIDE = 320
MOST_BYTES = 64 * 1024 * 1024
QUALITY = 80
KEPT_SECONDS = 300.0
# Each may hold one decoded picture; more at once would not be faster.
_AT_ONCE = 2


class Thumbnails:
    """WebP pictures of at most `SIDE` pixels, by the SHA-256 of what they show. Thread-safe."""

    def __init__(self, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most_bytes, clock
        # The oldest first, each with the moment in which it was made.
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._size = 0
        self._lock, self._making = threading.Lock(), threading.BoundedSemaphore(_AT_ONCE)

    def get(self, sha256: str) -> bytes | None:
        """The thumbnail, if it was made before and is still kept."""
        with self._lock:
            self._drop()
            kept = self._kept.get(sha256)
            return kept[1] if kept else None

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
                self._kept[sha256] = (self._clock(), made)
                self._size += len(made)
            self._drop()
        return made

    def drop_old(self) -> None:
        """Let go of what was made too long ago, also when nobody asks for pictures any more."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        since = self._clock() - KEPT_SECONDS
        while self._kept:
            moment, made = next(iter(self._kept.values()))
            if moment > since and self._size <= self._most:
                break
            self._kept.popitem(last=False)
            self._size -= len(made)
