"""Photos: how they are read, limited, decoded and set upright.

The content decides, never the name: JPEG, PNG and WebP, one picture per file (of an MPO, the JPEG that phones write
with a depth or gain map behind it, the first picture is the photo). The size in bytes is limited before a file is read,
the pixels before it is decoded; then it is decoded whole, which is the only proof that nothing is missing. An EXIF
block that cannot be read leaves the photo as it lies: the face detector will say whether that was wrong.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from jobs.decoders import BOMBS, DECODER_ERRORS
from jobs.errors import FileRefused, ObjectMissing, PhotoRefused, SettingsInvalid, StorageError
from jobs.files import read_inside
from jobs.planned import CheckedPhoto
from jobs.settings import Settings
from jobs.storage import split_s3_url

if TYPE_CHECKING:
    from jobs.s3 import S3Server
    from jobs.sent_photos import SentPhotos

SHA256 = "sha256:"
"""How a manifest names a photo that was sent before: this, and its 64 hex digits."""

_FORMATS = ("JPEG", "PNG", "WEBP")
_MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_MAX_JPEG_SCANS = 500
_ORIENTATION = 0x0112
_TRANSPOSED = {5, 6, 7, 8}
_READ_CHUNK = 1 << 20


def decode_photo(data: bytes, settings: Settings) -> Image.Image:
    """The photo, decoded whole, as the file has it: turning, colours and transparency are the caller's to read.

    Raises `PhotoRefused`: no photo of the three formats, too many pixels, several pictures, truncated or damaged.
    """
    image = _open(data, settings)
    try:
        image.load()
    except DECODER_ERRORS as error:
        raise PhotoRefused(f"wanted a whole photo, found damaged or missing data ({error}); export it again") from error
    return image


def load_photo(data: bytes, settings: Settings) -> Image.Image:
    """The photo, decoded whole, upright, RGB; transparent parts on white.

    Raises `PhotoRefused`: no photo of the three formats, too many pixels, several pictures, truncated or damaged.
    """
    image = decode_photo(data, settings)
    try:
        return _rgb(_upright(image))
    except DECODER_ERRORS as error:
        raise PhotoRefused(f"wanted a photo that can be turned upright, found {error}; export it again") from error


def check_photo(data: bytes, source: str, settings: Settings) -> CheckedPhoto:
    """Decode once and measure. Raises `PhotoRefused` as `load_photo` does."""
    image = decode_photo(data, settings)
    width, height = image.size
    if _orientation(image) in _TRANSPOSED:
        width, height = height, width
    media_type = _MEDIA_TYPES[str(image.format)]
    return CheckedPhoto(hashlib.sha256(data).hexdigest(), source, len(data), width, height, media_type)


class PhotoSource:
    """Where a manifest's photos come from: its folder, the buckets that the settings allow, and photos that were sent
    before and are named by their SHA-256. Thread-safe.

    Without a folder (`base` None) the manifest was sent by somebody who must not reach this machine's files, nor what
    the store holds of other tenants: then only buckets that `PORTRAITS_PHOTO_BUCKETS` names are read, and the store's
    own objects are not.
    """

    def __init__(
        self,
        base: Path | None,
        settings: Settings,
        *,
        server: S3Server | None = None,
        sent: SentPhotos | None = None,
    ) -> None:
        self._base = base
        self._settings = settings
        self._held_server = server
        self._sent = sent
        self._buckets = allowed_buckets(settings) if base else named_buckets(settings)

    def check(self, source: str) -> CheckedPhoto:
        """Read and decode the photo `source`, a relative path or s3://bucket/key. Raises `PhotoRefused`.

        A store that does not answer raises its own, retryable `StorageError`: that is no fault of the manifest.
        """
        try:
            if self._sent is not None and source.startswith(SHA256) and (known := self._sent.known(source)):
                return known
            return check_photo(self._read(source), source, self._settings)
        except FileRefused as error:
            raise PhotoRefused(f"{source!r}: {error}" if repr(source) not in str(error) else str(error)) from error

    def read(self, photo: CheckedPhoto) -> bytes:
        """The bytes of a photo that was checked before; `PhotoRefused` if they have changed since."""
        try:
            data = self._read(photo.source)
        except FileRefused as error:
            raise PhotoRefused(str(error)) from error
        found = hashlib.sha256(data).hexdigest()
        if found != photo.sha256:
            raise PhotoRefused(
                f"{photo.source!r} changed since it was checked: wanted SHA-256 {photo.sha256[:12]}..., found "
                f"{found[:12]}...; enqueue again when nobody writes to it"
            )
        return data

    def _read(self, source: str) -> bytes:
        limit = self._settings.max_photo_bytes
        if source.startswith(SHA256) and self._sent is not None:
            return self._sent.read(source)
        if source.startswith("s3://"):
            return self._read_s3(source, limit)
        if self._base is None:
            raise PhotoRefused(
                f"{source!r} would be a file beside the manifest, and one that is sent has none; send the photo first "
                f"(POST /photos) and write {SHA256}..."
            )
        if "://" in source:
            raise PhotoRefused(f"{source!r} is neither a path nor s3://bucket/key; download it into the folder first")
        return read_inside(self._base, source, limit=limit)

    @property
    def _server(self) -> S3Server:
        # Made when the first s3:// photo comes, so that local photos never pay for boto3.
        if self._held_server is None:
            from jobs.s3 import S3Server

            self._held_server = S3Server(
                self._settings.s3_endpoint_url, self._settings.s3_region, ca_file=self._settings.s3_ca_file
            )
        return self._held_server

    def _read_s3(self, source: str, limit: int) -> bytes:
        try:
            bucket, key = split_s3_url(source)
        except SettingsInvalid as error:
            raise PhotoRefused(f"{source!r} is no s3://bucket/key ({error})") from error
        if not key:
            raise PhotoRefused(f"{source!r} names a bucket but no object; write s3://bucket/key")
        if bucket not in self._buckets:
            allowed = ", ".join(sorted(self._buckets)) or "none"
            raise PhotoRefused(
                f"{source!r} lies in a bucket that is not allowed (allowed: {allowed}); "
                "add it to PORTRAITS_PHOTO_BUCKETS"
            )
        if self._base is None and _is_of_store(bucket, key, self._settings):
            raise PhotoRefused(f"{source!r} lies in the store itself, which holds what others own too; send it instead")
        try:
            with self._server.errors(bucket, key):
                body = self._server.client.get_object(Bucket=bucket, Key=key)["Body"]
                data = bytearray()
                # Stop at the limit whatever length the server has promised.
                while len(data) <= limit and (part := body.read(_READ_CHUNK)):
                    data += part
                body.close()
        except StorageError as error:
            if error.retryable:
                raise
            noun = "no such object" if isinstance(error, ObjectMissing) else "cannot be read"
            raise PhotoRefused(f"{source!r}: {noun} ({error})") from error
        if len(data) > limit:
            raise PhotoRefused(f"{source!r} has more than {limit} bytes, the most that is allowed; make it smaller")
        return bytes(data)


def allowed_buckets(settings: Settings) -> frozenset[str]:
    """The buckets photos may come from: PORTRAITS_PHOTO_BUCKETS, or else the bucket of the store itself."""
    named = named_buckets(settings)
    if named or not settings.storage_url.startswith("s3://"):
        return named
    return frozenset({split_s3_url(settings.storage_url)[0]})


def named_buckets(settings: Settings) -> frozenset[str]:
    """The buckets that PORTRAITS_PHOTO_BUCKETS names."""
    return frozenset(name.strip() for name in settings.photo_buckets.split(",") if name.strip())


def _is_of_store(bucket: str, key: str, settings: Settings) -> bool:
    """Whether an object is, or would be, one of the store's own."""
    if not settings.storage_url.startswith("s3://"):
        return False
    own, prefix = split_s3_url(settings.storage_url)
    return bucket == own and (not prefix or key == prefix or key.startswith(f"{prefix}/"))


def _open(data: bytes, settings: Settings) -> Image.Image:
    """Read the header only, and refuse what must not be decoded."""
    limit = settings.max_photo_pixels
    if len(data) > settings.max_photo_bytes:
        raise PhotoRefused(f"the photo has {len(data)} bytes, at most {settings.max_photo_bytes} are allowed")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except BOMBS as error:
        raise PhotoRefused(f"too many pixels ({error}); at most {limit} are allowed, make it smaller") from error
    except DECODER_ERRORS as error:
        raise PhotoRefused(f"wanted a JPEG, PNG or WebP photo, found {_kind(data)}; convert it") from error
    width, height = image.size
    if width * height > limit:
        raise PhotoRefused(
            f"the photo has {width} x {height} = {width * height} pixels, at most {limit} are allowed; make it smaller"
        )
    if frames > 1:
        raise PhotoRefused(f"the file is an animation of {frames} pictures; save one of them as a photo")
    # Behind FF in a JPEG's data there is always 00, so these bytes are scans. Thousands of them cost minutes to decode.
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise PhotoRefused(f"the JPEG has more than {_MAX_JPEG_SCANS} scans; save it again")
    return image


def _kind(data: bytes) -> str:
    """What the bytes are, as far as a person needs to know it."""
    heads = {
        b"GIF8": "a GIF",
        b"%PDF": "a PDF",
        b"BM": "a BMP",
        b"II*\0": "a TIFF",
        b"MM\0*": "a TIFF",
        b"<svg": "an SVG",
    }
    if not data:
        return "an empty file"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "a HEIC photo"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "an AVIF photo"
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or data[8:12] == b"WEBP":
        return "a damaged one"
    return next((name for head, name in heads.items() if data.startswith(head)), "other content")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or where EXIF cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits of grey; converting them directly would clip all above 255 to white.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        above = image.convert("RGBA")
        white = Image.new("RGBA", above.size, "white")
        return Image.alpha_composite(white, above).convert("RGB")
    return image.convert("RGB")
