"""Tars of strangers: found by their headers, never extracted, refused where they are not what a shard is."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from hyperlora.dataset.archive import Span, split_name, tar_entries, tar_members
from hyperlora.errors import DatasetDamaged, DatasetMissing

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT, **settings: object) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for setting, value in settings.items():
                setattr(member, setting, value)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("folder", ["", "people/ada/", "a" * 90 + "/" + "b" * 120 + "/ü/"])
def test_members_are_found_in_every_form_of_tar(tmp_path: Path, form: str, folder: str) -> None:
    # Given an archive with names that are short, long, and not ASCII (which plain ustar cannot all hold)
    members = {f"{folder}{n}.txt": str(n).encode() * n for n in range(3)}
    try:
        path = write_tar(tmp_path / "a.tar", members, FORMATS[form], mtime=1.5 if form == "pax" else 1)
    except ValueError:
        pytest.skip("plain ustar has no room for such a name")
    # When it is indexed
    found = {name: Span(str(path), offset, size).read(100, name) for name, offset, size in tar_members(path)}
    # Then it holds what tarfile wrote
    assert found == members


def test_samples_are_put_together_by_their_key(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        {
            "1.JPG": b"one",
            "1.face.json": b"{}",
            "1.cls": b"7",
            "d.x/2.txt": b"two",
            "d.x/2.png": b"2",
            "1.png": b"again",
            "3.txt": b"no picture",
        },
    )
    first, second = tar_entries(path)
    assert (first.key, second.key) == ("1", "d.x/2")
    assert first.picture.read(10, "") == b"one" and first.caption is None and first.face is not None
    assert second.caption is not None and second.caption.read(10, "") == b"two"
    assert split_name("a.b/c.face.json") == ("a.b/c", "face.json")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.jpg": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(DatasetDamaged, match="a link, a device"):
        tar_entries(path)


def test_names_lead_nowhere(tmp_path: Path) -> None:
    """A name is only a key: nothing is ever written, or read, at the place it names."""
    path = write_tar(tmp_path / "a.tar", {"../../etc/x.jpg": b"picture"})
    (entry,) = tar_entries(path)
    assert entry.picture.path == str(path) and entry.picture.read(10, "") == b"picture"


def test_a_torn_tar_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", {"1.jpg": b"x" * 2000, "2.jpg": b"y" * 2000}).read_bytes()
    torn = tmp_path / "torn.tar"
    for length, message in ((3500, "middle of its member"), (5120, "mark of its end"), (700, "middle of its member")):
        torn.write_bytes(whole[:length])
        with pytest.raises(DatasetDamaged, match=message):
            tar_entries(torn)


@pytest.mark.parametrize(
    ("place", "data", "message"),
    [
        (0, b"other", "no sound tar header"),
        (124, b"77777777777", "no sound tar header"),
        (148, b"0000000\0", "no sound tar header"),
    ],
)
def test_a_header_that_was_changed_is_refused(tmp_path: Path, place: int, data: bytes, message: str) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", {"1.jpg": b"x"}).read_bytes())
    content[place : place + len(data)] = data
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DatasetDamaged, match=message):
        tar_entries(tmp_path / "a.tar")


def resigned(content: bytearray) -> bytes:
    """The tar with the checksum of its first header made right again."""
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"\x80" + (1 << 40).to_bytes(11, "big"), "middle of its member"),
        (b"\xff" * 12, "without a size"),
        (b"12x4\0", "without a size"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, size: bytes, message: str) -> None:
    # Given a header whose checksum is right and whose size is not
    content = bytearray(write_tar(tmp_path / "a.tar", {"1.jpg": b"x"}).read_bytes())
    content[124 : 124 + len(size)] = size
    (tmp_path / "a.tar").write_bytes(resigned(content))
    # Then the archive is refused, and nothing of that size is read
    with pytest.raises(DatasetDamaged, match=message):
        tar_entries(tmp_path / "a.tar")


def test_a_pax_header_of_any_size_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=None) as archive:
        member = tarfile.TarInfo("1.jpg")
        member.pax_headers = {"comment": "x" * 100_000}
        archive.addfile(member, io.BytesIO())
    with pytest.raises(DatasetDamaged, match="bytes of name"):
        tar_entries(tmp_path / "a.tar")


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(DatasetDamaged, match="no sound tar header"):
        tar_entries(tmp_path / "a.tar")
    with pytest.raises(DatasetMissing, match="cannot be read"):
        tar_entries(tmp_path / "b.tar")


def test_reads_are_bounded(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.jpg": b"x" * 100})
    (entry,) = tar_entries(path)
    with pytest.raises(DatasetDamaged, match="100 bytes, at most 99"):
        entry.picture.read(99, "picture")
    with pytest.raises(DatasetDamaged, match="wanted 100000 bytes"):
        Span(str(path), 0, 100_000).read(1 << 20, "picture")
