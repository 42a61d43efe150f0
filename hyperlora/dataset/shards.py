"""Reading one shard: pictures and texts by their offsets in the tar, tensors from a mapped safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from hyperlora.dataset.archive import Entry, Span, tar_entries
from hyperlora.dataset.info import DatasetInfo, ShardInfo
from hyperlora.dataset.picture import MOST_PICTURE_BYTES
from hyperlora.dataset.records import MOST_JSON_BYTES, person_number, read_json
from hyperlora.errors import DatasetDamaged

MOST_CAPTION_BYTES = 16 * 1024
_INDEX = ("members", "person")


class Rows:
    """The samples of one shard, or of a folder, by their number; nothing is read before it is asked for."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, row: int) -> bytes:
        """The picture's file. Raises `DatasetDamaged`, `DatasetMissing`, as all readers here."""
        return self._entries[row].picture.read(MOST_PICTURE_BYTES, f"picture {row}")

    def caption(self, row: int) -> str:
        """The caption; empty where there is none."""
        return read_caption(self._entries[row].caption, f"caption {row}")

    def face(self, row: int) -> dict[str, Any]:
        """The content of `face.json`; empty where there is none."""
        return read_record(self._entries[row].face, f"face.json {row}")

    def persons(self) -> npt.NDArray[np.int64]:
        """A number for each row's person, -1 where it is not known."""
        found = [person_number(self.face(row).get("person")) for row in range(len(self))]
        return np.array([-1 if person is None else person for person in found], dtype=np.int64)

    def tensor(self, name: str) -> torch.Tensor | None:
        """All rows of a tensor, None where it is not stored."""
        del name
        return None


class ShardRows(Rows):
    """A shard of a prepared set. The index in its tensor file saves reading the tar's headers."""

    def __init__(self, folder: Path, shard: ShardInfo, info: DatasetInfo) -> None:
        super().__init__(())
        self._shard, self._info = shard, info
        self._tar, self._tensors = folder / f"{shard.name}.tar", folder / f"{shard.name}.safetensors"

    def __len__(self) -> int:
        return self._shard.count

    def picture(self, row: int) -> bytes:
        """The picture's file."""
        return self._span(row, 0).read(MOST_PICTURE_BYTES, f"picture {row}")

    def caption(self, row: int) -> str:
        """The caption."""
        return read_caption(self._span(row, 1), f"caption {row}")

    def face(self, row: int) -> dict[str, Any]:
        """The content of `face.json`."""
        return read_record(self._span(row, 2), f"face.json {row}")

    def persons(self) -> npt.NDArray[np.int64]:
        """A number for each row's person, -1 where it is not known."""
        stored = self._stored.get("person")
        return super().persons() if stored is None else stored.numpy().copy()

    def tensor(self, name: str) -> torch.Tensor | None:
        """All rows of a tensor, mapped from the file: only rows that are indexed are read from the disk."""
        return self._stored.get(name)

    def _span(self, row: int, part: int) -> Span:
        offset, size = (int(value) for value in self._spans_N32[row, part])
        return Span(str(self._tar), offset, size)

    @cached_property
    def _spans_N32(self) -> npt.NDArray[np.int64]:
        """(N, 3, 2) offset and size of picture, caption and face of every sample."""
        stored = self._stored.get("members")
        if stored is not None:
            spans = stored.numpy()
            if int(spans.min(initial=0)) < 0:
                raise DatasetDamaged(f"{self._tensors}: the index holds negative places; prepare the set again")
            return spans.copy()
        found = []
        for entry in tar_entries(self._tar):
            parts = (entry.picture, entry.caption, entry.face)
            found.append([(span.offset, span.size) for span in parts if span is not None])
        if len(found) != len(self) or any(len(parts) != 3 for parts in found):
            raise DatasetDamaged(
                f"{self._tar}: wanted {len(self)} samples of picture, caption and face.json, found {len(found)}"
            )
        return np.array(found, dtype=np.int64).reshape(-1, 3, 2)

    @cached_property
    def _stored(self) -> dict[str, torch.Tensor]:
        """Every tensor of the shard, mapped; empty where a shard comes without a tensor file and needs none."""
        wanted = _wanted(self._info, len(self))
        if not self._tensors.is_file():
            if wanted:
                raise DatasetDamaged(
                    f"{self._tensors} is missing; the set's description says it holds {sorted(wanted)}"
                )
            return {}
        try:
            with safe_open(self._tensors, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as fault:
            raise DatasetDamaged(f"{self._tensors} is no safetensors file: {fault}; prepare the set again") from fault
        wanted |= {"members": (len(self), 3, 2)} if "members" in stored else {}
        wanted |= {"person": (len(self),)} if "person" in stored else {}
        for name, shape in wanted.items():
            if name not in stored or tuple(stored[name].shape) != shape:
                found = tuple(stored[name].shape) if name in stored else "none"
                raise DatasetDamaged(f"{self._tensors}: wanted {name} of shape {shape}, found {found}")
            if stored[name].is_floating_point() == (name in _INDEX):
                raise DatasetDamaged(f"{self._tensors}: {name} holds {stored[name].dtype}")
        return {name: stored[name] for name in wanted}


def _wanted(info: DatasetInfo, count: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a shard of so many samples must have."""
    wanted: dict[str, tuple[int, ...]] = {}
    if info.clip_tokens is not None:
        wanted |= dict.fromkeys(("clip_tokens", "base_tokens"), (count, *info.clip_tokens))
    if info.face_width is not None:
        wanted["face_embeddings"] = (count, info.face_width)
    if info.latents is not None:
        wanted["latents"] = (count, *info.latents)
    return wanted


def read_caption(span: Span | None, what: str) -> str:
    """A caption's text on one line, empty where there is none. Raises `DatasetDamaged` where it is no UTF-8."""
    if span is None:
        return ""
    try:
        return " ".join(span.read(MOST_CAPTION_BYTES, what).decode("utf-8-sig").split())
    except UnicodeDecodeError as fault:
        raise DatasetDamaged(f"{what} in {span.path} is no UTF-8: {fault.reason} at byte {fault.start}") from fault


def read_record(span: Span | None, what: str) -> dict[str, Any]:
    """A JSON object, empty where there is none. Raises `DatasetDamaged`."""
    return {} if span is None else read_json(span.read(MOST_JSON_BYTES, what), f"{what} in {span.path}")
