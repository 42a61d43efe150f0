"""Everything that one picture file tells of itself: source, record, signature, watermark."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from jobs.digital_source import source_of
from jobs.errors import PhotoRefused
from jobs.photos import decode_photo
from jobs.settings import Settings
from worker.marking.provenance import Provenance, read_provenance
from worker.picture_file import record_of

_HEADS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Inspected:
    """What was found in one file; `watermark` says it in words, since it may not have been looked for."""

    file: Path
    media_type: str
    width: int
    height: int
    source: str | None
    record: dict[str, Any]
    parameters: str | None
    provenance: Provenance
    watermark: str


def inspect_picture(file: Path, settings: Settings, *, anchors_pem: bytes | None = None) -> Inspected:
    """Read one file within the limits of photos. Raises PhotoRefused for what is no picture, or too large.

    A picture whose pixels are damaged still shows what its signature says of that.
    """
    data = _read(file, settings)
    try:
        image = decode_photo(data, settings)
    except PhotoRefused as error:
        media_type = next((kind for head, kind in _HEADS.items() if data.startswith(head)), None)
        proof = Provenance("none") if media_type is None else read_provenance(data, media_type, anchors_pem=anchors_pem)
        if media_type is None or proof.state == "none":
            raise PhotoRefused(f"{file}: {error}") from error
        return Inspected(file, media_type, 0, 0, None, {}, None, proof, f"not looked for: {error}")
    media_type = Image.MIME[str(image.format)]
    return Inspected(
        file=file,
        media_type=media_type,
        width=image.width,
        height=image.height,
        source=source_of(image),
        record=record_of(image),
        parameters=_parameters(image),
        provenance=read_provenance(data, media_type, anchors_pem=anchors_pem),
        watermark=_watermark(image),
    )


def _read(file: Path, settings: Settings) -> bytes:
    try:
        if not file.is_file():
            raise PhotoRefused(f"{file} is no file; wanted a picture")
        with file.open("rb") as opened:
            data = opened.read(settings.max_photo_bytes + 1)
    except OSError as error:
        raise PhotoRefused(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > settings.max_photo_bytes:
        raise PhotoRefused(f"{file} has more than {settings.max_photo_bytes} bytes (PORTRAITS_MAX_PHOTO_BYTES)")
    return data


def _parameters(image: Image.Image) -> str | None:
    told = image.info.get("parameters")
    if told is not None:
        return str(told)
    comment = image.getexif().get_ifd(0x8769).get(0x9286)
    if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
        return comment[8:].decode("utf-16-be", errors="replace")
    return None


def _watermark(image: Image.Image) -> str:
    from worker.marking import watermark

    if find_spec("imwatermark") is None:
        return f"not looked for: {watermark.HINT}"
    if not watermark.is_large_enough(image):
        return "not looked for: the picture is too small to carry one"
    bits = watermark.matching_bits(image)
    found = "found" if bits >= watermark.FOUND_BITS else "not found"
    return f"{found} ({bits} of {len(watermark.BITS)} bits)"
