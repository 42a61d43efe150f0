"""The pictures that a render is given: start pictures, masks, poses. Fetched, decoded, fitted to the render's size."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from PIL import Image, ImageChops, ImageOps

from jobs.errors import ObjectMissing
from jobs.options import Picture
from jobs.photos import decode_photo, load_photo
from jobs.settings import Settings
from jobs.storage import Storage

KEPT = 32


class GivenPictures:
    """Reads given pictures from storage, and keeps the last few as they were fitted."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage, self._settings = storage, settings
        self._kept: OrderedDict[tuple[str, str, int, int], Image.Image] = OrderedDict()

    def read(self, picture: Picture, *, tenant: str) -> bytes:
        """The stored bytes. Raises ObjectMissing when they are gone, another tenant's, or not those that were given."""
        if not picture.key.startswith(f"{tenant}/"):
            raise ObjectMissing("the given picture is not this tenant's; enqueue the job again")
        data = self._storage.get(picture.key)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise ObjectMissing(f"the picture {picture.key} is not the one that was given; enqueue the job again")
        return data

    def image(self, picture: Picture, width: int, height: int, *, tenant: str) -> Image.Image:
        """The picture in RGB, filling width x height: cut at the longer side, centred."""
        return self._fitted(picture, "RGB", width, height, tenant)

    def mask(self, picture: Picture, width: int, height: int, *, tenant: str) -> Image.Image:
        """The same in grey: white is meant, black is not."""
        return self._fitted(picture, "L", width, height, tenant)

    def _fitted(self, picture: Picture, mode: str, width: int, height: int, tenant: str) -> Image.Image:
        place = (f"{tenant} {picture.key}", mode, width, height)
        if place not in self._kept:
            data = self.read(picture, tenant=tenant)
            decoded = _mask(data, self._settings) if mode == "L" else load_photo(data, self._settings)
            self._kept[place] = ImageOps.fit(decoded, (width, height), Image.Resampling.LANCZOS)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]


def _mask(data: bytes, settings: Settings) -> Image.Image:
    """A mask in grey; what is transparent means nothing, so it is black."""
    image = ImageOps.exif_transpose(decode_photo(data, settings)).convert("RGBA")
    return ImageChops.multiply(image.convert("L"), image.getchannel("A"))
