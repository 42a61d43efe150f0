"""Where the files of a webdataset shard lie in its tar: an index of offsets, made without extracting anything.

    KEY.jpg | KEY.jpeg | KEY.png | KEY.webp   the picture
    KEY.txt                                   its caption
    KEY.face.json                             the face in it
    KEY.json                                  what else is known (a caption, labels), as other tools write it

The key is all of the name before the first dot behind the last slash, as in the package `webdataset`. Other files of
an archive are passed over. A tar is read by its headers alone (POSIX ustar, pax and GNU long names); links, devices and
sparse files have no place in a shard and are refused, and so is a header whose checksum or sizes are wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperlora.errors import DatasetDamaged, DatasetMissing

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp")
PARTS = {**dict.fromkeys(PICTURE_ENDINGS, "picture"), "txt": "caption", "face.json": "face", "json": "facts"}
MOST_MEMBERS = 4_000_000
MOST_NAME_BYTES = 64 * 1024
_BLOCK = 512
_REGULAR, _LONG_NAME, _PAX, _PAX_GLOBAL, _FOLDER = (b"0", b"\0"), b"L", b"x", b"g", b"5"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: where they begin and how many they are."""

    path: str
    offset: int
    size: int

    def read(self, most: int, what: str) -> bytes:
        """The bytes.

        Raises `DatasetDamaged` for more than `most` of them or fewer than there should be, `DatasetMissing` where the
        file cannot be opened.
        """
        if self.size > most:
            raise DatasetDamaged(f"{what} in {self.path} has {self.size} bytes, at most {most} are read")
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(descriptor, self.size, self.offset)
            finally:
                os.close(descriptor)
        except OSError as fault:
            raise DatasetMissing(f"{self.path} cannot be read: {fault.strerror or fault}") from fault
        if len(data) != self.size:
            raise DatasetDamaged(f"{what} in {self.path}: wanted {self.size} bytes, found {len(data)}")
        return data


@dataclass(slots=True)
class Entry:
    """One picture of a set, and where what belongs to it lies; nothing of it is read yet."""

    key: str
    picture: Span
    caption: Span | None = None
    face: Span | None = None
    facts: Span | None = None


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a file: `a/b.face.json` is `a/b` and `face.json`, in small letters."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def tar_entries(path: Path) -> list[Entry]:
    """Every sample of a shard that has a picture, in the order of the archive.

    Raises `DatasetMissing` where the file cannot be read and `DatasetDamaged` where it is no sound tar.
    """
    found: dict[str, dict[str, Span]] = {}
    for name, offset, size in tar_members(path):
        key, ending = split_name(name)
        part = PARTS.get(ending)
        if part is not None:
            # Of two pictures under one key the first counts.
            found.setdefault(key, {}).setdefault(part, Span(str(path), offset, size))
    return [Entry(key, **parts) for key, parts in found.items() if "picture" in parts]


def tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every regular file of an archive.

    Raises `DatasetMissing` where the file cannot be read and `DatasetDamaged` where it is no sound tar.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as fault:
        raise DatasetMissing(f"{path} cannot be read: {fault.strerror or fault}") from fault
    try:
        yield from _members(descriptor, path)
    finally:
        os.close(descriptor)


def _members(descriptor: int, path: Path) -> Iterator[tuple[str, int, int]]:
    total = os.fstat(descriptor).st_size
    place, count, long_name = 0, 0, None
    while True:
        header = os.pread(descriptor, _BLOCK, place)
        if header == bytes(_BLOCK):
            return
        name, size, kind = _header(header, path, place)
        begin, place = place + _BLOCK, place + _BLOCK + -(-size // _BLOCK) * _BLOCK
        count += 1
        if count > MOST_MEMBERS:
            raise DatasetDamaged(f"{path} has more than {MOST_MEMBERS} members; split it into shards")
        if begin + size > total:
            raise DatasetDamaged(f"{path} ends in the middle of its member {name[:200]!r}; fetch the shard again")
        if kind in (_LONG_NAME, _PAX):
            if size > MOST_NAME_BYTES:
                raise DatasetDamaged(
                    f"{path} has a member with {size} bytes of name, at most {MOST_NAME_BYTES} are read"
                )
            data = os.pread(descriptor, size, begin)
            long_name = _pax_path(data, path, long_name) if kind == _PAX else _text(data.rstrip(b"\0"), path)
            continue
        if kind in _REGULAR:
            yield long_name or name, begin, size
        elif kind not in (_FOLDER, _PAX_GLOBAL):
            raise DatasetDamaged(
                f"{path} holds {name[:200]!r}, a link, a device or a sparse file (type {kind!r}); "
                "a shard holds regular files only"
            )
        long_name = None


def _header(header: bytes, path: Path, place: int) -> tuple[str, int, bytes]:
    """Name, size and type of one header block."""
    if len(header) < _BLOCK:
        raise DatasetDamaged(f"{path} ends without the mark of its end; fetch the shard again")
    # The sum counts its own eight bytes as spaces.
    wanted = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if _octal(header[148:156]) != wanted:
        raise DatasetDamaged(f"{path} has no sound tar header at byte {place}; it is no tar, or damaged")
    size = int.from_bytes(header[125:136], "big") if header[124] == 0x80 else _octal(header[124:136])
    if size is None or size < 0:
        raise DatasetDamaged(f"{path} has a member without a size at byte {place}")
    name = _text(header[:100].split(b"\0", 1)[0], path)
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (f"{_text(prefix, path)}/{name}" if prefix else name), size, header[156:157]


def _octal(field: bytes) -> int | None:
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits, 8) if digits and all(digit in b"01234567" for digit in digits) else None


def _pax_path(data: bytes, path: Path, otherwise: str | None) -> str | None:
    """The path that a pax header gives its member; sizes beyond a header's own field are refused."""
    name = otherwise
    while data:
        digits, space, _ = data.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 8 else 0
        keyword, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not equals or length > len(data) or not value.endswith(b"\n"):
            raise DatasetDamaged(f"{path} has a pax header that cannot be read")
        if keyword == b"path":
            name = _text(value[:-1], path)
        elif keyword == b"size" or keyword.startswith(b"GNU.sparse"):
            raise DatasetDamaged(
                f"{path} has a pax header with {keyword.decode()!r}; a shard holds plain, smaller files"
            )
        data = data[length:]
    return name


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise DatasetDamaged(f"{path} has a member whose name is not UTF-8: {data[:80]!r}") from fault
