"""A set of portraits to train on, read in any order.

Shapes: B pictures of a batch, N of the set, S pixels of a side, T and C tokens and width of CLIP's vision tower, E
numbers of a face embedding; latents (c, h, w) of one picture.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hyperlora.dataset.archive import tar_entries
from hyperlora.dataset.folder import folder_entries
from hyperlora.dataset.info import FILE, DatasetInfo, read_info
from hyperlora.dataset.picture import decode_picture
from hyperlora.dataset.records import face_of
from hyperlora.dataset.shards import Rows, ShardRows
from hyperlora.errors import BadPhoto, DatasetDamaged, DatasetMissing, InvalidRequest
from hyperlora.faces.photo import upright_rgb
from hyperlora.faces.types import Face

Indices = Sequence[int] | npt.NDArray[np.integer] | torch.Tensor
CONDITIONS = ("clip_tokens", "face_embeddings")


@dataclass(frozen=True, eq=False)
class PortraitBatch:
    """B samples. What the set does not store is None; tensors have the types they are stored in.

    Parameters
    ----------
    captions
        B sentences.
    pixels_B3HW
        float32 from -1 to 1.
    latents_BCHW
        The autoencoder's, scaled: half precision.
    clip_tokens_BTC, base_tokens_BTC
        Of the masked face, and of the surroundings with the face blurred away: half precision.
    face_embeddings_BE
        float32, rows of unit length.
    """

    captions: list[str]
    pixels_B3HW: torch.Tensor | None
    latents_BCHW: torch.Tensor | None
    clip_tokens_BTC: torch.Tensor | None
    base_tokens_BTC: torch.Tensor | None
    face_embeddings_BE: torch.Tensor | None


@runtime_checkable
class Portraits(Protocol):
    """What training needs of a set; `PortraitDataset` and `LivePortraits` have it."""

    @property
    def info(self) -> DatasetInfo:
        """What the set holds."""
        ...

    @property
    def persons(self) -> npt.NDArray[np.int64] | None:
        """(N,) a stable number for each person; negative and unlike all others where somebody is not known."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Indices, *, references: Indices | None = None, pixels: bool = False) -> PortraitBatch:
        """The samples of these numbers."""
        ...


class PortraitDataset:
    """Random access to a prepared set, to plain webdataset shards, or to a plain folder of pictures.

    Only what is asked for is read; a batch may be read from several threads at once.
    """

    def __init__(self, folder: Path, info: DatasetInfo, parts: Sequence[Rows], *, in_memory: bool = False) -> None:
        """Use `open`."""
        self.folder, self.info = folder, info
        self._parts = list(parts)
        # The number of the first sample of each part.
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self._memory: dict[str, torch.Tensor] = {}
        self._captions: list[str] | None = None
        if in_memory:
            self._load()

    @classmethod
    def open(cls, folder: str | Path, *, in_memory: bool = False) -> PortraitDataset:
        """Open a folder.

        Parameters
        ----------
        folder
            With `dataset.json`: a prepared set. Else with `*.tar`: webdataset shards as they are. Else: pictures, in
            folders of any depth, with `.txt` captions and `.face.json` beside them.
        in_memory
            Read all tensors and captions now; pictures stay on the disk.

        Raises
        ------
        DatasetMissing
            No such folder, or no picture in it.
        DatasetDamaged
            The description, a shard or a text cannot be read.
        """
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise DatasetMissing(f"a folder with pictures or shards was wanted, {place} is none")
        parts: list[Rows]
        if (place / FILE).is_file():
            info = read_info(place)
            parts = [ShardRows(place, shard, info) for shard in info.shards]
        else:
            shards = sorted(place.glob("*.tar"))
            parts = [Rows(tar_entries(shard)) for shard in shards] if shards else [Rows(folder_entries(place))]
            info = DatasetInfo(count=sum(len(part) for part in parts))
        if info.count == 0:
            raise DatasetMissing(f"{place} holds no picture (JPEG, PNG, WebP, or tar shards with such)")
        return cls(place, info, parts, in_memory=in_memory)

    def __len__(self) -> int:
        return self.info.count

    @cached_property
    def persons(self) -> npt.NDArray[np.int64] | None:
        """(N,) a number for each person, the same in every set; None where nobody is known.

        A sample whose person is not known has a negative number that no other has, so it is never taken for another
        picture of anybody.
        """
        numbers = np.concatenate([part.persons() for part in self._parts])
        unknown = numbers < 0
        if unknown.all():
            return None
        return np.where(unknown, -1 - np.arange(len(numbers)), numbers)

    def batch(self, indices: Indices, *, references: Indices | None = None, pixels: bool = False) -> PortraitBatch:
        """The samples of these numbers, in this order.

        Parameters
        ----------
        indices
            B numbers below `len`; a number may stand several times.
        references
            B numbers of samples whose CLIP tokens and face embedding are given instead of the picture's own: other
            photos of the same people. The Base tokens stay the picture's own.
        pixels
            Decode pictures even where the set holds latents; without latents they are always decoded.

        Raises
        ------
        InvalidRequest
            Numbers beyond the set, or another count of references.
        DatasetDamaged, DatasetMissing, BadPhoto
            Something cannot be read.
        """
        rows_B = checked_indices(indices, len(self), "indices")
        faces_B = rows_B if references is None else checked_indices(references, len(self), "references")
        if len(faces_B) != len(rows_B):
            raise InvalidRequest(f"one reference for each sample: found {len(faces_B)} for {len(rows_B)}")
        latents = self._gather("latents", rows_B)
        return PortraitBatch(
            captions=[self.caption(row) for row in rows_B.tolist()],
            pixels_B3HW=self._pixels(rows_B) if pixels or latents is None else None,
            latents_BCHW=latents,
            clip_tokens_BTC=self._gather("clip_tokens", faces_B),
            base_tokens_BTC=self._gather("base_tokens", rows_B),
            face_embeddings_BE=self._gather("face_embeddings", faces_B),
        )

    def caption(self, index: int) -> str:
        """One sample's caption."""
        part, row = self._place(index)
        return part.caption(row) if self._captions is None else self._captions[index]

    def face(self, index: int) -> dict[str, Any]:
        """One sample's `face.json`; empty where there is none."""
        part, row = self._place(index)
        return part.face(row)

    def found_face(self, index: int) -> Face | None:
        """The face that the sample's `face.json` holds, in pixels of `image(index)`."""
        return face_of(self.face(index), f"face.json {index}")

    def image(self, index: int) -> Image.Image:
        """One sample's picture: upright, opaque, RGB. Raises `BadPhoto` naming the sample."""
        part, row = self._place(index)
        try:
            return upright_rgb(decode_picture(part.picture(row))).image
        except BadPhoto as fault:
            raise BadPhoto(f"sample {index} of {self.folder}: {fault}") from fault

    def _load(self) -> None:
        # Captions first: they are read from the tars, in which a damaged set shows.
        self._captions = [part.caption(row) for part in self._parts for row in range(len(part))]
        for name in ("clip_tokens", "base_tokens", "face_embeddings", "latents"):
            tensors = [tensor for part in self._parts if (tensor := part.tensor(name)) is not None]
            if tensors:
                self._memory[name] = torch.cat(tensors)

    def _place(self, index: int) -> tuple[Rows, int]:
        if not 0 <= index < len(self):
            raise InvalidRequest(f"the set has the samples 0 to {len(self) - 1}, asked was {index}")
        part = bisect_right(self._starts, index) - 1
        return self._parts[part], index - int(self._starts[part])

    def _gather(self, name: str, rows_B: npt.NDArray[np.int64]) -> torch.Tensor | None:
        """Rows of a tensor, from memory or from the shards that hold them."""
        if name in self._memory:
            return self._memory[name][torch.from_numpy(rows_B)]
        parts_B = np.searchsorted(self._starts, rows_B, side="right") - 1
        out: torch.Tensor | None = None
        for part in np.unique(parts_B).tolist():
            stored = self._parts[part].tensor(name)
            if stored is None:
                return None
            places = torch.from_numpy(np.flatnonzero(parts_B == part))
            if out is None:
                out = torch.empty((len(rows_B), *stored.shape[1:]), dtype=stored.dtype)
            out[places] = stored[torch.from_numpy(rows_B)[places] - int(self._starts[part])]
        return out

    def _pixels(self, rows_B: npt.NDArray[np.int64]) -> torch.Tensor:
        """(B, 3, S, S) from -1 to 1."""
        size = self.info.image_size
        if size is None:
            raise InvalidRequest(
                f"{self.folder} was not prepared: its pictures have no common size and no conditions; "
                "use LivePortraits, or `portraits dataset prepare`"
            )
        pictures = [self.image(row) for row in rows_B.tolist()]
        for row, picture in zip(rows_B.tolist(), pictures, strict=True):
            if picture.size != (size, size):
                raise DatasetDamaged(
                    f"sample {row} of {self.folder}: wanted {size} pixels square, found {picture.size}"
                )
        return pixels_of(pictures)


def checked_indices(indices: Indices, count: int, what: str) -> npt.NDArray[np.int64]:
    """(B,) numbers of samples. Raises `InvalidRequest` for none, and for one that is not below `count`."""
    numbers = indices.cpu().numpy() if isinstance(indices, torch.Tensor) else indices
    rows_B = np.asarray(numbers, dtype=np.int64).reshape(-1)
    if not len(rows_B) or int(rows_B.min()) < 0 or int(rows_B.max()) >= count:
        raise InvalidRequest(f"{what} are numbers from 0 to {count - 1}, at least one; found {rows_B.tolist()}")
    return rows_B


def pixels_of(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size as (B, 3, H, W) float32 from -1 to 1."""
    bytes_BHW3 = torch.from_numpy(np.stack([np.asarray(picture, dtype=np.uint8) for picture in pictures]))
    return bytes_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1
