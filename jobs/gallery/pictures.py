"""Thumbnails of stored pictures: fetched by a few threads, each once, looked at before they are decoded.

What lies in a store may be anybody's by now. So bytes are compared with what was recorded, pixels are counted before
they are decoded, and a picture that cannot be shown says why, and the others go on.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import unescape

from PIL import Image

from jobs.decoders import BOMBS, DECODER_ERRORS
from jobs.errors import BadKey, ObjectDenied, ObjectMissing

Row = Mapping[str, Any]
Read = Callable[[Row], bytes]

MEDIA_TYPE = "image/webp"
SIDE = 208
"""A thumbnail has at least as many pixels as a square of this side, and the shape of its picture."""
QUALITY, METHOD = 74, 4
THREADS, WINDOW = 4, 8
MOST_PIXELS = 64_000_000
MOST_BYTES = 512 * 2**20
MOST_NOTICE = 500
_FORMATS = ("PNG", "JPEG", "WEBP")
_XMP_RECORD = re.compile(rb"<portraits:record>([^<]*)</portraits:record>")


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as WebP, or why there is none; `notice` is what the picture says beside itself."""

    data: bytes | None
    problem: str | None = None
    notice: str | None = None


def thumbnails(rows: Iterable[Row], read: Read, aspect: float) -> Iterator[tuple[Row, Thumbnail | None]]:
    """Each row with its thumbnail, None where nothing was drawn; in order, a few pictures ahead.

    `read` gives the bytes that a row's picture has now. Raises what `read` raises of a store that does not answer.
    """
    waiting: deque[tuple[Row, Future[Thumbnail] | None]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails")
    try:
        for row in rows:
            waiting.append((row, pool.submit(_thumbnail, row, read, aspect) if row["storage_key"] else None))
            if len(waiting) >= WINDOW:
                yield _taken(*waiting.popleft())
        while waiting:
            yield _taken(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _taken(row: Row, future: Future[Thumbnail] | None) -> tuple[Row, Thumbnail | None]:
    return row, None if future is None else future.result()


def _thumbnail(row: Row, read: Read, aspect: float) -> Thumbnail:
    if (row["size_bytes"] or 0) > MOST_BYTES:
        return Thumbnail(None, f"the file has {row['size_bytes']} bytes, more than are read for a thumbnail")
    try:
        data = read(row)
    except (ObjectMissing, ObjectDenied, BadKey, FileNotFoundError) as error:
        return Thumbnail(None, f"the file cannot be read: {getattr(error, 'code', 'file_missing')}")
    if row["sha256"] is not None and hashlib.sha256(data).hexdigest() != row["sha256"]:
        return Thumbnail(None, "the file is not what was recorded: picture_damaged")
    try:
        return _smaller(data, aspect)
    except (*DECODER_ERRORS, *BOMBS) as error:
        return Thumbnail(None, f"the file cannot be decoded ({type(error).__name__})")


def _smaller(data: bytes, aspect: float) -> Thumbnail:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > MOST_PIXELS:
        return Thumbnail(None, f"the picture has {image.width} x {image.height} pixels, too many for a thumbnail")
    notice = _notice(image)
    image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a fraction of its size
    small = image.convert("RGB")
    width, height = box(aspect)
    scale = min(1.0, max(width / small.width, height / small.height))
    size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
    if size != small.size:
        small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    small.save(file, format="WEBP", quality=QUALITY, method=METHOD)
    return Thumbnail(file.getvalue(), notice=notice)


def box(aspect: float) -> tuple[int, int]:
    """Width and height that a thumbnail fills."""
    return round(SIDE * math.sqrt(aspect)), round(SIDE / math.sqrt(aspect))


def _notice(image: Image.Image) -> str | None:
    """What the renderer wanted said beside the picture, from the picture's own record."""
    text = image.info.get("portraits")
    if text is None and (found := _XMP_RECORD.search(image.info.get("xmp", b""))):
        text = unescape(found[1].decode(errors="replace"))
    try:
        record = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    told = record.get("notice") if isinstance(record, dict) else None
    return told[:MOST_NOTICE] if isinstance(told, str) and told else None
