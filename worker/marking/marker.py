"""What the worker makes files with: watermark, then encode with IPTC's word, then sign, which is the last step.

A marker that cannot sign says so by `fault`, and the worker claims nothing while it stands: no picture is shipped
unmarked, and no unit is used up. Files are read anew at each `check`, so whoever mends them need not restart anything.
Where marking is not required, pictures are then shipped unsigned and say so themselves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PIL.Image import Image
from PIL.Image import new as new_image

from jobs.digital_source import ASSEMBLED, DRAWN, DigitalSource, png_of
from jobs.settings import Settings
from worker.errors import MarkingBroken
from worker.picture_file import Format, encode

if TYPE_CHECKING:
    from worker.marking.signer import Signer

log = logging.getLogger(__name__)
TRIES = 3
FIRST_WAIT_SECONDS = 0.5


class Marker:
    """Makes marked files; safe to use from several threads."""

    def __init__(self, settings: Settings, *, version: str, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when marking broke, or works again."""
        self._settings, self._version, self._on_change = settings, version, on_change
        self._lock, self._pause = threading.Lock(), threading.Event()
        self._signer: Signer | None = None
        self._fault: MarkingBroken | None = None
        self._is_told = False

    @property
    def fault(self) -> MarkingBroken | None:
        """Why nothing can be signed; None while it can, or as long as nobody has tried."""
        return self._fault

    @property
    def holds_back(self) -> bool:
        """Whether nothing may be drawn until the marking is mended."""
        return self._fault is not None and self._settings.marking_required

    def check(self) -> None:
        """Read certificate and key anew, and prove them on a small picture.

        Raises: MarkingBroken where marking is required.
        """
        try:
            self._prepare()
        except MarkingBroken as error:
            self._broke(error)
            if self._settings.marking_required:
                raise
        else:
            self._works()

    def encode(
        self,
        image: Image,
        record: Mapping[str, Any],
        *,
        format: Format = "png",
        quality: int | None = None,
        source: DigitalSource = DRAWN,
    ) -> tuple[bytes, str]:
        """The picture as a marked file, and its media type; see `worker.picture_file.encode` for the rest.

        Raises: PictureTooLarge; MarkingBroken where marking is required and cannot be done.
        """
        told, tells_making = dict(record), self._settings.embed_record == "all"
        if self._settings.watermark == "on":
            image, told["watermark"] = self._with_watermark(image)
        data, media_type = encode(image, told, format=format, quality=quality, source=source, tells_making=tells_making)
        signed = self.sign(data, media_type, source=source, model=record.get("model_fingerprint"))
        if signed is not None:
            return signed, media_type
        told["unsigned"] = MarkingBroken.code
        return encode(image, told, format=format, quality=quality, source=source, tells_making=tells_making)

    def page(self, page: Image) -> bytes:
        """A page of pictures that were drawn, such as a strip, as a marked PNG. Raises MarkingBroken as `encode`."""
        data = png_of(page, ASSEMBLED)
        return self.sign(data, "image/png", source=ASSEMBLED) or data

    def _prepare(self) -> None:
        if self._settings.watermark == "on":
            from worker.marking import watermark

            watermark.load()
        if self._settings.sign == "off":
            return
        self._signer = self._new_signer()
        _prove(self._signer)

    def _new_signer(self) -> Signer:
        from worker.marking.credentials import SELF_MADE, load_credentials
        from worker.marking.signer import Signer

        credentials = load_credentials(self._settings)
        if credentials.is_self_made and not self._is_told:
            self._is_told = True
            log.warning("pictures are signed with a %s; set PORTRAITS_SIGN_CERTIFICATE for one of yours", SELF_MADE)
        return Signer(credentials, version=self._version, timestamp_url=self._settings.sign_timestamp_url)

    def sign(
        self, data: bytes, media_type: str, *, source: DigitalSource = DRAWN, model: str | None = None
    ) -> bytes | None:
        """An encoded file signed, or as it is where that is switched off; None where it cannot be done and need not be.

        Raises: MarkingBroken where marking is required and cannot be done.
        """
        if self._settings.sign == "off":
            return data
        try:
            return self._signed(data, media_type, source, model)
        except MarkingBroken as error:
            if self._signs_others():
                log.error("a picture could not be signed, though others can: %s", error)
            else:
                self._broke(error)
            if self._settings.marking_required:
                raise
            return None

    def _signs_others(self) -> bool:
        """Whether a fault was that of one picture: then its unit has an end, and the worker goes on with others.

        Not where a time stamp authority is asked, which may be away for one picture and back for the next.
        """
        if self._fault is not None or self._settings.sign_timestamp_url:
            return False
        try:
            _prove(self._ready_signer())
        except MarkingBroken:
            return False
        return True

    def _signed(self, data: bytes, media_type: str, source: DigitalSource, model: str | None) -> bytes:
        """Signed; where a time stamp authority is asked, which may be away for a moment, tried a few times."""
        signer = self._ready_signer()
        tries = TRIES if self._settings.sign_timestamp_url else 1
        for attempt in range(tries):
            try:
                return signer.sign(data, media_type, source=source, model=model)
            except MarkingBroken as error:
                if attempt == tries - 1:
                    raise
                log.warning("signing a picture again after: %s", error)
                self._pause.wait(FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _ready_signer(self) -> Signer:
        with self._lock:
            if self._signer is None:
                self._signer = self._new_signer()
            return self._signer

    def _with_watermark(self, image: Image) -> tuple[Image, str]:
        """The picture with a watermark, and what its record says of it; one that cannot carry it stays as it is."""
        from worker.marking import watermark

        if not watermark.is_large_enough(image):
            return image, "none: the picture is too small"
        marked = watermark.embed(image)
        if watermark.is_marked(marked):
            return marked, "AI-made"
        return image, "none: the picture is too plain"

    def _broke(self, error: MarkingBroken) -> None:
        was, self._fault = self._fault, error
        if was is None:
            follows = "no unit is taken" if self._settings.marking_required else "pictures are shipped unsigned"
            log.error("pictures cannot be marked, %s until it is mended: %s", follows, error)
            self._on_change()

    def _works(self) -> None:
        was, self._fault = self._fault, None
        if was is not None:
            log.warning("pictures can be marked again")
            self._on_change()


def _prove(signer: Signer) -> None:
    """Sign a small picture. Raises MarkingBroken."""
    data, media_type = encode(new_image("RGB", (8, 8)), {}, tells_making=False)
    signer.sign(data, media_type, source=DRAWN)
