"""The picture as a file: PNG, JPEG or WebP with its making written inside, cropped and resized as was asked.

Every file says that it is AI-made, as IPTC's digital source type in XMP, and tells its making twice, unless that is not
wanted. `parameters` is the text that image tools of this field read and write: a text
chunk of that name in PNG, EXIF's UserComment (`UNICODE`, then UTF-16, big-endian) in JPEG and WebP. The record is the
same and more as JSON: the text chunk `portraits` in PNG, the XMP property `portraits:record` in JPEG and WebP. Pixels
are the same at each drawing of one render; bytes are not, since times differ.

A JPEG holds at most 64 kB of each. A record that is longer is written with its longest values cut, and says under
`shortened` which; PNG and WebP hold all of it.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import unescape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jobs.digital_source import DRAWN, DigitalSource, png_info, xmp_of, xmp_packet
from worker.errors import WorkerError

if TYPE_CHECKING:
    from hyperlora.faces.types import Face

Format = Literal["png", "jpeg", "webp"]

MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
QUALITY = {"jpeg": 92, "webp": 90}
LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
# libjpeg halves the colours' resolution by default; from here on the file keeps it.
FULL_COLOUR_QUALITY = 90
# A JPEG segment's length is 16 bits and counts itself.
JPEG_SEGMENT = 65_533
# Names as image tools show them; the second is the schedule, where it is not the sampler's own.
SAMPLER_NAMES = {
    "dpmpp_2m_karras": ("DPM++ 2M Karras", None),
    "euler": ("Euler", None),
    "euler_trailing": ("Euler", "SGM Uniform"),
    "ddim_trailing": ("DDIM", "SGM Uniform"),
    "lcm": ("LCM", None),
    "tcd": ("TCD", None),
    "dmd2": ("LCM", "DMD2"),
}
# A detector's box holds a face from brow to chin; hair, ears and neck of an avatar need about this many of its sides.
HEAD_SHARE = 2.2
# The head's middle lies above the middle of its face, in sides of the box.
HEAD_RISE = 0.1

_EXIF_HEAD = b"Exif\0\0"
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_NAMESPACE = "https://github.com/hyperlora-portraits/hyperlora-portraits/record/1.0/"
# Neither UTF-8 nor XML can hold these; JSON can name them.
_UNWRITABLE = re.compile("[\ud800-\udfff\ufffe\uffff]")
# JSON names control characters by itself, a plain text would end at the first NUL.
_UNREADABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
PUBLIC = ("software", "notice", "unsigned", "watermark")
"""What of a record is written where its making is not to be told: nothing of the person, the prompt or the job."""
_XMP_RECORD = re.compile(rb"<portraits:record>([^<]*)</portraits:record>")
_SHORT = 32


class PictureTooLarge(WorkerError):
    """The picture has more pixels on a side than its file format can hold."""

    code = "picture_too_large"


def encode(
    image: Image.Image,
    record: Mapping[str, Any],
    *,
    format: Format = "png",
    quality: int | None = None,
    source: DigitalSource = DRAWN,
    tells_making: bool = True,
) -> tuple[bytes, str]:
    """The picture as the bytes of a file with its source and its making inside, and their media type.

    `quality` (1 to 100) is that of JPEG (92 when None) and WebP (90); PNG loses nothing and has none. A `record` needs
    the names that `parameters_text` reads. Without `tells_making` only what is PUBLIC of it is written, and no
    `parameters`. Raises: PictureTooLarge.
    """
    most = LONGEST_SIDE[format]
    if max(image.size) > most:
        raise PictureTooLarge(
            f"{format} holds at most {most} pixels on a side, the picture has {image.width}x{image.height}; "
            "ask for another format, a smaller size or no upscaling"
        )
    rgb, buffer = image.convert("RGB"), io.BytesIO()
    told = record if tells_making else {name: record[name] for name in PUBLIC if name in record}
    if format == "png":
        # Compressed lightly, since drawing must not wait for zlib.
        rgb.save(buffer, format="PNG", pnginfo=_chunks(told, source, tells_making), compress_level=4)
    elif format == "jpeg":
        chosen = quality or QUALITY["jpeg"]
        sampling = "4:4:4" if chosen >= FULL_COLOUR_QUALITY else "4:2:0"
        inside = _segments(told, source, tells_making)
        rgb.save(buffer, format="JPEG", quality=chosen, subsampling=sampling, optimize=True, **inside)
    else:
        inside = {"exif": _exif(told) if tells_making else b"", "xmp": _xmp(told, source)}
        rgb.save(buffer, format="WEBP", quality=quality or QUALITY["webp"], method=4, **inside)
    return buffer.getvalue(), MEDIA_TYPES[format]


def extension_of(media_type: str | None) -> str:
    """The ending of a file of this media type, dot included; `.bin` for one that no picture here has."""
    return EXTENSIONS.get(media_type or "image/png", ".bin")


def record_of(image: Image.Image) -> dict[str, Any]:
    """The record that `encode` wrote into the picture that this was opened from; {} where there is none."""
    text = image.info.get("portraits")
    # A pattern and no XML parser, since a file may be anybody's.
    if text is None and (found := _XMP_RECORD.search(xmp_of(image))):
        text = unescape(found[1].decode(errors="replace"))
    try:
        record = json.loads(text or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def shape(
    image: Image.Image,
    *,
    crop: Literal["face"] | None = None,
    size: tuple[int, int] | None = None,
    face: Face | None = None,
) -> Image.Image:
    """The picture cropped and resized (Lanczos) to `size` (width, height).

    `crop="face"`: the part around the head, as wide to high as `size`, a square without one, never beyond the
    picture's edges; where no `face` was found, the middle of the picture. Without `crop` the whole picture, less what
    `size` has no room for at two of its sides.
    """
    if crop is None and size is None:
        return image
    aspect = size[0] / size[1] if size is not None else 1.0
    width, height = _largest(image.size, aspect)
    middle = (image.width / 2, image.height / 2)
    if crop == "face" and face is not None:
        left, top, right, bottom = (float(number) for number in face.box_xyxy)
        side = max(right - left, bottom - top)
        share = min(1.0, max(HEAD_SHARE * side / width, HEAD_SHARE * side / height))
        width, height = width * share, height * share
        middle = ((left + right) / 2, (top + bottom) / 2 - HEAD_RISE * side)
    whole = (max(1, round(width)), max(1, round(height)))
    x = min(max(round(middle[0] - whole[0] / 2), 0), image.width - whole[0])
    y = min(max(round(middle[1] - whole[1] / 2), 0), image.height - whole[1])
    part = image.crop((x, y, x + whole[0], y + whole[1]))
    return part if size is None or part.size == size else part.resize(size, Image.Resampling.LANCZOS)


def _largest(size: tuple[int, int], aspect: float) -> tuple[float, float]:
    """Width and height of the largest part of this aspect (width to height)."""
    width, height = size
    return (width, width / aspect) if width / aspect <= height else (height * aspect, height)


def parameters_text(record: Mapping[str, Any]) -> str:
    """The record as the three-line `parameters` text: prompt, negative prompt, settings."""
    sampler, schedule = SAMPLER_NAMES.get(record["scheduler"], (record["scheduler"], None))
    drawn_seed, strength = record.get("drawn_seed"), record.get("strength")
    settings = {
        "Steps": record["steps"],
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{record['guidance']:g}",
        "Seed": record["seed"] if drawn_seed is None else drawn_seed,
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": str(record["model_fingerprint"])[:10],
        "Model": record["profile"],
        "Denoising strength": None if strength is None or strength >= 1 else f"{strength:g}",
        "Lora hashes": f'"hyperlora: {str(record["weight_set_fingerprint"])[:12]}"',
        "Lora weight": f"{record['lora_weight']:g}",
        "Shortened": " and ".join(record["shortened"]) if record.get("shortened") else None,
    }
    lines = [str(record["final_prompt"])]
    if record["negative_prompt"]:
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None))
    return _UNREADABLE.sub("\ufffd", "\n".join(lines))


def _json(record: Mapping[str, Any]) -> str:
    text = json.dumps(dict(record), sort_keys=True, ensure_ascii=False)
    return _UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _exif(record: Mapping[str, Any]) -> bytes:
    """EXIF with the software's name and UserComment: TIFF, big-endian, two directories (EXIF 2.32, 4.6).

    Written by hand: Pillow gives UserComment the type BYTE, which some readers do not take for it.
    """
    software = b"hyperlora-portraits\0"
    comment = b"UNICODE\0" + parameters_text(record).encode("utf-16-be")
    # An entry is tag, type (2 text, 4 a long number, 7 bytes), count, and the value or where it lies.
    first, second = 8, 8 + 2 + 2 * 12 + 4
    values = second + 2 + 12 + 4
    main = struct.pack(">H", 2) + struct.pack(">HHII", 0x0131, 2, len(software), values)
    main += struct.pack(">HHII", 0x8769, 4, 1, second) + struct.pack(">I", 0)
    own = struct.pack(">HHHII", 1, 0x9286, 7, len(comment), values + len(software)) + struct.pack(">I", 0)
    return _EXIF_HEAD + b"MM\0*" + struct.pack(">I", first) + main + own + software + comment


def _chunks(record: Mapping[str, Any], source: DigitalSource, tells_making: bool) -> PngInfo:
    """What is written into a PNG."""
    info = png_info(xmp_packet(source))
    if tells_making:
        text = parameters_text(record)
        # Some tools read only the older chunk, which holds Latin-1.
        (info.add_text if text.isascii() else info.add_itxt)("parameters", text)
    info.add_itxt("portraits", _json(record))
    return info


def _segments(record: Mapping[str, Any], source: DigitalSource, tells_making: bool) -> dict[str, bytes]:
    """What is written into a JPEG, each part within the length of its segment."""

    def xmp(told: Mapping[str, Any]) -> bytes:
        return _xmp(told, source)

    packet = _within(record, tuple(record), xmp, JPEG_SEGMENT - len(_XMP_HEAD))
    exif = _within(record, ("final_prompt", "negative_prompt"), _exif, JPEG_SEGMENT) if tells_making else b""
    return {"exif": exif, "xmp": packet}


def _xmp(record: Mapping[str, Any], source: DigitalSource) -> bytes:
    """An XMP packet with the source, and the record as JSON in the property `portraits:record`."""
    return xmp_packet(source, {"portraits:record": _json(record)}, namespaces={"portraits": _NAMESPACE})


def _within(
    record: Mapping[str, Any], may_cut: Collection[str], write: Callable[[Mapping[str, Any]], bytes], most: int
) -> bytes:
    """What `write` makes of the record in at most so many bytes.

    While it is longer, the longest value of those in `may_cut` is halved (a text) or left out, and named in the
    record's `shortened`.
    """
    kept, cut = dict(record), set[str]()
    while len(data := write(kept)) > most:
        name = max(may_cut, key=lambda name: len(_json({"": kept[name]})))
        value = kept[name]
        is_text = isinstance(value, str) and len(value) > _SHORT
        cut.add(name)
        kept |= {name: f"{value[: len(value) // 2]}…" if is_text else None, "shortened": sorted(cut)}
    return data
