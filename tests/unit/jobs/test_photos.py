"""Photos: what is read, what is refused, and what is measured."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from PIL import Image

from jobs.errors import PhotoRefused, StorageUnavailable
from jobs.photos import PhotoSource, allowed_buckets, check_photo, load_photo
from jobs.settings import Settings

MakePhoto = Callable[..., bytes]


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A PNG written by hand: 8-bit grey, with these chunks before its data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.fixture
def source(folder: Path, settings: Settings) -> PhotoSource:
    return PhotoSource(folder, settings)


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("MPO", "image/jpeg")],
)
def test_content_decides_not_the_name(
    form: str, media_type: str, source: PhotoSource, folder: Path, make_photo: MakePhoto
) -> None:
    # Given a photo of each format under a name that says nothing; an MPO of two pictures, as phones write them
    more = {"save_all": True, "append_images": [Image.new("RGB", (16, 16))]} if form == "MPO" else {}
    data = make_photo((64, 48), form=form, **more)
    (folder / "photo.txt").write_bytes(data)
    # When it is checked
    photo = source.check("photo.txt")
    # Then it is measured, and reading gives the same bytes
    assert (photo.width, photo.height, photo.media_type, photo.bytes_size) == (64, 48, media_type, len(data))
    assert photo.sha256 == hashlib.sha256(data).hexdigest()
    assert photo.source == "photo.txt"
    assert source.read(photo) == data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int, settings: Settings) -> None:
    # Given a picture whose left third is red, stored as a camera in that orientation would store it
    upright = Image.new("RGB", (60, 40), "blue")
    upright.paste("red", (0, 0, 20, 40))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each orientation's own
    stored = upright.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    # When it is loaded and checked
    loaded = load_photo(buffer.getvalue(), settings)
    checked = check_photo(buffer.getvalue(), "x", settings)
    # Then it is upright again
    assert loaded.size == (60, 40) == (checked.width, checked.height)
    assert loaded.getpixel((5, 20)) == (255, 0, 0)
    assert loaded.getpixel((50, 20)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("L", (8, 8), 100), (100, 100, 100)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 255)), (0, 0, 0)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("P", (8, 8), 0), (0, 0, 0)),
        (Image.new("I;16", (8, 8), 0x8000), (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_rgb(image: Image.Image, pixel: tuple[int, int, int], settings: Settings) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    loaded = load_photo(buffer.getvalue(), settings)
    assert loaded.mode == "RGB"
    assert loaded.getpixel((3, 3)) == pixel


def test_a_hundred_megapixels_are_refused_before_they_are_decoded(settings: Settings) -> None:
    # Given 100 megapixels in 100 KB, whose data is not even there
    bomb = png(10_000, 10_000)
    # Then the header is enough to refuse it, whether Pillow's own warning is an error or not
    for warned in ("error", "ignore"):
        with warnings.catch_warnings(), pytest.raises(PhotoRefused, match="100000000 pixels"):
            warnings.simplefilter(warned)  # type: ignore[arg-type]
            check_photo(bomb, "x", settings)


def test_the_pixel_limit_is_a_setting(settings: Settings, make_photo: MakePhoto) -> None:
    tight = settings.model_copy(update={"max_photo_pixels": 64 * 48 - 1})
    with pytest.raises(PhotoRefused, match="64 x 48 = 3072 pixels, at most 3071"):
        load_photo(make_photo((64, 48)), tight)
    load_photo(make_photo((64, 48)), settings.model_copy(update={"max_photo_pixels": 64 * 48}))


def _text_bomb() -> bytes:
    return png(8, 8, (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 100_000_000)), data=b"\0" * 72)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"hello, I am text", "other content"),
        (b"GIF89a" + b"\0" * 20, "a GIF"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 20, "a HEIC photo"),
        (b"<svg onload='x'/>", "an SVG"),
        (b"\xff\xd8\xff\xe0", "a damaged one"),
        (b"\x89PNG\r\n\x1a\n", "a damaged one"),
        (animation("WEBP"), "animation of 3"),
        (animation("PNG"), "animation of 3"),
        (png(8, 8, data=b"\0" * 10), "damaged or missing data"),
        (_text_bomb(), "PNG or WebP"),
    ],
    ids=["empty", "text", "gif", "pdf", "heic", "svg", "jpeg-head", "png-head", "webp-anim", "apng", "short", "zip"],
)
def test_what_is_no_photo_is_refused_and_named(data: bytes, message: str, settings: Settings) -> None:
    with pytest.raises(PhotoRefused, match=message):
        load_photo(data, settings)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_truncated_photos_are_refused(form: str, settings: Settings) -> None:
    # Given photos with detail, cut anywhere from a quarter to just before the end
    noise = Image.effect_noise((96, 96), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, form)
    whole = buffer.getvalue()
    load_photo(whole, settings)
    for part in (0.25, 0.5, 0.75, 0.98):
        with pytest.raises(PhotoRefused):
            check_photo(whole[: int(len(whole) * part)], "x", settings)


def test_a_jpeg_of_thousands_of_scans_is_refused(settings: Settings, make_photo: MakePhoto) -> None:
    with pytest.raises(PhotoRefused, match="scans"):
        load_photo(make_photo() + b"\xff\xda" * 1000, settings)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_an_exif_block_that_cannot_be_read_leaves_the_photo_as_it_lies(
    settings: Settings, make_photo: MakePhoto
) -> None:
    damaged = make_photo((64, 48), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_photo(damaged, settings).size == (64, 48)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos/nobody.jpg", "no file 'photos/nobody.jpg'"),
        ("photos\\ada.jpg", "write / between folders"),
        ("../secret.jpg", "'..'"),
        ("photos/../../secret.jpg", "'..'"),
        ("/etc/passwd", "relative"),
        ("~/x.jpg", "relative"),
        ("", "relative"),
        ("a\0b", "relative"),
        ("door/secret.jpg", "leaves the folder"),
        ("window.jpg", "leaves the folder"),
        ("loop.jpg", "loop.jpg"),
        ("photos", "a folder"),
        ("pipe.jpg", "a pipe"),
        ("photos/ada.jpg/x", "ada.jpg/x"),
        ("file:///etc/passwd", "neither a path nor s3"),
        ("https://example.com/x.jpg", "neither a path nor s3"),
        ("a" * 300, "cannot read"),
    ],
)
def test_paths_stay_inside(name: str, message: str, source: PhotoSource, folder: Path, make_photo: MakePhoto) -> None:
    # Given a good photo outside the folder, and ways to it that were planted inside
    (folder.parent / "secret.jpg").write_bytes(make_photo())
    (folder / "door").symlink_to(folder.parent)
    (folder / "window.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    # Then none of them is taken, and nothing hangs
    with pytest.raises(PhotoRefused) as caught:
        source.check(name)
    assert message in str(caught.value)


def test_links_that_stay_inside_are_followed(source: PhotoSource, folder: Path) -> None:
    (folder / "me.jpg").symlink_to("photos/ada.jpg")
    (folder / "all").symlink_to("photos")
    assert source.check("me.jpg").sha256 == source.check("all/ada.jpg").sha256 == source.check("photos/ada.jpg").sha256


def test_the_size_limit_comes_before_reading(folder: Path, settings: Settings) -> None:
    # Given a sparse file of 10 GB
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(10 * 1024**3)
    with pytest.raises(PhotoRefused, match="10737418240 bytes"):
        PhotoSource(folder, settings).check("huge.jpg")


def test_a_photo_that_changed_since_the_check_is_refused(
    source: PhotoSource, folder: Path, make_photo: MakePhoto
) -> None:
    photo = source.check("photos/ada.jpg")
    (folder / "photos/ada.jpg").write_bytes(make_photo(colour="red"))
    with pytest.raises(PhotoRefused, match="changed"):
        source.read(photo)
    (folder / "photos/ada.jpg").unlink()
    with pytest.raises(PhotoRefused, match="no file"):
        source.read(photo)


@pytest.mark.parametrize(
    ("storage_url", "photo_buckets", "allowed"),
    [
        ("file:///x", "", set()),
        ("s3://store/pre", "", {"store"}),
        ("s3://store/pre", "one, two", {"one", "two"}),
        ("file:///x", "one", {"one"}),
    ],
)
def test_allowed_buckets(storage_url: str, photo_buckets: str, allowed: set[str], settings: Settings) -> None:
    told = settings.model_copy(update={"storage_url": storage_url, "photo_buckets": photo_buckets})
    assert allowed_buckets(told) == allowed


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="faces")
        yield client


def test_photos_from_a_bucket(bucket: Any, folder: Path, settings: Settings, make_photo: MakePhoto) -> None:
    # Given a photo, a text and a large object in an allowed bucket
    data = make_photo((32, 32))
    for key, body in (("a/ada.jpg", data), ("text.jpg", b"text"), ("large.jpg", b"x" * 2000)):
        bucket.put_object(Bucket="faces", Key=key, Body=body)
    told = settings.model_copy(update={"photo_buckets": "faces", "max_photo_bytes": 1500})
    source = PhotoSource(folder, told)
    # Then the photo is read and verified, and each fault is named
    photo = source.check("s3://faces/a/ada.jpg")
    assert source.read(photo) == data
    for name, message in [
        ("s3://faces/none.jpg", "no such object"),
        ("s3://faces/text.jpg", "other content"),
        ("s3://faces/large.jpg", "more than 1500 bytes"),
        ("s3://faces", "no object; write"),
        ("s3://faces/../x", "no s3://bucket/key"),
        ("s3://other/x.jpg", "not allowed"),
    ]:
        with pytest.raises(PhotoRefused, match=message):
            source.check(name)


def test_a_store_that_does_not_answer_is_no_fault_of_the_photo(folder: Path, settings: Settings) -> None:
    class Away:
        def errors(self, *_: str) -> Any:
            raise StorageUnavailable("away")

    source = PhotoSource(folder, settings.model_copy(update={"photo_buckets": "faces"}), server=Away())  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable):
        source.check("s3://faces/x.jpg")
