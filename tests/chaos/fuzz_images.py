"""The fuzzer of photos: a program that feeds damaged and hostile pictures to the readers of `jobs.photos`.

    python fuzz_images.py HOME NUMBER

Every input ends as a checked photo, whose upright RGB picture has the size that was told, or as `PhotoRefused`.
"""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

from fuzz_guard import Guard, examples, outcome_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from jobs.errors import PhotoRefused
from jobs.photos import check_photo, load_photo
from jobs.settings import Settings

PIXELS = 1_000_000
BYTES = 4 * 2**20
SECONDS_EACH = 10.0


def _saved(format_: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, format_, **options)
    return file.getvalue()


def seeds() -> list[bytes]:
    """Small valid files of every kind, those that are refused included."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 2_000
    frames = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "red")]}
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 5_000, zip=True)
    icc = {"icc_profile": b"\0" * 3_000}
    return [
        _saved("JPEG", exif=exif, **icc),
        _saved("JPEG", progressive=True),
        _saved("JPEG", "L"),
        _saved("JPEG", "CMYK"),
        _saved("MPO", **frames),
        _saved("PNG", "RGBA", pnginfo=text, exif=exif, **icc),
        _saved("PNG", "1"),
        _saved("PNG", "P", transparency=0),
        _saved("PNG", "I;16"),
        _saved("PNG", "LA"),
        _saved("PNG", **frames),
        _saved("WEBP", exif=exif.tobytes(), **icc),
        _saved("WEBP", "RGBA", lossless=True),
        _saved("WEBP", **frames),
        _saved("GIF"),
        _saved("TIFF"),
        _saved("BMP"),
        _saved("ICO"),
        b"%PDF-1.7\n" + b"0" * 64,
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"",
    ]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


SIDES = st.one_of(
    st.sampled_from([0, 1, 2, 999, 1000, 1001, 65_535, 2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 3000)
)
SMALL = st.binary(max_size=64)
PACKED = st.integers(0, 8 * 2**20).map(lambda size: zlib.compress(b"\0" * size))
"""What inflates to up to 8 MiB."""
EXTRA_CHUNKS = st.one_of(
    st.tuples(st.sampled_from([b"zTXt", b"iCCP"]), PACKED.map(lambda packed: b"a\0\0" + packed)),
    PACKED.map(lambda packed: (b"iTXt", b"a\0\1\0\0\0" + packed)),
    st.tuples(
        st.sampled_from([b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"pHYs", b"sBIT"]), SMALL
    ),
)


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """Well-formed chunks with senseless content, bombs included."""
    width, height = draw(SIDES), draw(SIDES)
    depth, colour = draw(st.sampled_from([1, 2, 4, 8, 16, 3])), draw(st.sampled_from([0, 2, 3, 4, 6, 5]))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, draw(st.sampled_from([0, 1, 7])))
    extra = [chunk(kind, content) for kind, content in draw(st.lists(EXTRA_CHUNKS, max_size=4))]
    data = [chunk(b"IDAT", part) for part in draw(st.lists(st.one_of(PACKED, SMALL), max_size=3))]
    order = draw(st.permutations([*extra, *data]))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(order)
        + draw(st.sampled_from([chunk(b"IEND", b""), b""]))
    )


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    """A JPEG whose sides are told anew, with segments and scans put in."""
    data = draw(st.sampled_from([seed for seed in SEEDS if seed.startswith(b"\xff\xd8")]))
    start = next(at for at in range(len(data)) if data[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    sides = struct.pack(">HH", draw(SIDES) & 0xFFFF, draw(SIDES) & 0xFFFF)
    if draw(st.booleans()):
        data = data[: start + 5] + sides + data[start + 9 :]
    for kind, content in draw(st.lists(st.tuples(st.sampled_from(b"\xe1\xe2\xed\xfe\xc4\xdb\xdd"), SMALL), max_size=3)):
        data = data[:2] + bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content + data[2:]
    scan = data.index(b"\xff\xda")
    return data[:scan] + data[scan:-2] * draw(st.sampled_from([1, 1, 2, 40, 600])) + data[-2:]


@st.composite
def webps(draw: st.DrawFn) -> bytes:
    """A RIFF of WebP chunks that do not fit each other."""
    kinds = st.sampled_from([b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"XMP "])
    parts = []
    for kind, content in draw(st.lists(st.tuples(kinds, SMALL), min_size=1, max_size=5)):
        parts.append(kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, cut out, doubled or put in; or two files in one."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 64))
        way = draw(st.sampled_from(["set", "cut", "double", "insert", "truncate", "append"]))
        part = draw(SMALL)
        match way:
            case "set":
                data = data[:at] + part + data[at + len(part) :]
            case "cut":
                data = data[:at] + data[at + length :]
            case "double":
                data = data[:at] + data[at : at + length] * 2 + data[at + length :]
            case "insert":
                data = data[:at] + part + data[at:]
            case "truncate":
                data = data[:at]
            case _:
                data = data + draw(st.sampled_from(SEEDS))
    return data


SEEDS = seeds()


def main(home: Path, number: int) -> None:
    """Feed so many inputs."""
    limits = Settings(home=home, max_photo_pixels=PIXELS, max_photo_bytes=BYTES)
    Image.init()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    warnings.simplefilter("error")  # as where a producer makes warnings errors
    guard = Guard(home, seconds_each=SECONDS_EACH)
    guard.begin()

    def read(data: bytes) -> None:
        checked = check_photo(data, "photo", limits)
        assert 0 < checked.width * checked.height <= PIXELS
        image = load_photo(data, limits)
        assert (image.mode, image.size) == ("RGB", (checked.width, checked.height))

    @examples(number)
    @given(st.one_of(damaged(), damaged(), pngs(), jpegs(), webps()))
    def fuzz(data: bytes) -> None:
        with guard.input():
            guard.outcomes[outcome_of(lambda: read(data), (PhotoRefused,))] += 1

    fuzz()
    guard.report()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
