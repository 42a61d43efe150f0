"""Writing a whole set: samples in, shards and their description out."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from hyperlora.dataset.info import FILE, DatasetInfo, ShardInfo, write_info
from hyperlora.dataset.picture import decode_picture
from hyperlora.dataset.shard import ShardFile
from hyperlora.errors import DatasetConflict, InvalidRequest

SHARD_SIZE = 1000
JPEG_QUALITY = 95
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}


class ShardWriter:
    """Samples become shards of a folder; `close` writes `dataset.json`, without which the set is not there.

    As a context it closes itself, and after an error it leaves the folder without a description.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        image_size: int,
        face_encoder: str | None = None,
        clip_vision: str | None = None,
        clip_vision_fingerprint: str | None = None,
        vae: str | None = None,
        shard_size: int = SHARD_SIZE,
        made: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a set.

        Parameters
        ----------
        folder
            Made if missing; must not hold a set or shards already.
        image_size
            Pixels of a side; every picture is a square of it.
        face_encoder, clip_vision, clip_vision_fingerprint, vae
            What made embeddings, tokens and latents, see `DatasetInfo`.
        shard_size
            Most samples in a shard.
        made
            How the set was made, in words and numbers.

        Raises
        ------
        DatasetConflict
            The folder holds a set or shards.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / FILE).exists() or any(self.folder.glob("*.tar")):
            raise DatasetConflict(f"{self.folder} holds a data set already; choose an empty folder or remove it")
        self._size, self._shard_size = image_size, shard_size
        self._names = {
            "face_encoder": face_encoder,
            "clip_vision": clip_vision,
            "clip_vision_fingerprint": clip_vision_fingerprint,
            "vae": vae,
        }
        self._made = dict(made or {})
        self._shards: list[ShardInfo] = []
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._open: ShardFile | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._open is not None:
            self._open.discard()

    def add(
        self,
        image: bytes | Image.Image,
        caption: str,
        face: Mapping[str, Any] | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Append a sample.

        Parameters
        ----------
        image
            A JPEG, PNG or WebP file as it is, or a picture, which is stored as JPEG.
        caption, face
            Its text; the content of its `face.json`, see `face_record`.
        tensors
            `clip_tokens` (T, C), `base_tokens` (T, C), `face_embeddings` (E,), `latents` (c, h, w): all or some, but
            the same for every sample.

        Raises
        ------
        InvalidRequest
            A picture of another size than the set's, or tensors unlike those before.
        BadPhoto
            Bytes that cannot be decoded.
        """
        data, ending, size = _encoded(image)
        if size != (self._size, self._size):
            raise InvalidRequest(f"the set's pictures are {self._size} pixels square, found {size[0]} x {size[1]}")
        tensors = tensors or {}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if self._shapes is not None and shapes != self._shapes:
            raise InvalidRequest(f"the samples before have tensors of shapes {self._shapes}, this one has {shapes}")
        if self._open is None:
            self._open = ShardFile(self.folder, f"{len(self._shards):05d}")
        self._open.add(data, ending, caption, face or {}, tensors)
        self._shapes = shapes
        if self._open.count == self._shard_size:
            self._finish()

    def close(self) -> DatasetInfo:
        """Finish the last shard and write the description."""
        if self._open is not None:
            self._finish()
        info = described(self._shards, self._shapes or {}, image_size=self._size, made=self._made, **self._names)
        write_info(self.folder, info)
        return info

    def _finish(self) -> None:
        assert self._open is not None
        self._shards.append(self._open.finish())
        self._open = None


def described(shards: list[ShardInfo], shapes: Mapping[str, tuple[int, ...]], **more: Any) -> DatasetInfo:
    """The description of shards whose samples have tensors of these shapes."""
    width = shapes.get("face_embeddings")
    return DatasetInfo(
        count=sum(shard.count for shard in shards),
        shards=tuple(shards),
        face_width=width[0] if width else None,
        clip_tokens=shapes.get("clip_tokens"),
        latents=shapes.get("latents"),
        **more,
    )


def jpeg_bytes(image: Image.Image, quality: int = JPEG_QUALITY) -> bytes:
    """An RGB picture as a JPEG without thinned-out colours."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _encoded(image: bytes | Image.Image) -> tuple[bytes, str, tuple[int, int]]:
    """Bytes, ending and size of a picture."""
    if isinstance(image, Image.Image):
        return jpeg_bytes(image), "jpg", image.size
    opened = decode_picture(image)
    return image, _ENDINGS[str(opened.format)], opened.size
