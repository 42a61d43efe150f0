"""Writing one shard: a webdataset tar, and beside it a safetensors file whose row k belongs to sample k.

Rows of tensors are written through as they come, so a shard of any size takes no memory. Equal samples give equal
bytes. Both files appear under their names only when they are whole.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from hyperlora.dataset.archive import PICTURE_ENDINGS, tar_entries
from hyperlora.dataset.info import ShardInfo
from hyperlora.dataset.records import person_number
from hyperlora.errors import InvalidRequest
from hyperlora.hub import file_sha256
from hyperlora.tensorfile import tensor_bytes

TENSOR_NAMES = ("clip_tokens", "base_tokens", "face_embeddings", "latents")
"""The tensors a sample may have; half precision except the embeddings."""

DTYPES = {name: torch.float32 if name == "face_embeddings" else torch.float16 for name in TENSOR_NAMES}
_DTYPE_WORDS = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
_COPY_BYTES = 1 << 20


class ShardFile:
    """One shard while it is written. `finish` gives it its name, `discard` leaves nothing behind."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.count = name, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._folder = folder
        self._tar_part = folder / f".{name}.tar.part"
        self._tar = tarfile.open(self._tar_part, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by finish
        self._rows: dict[str, BinaryIO] = {}
        self._persons: list[int] = []

    def add(
        self,
        picture: bytes,
        ending: str,
        caption: str,
        face: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        """Append a sample; every sample of a shard has the same tensors of the same shapes.

        Raises `InvalidRequest` for an unknown ending, and for tensors that do not fit those before.
        """
        if ending not in PICTURE_ENDINGS:
            raise InvalidRequest(f"a picture is stored as one of {', '.join(PICTURE_ENDINGS)}, found {ending!r}")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._check(shapes)
        person = person_number(face.get("person"))
        key = f"{self.name}{self.count:06d}"
        self._put(f"{key}.{ending}", picture)
        self._put(f"{key}.txt", caption.encode())
        self._put(f"{key}.face.json", json.dumps(face, ensure_ascii=False, allow_nan=False).encode())
        for name, tensor in tensors.items():
            self._row_file(name).write(tensor_bytes(tensor.to(DTYPES[name])))
        self.shapes = shapes
        self._persons.append(-1 if person is None else person)
        self.count += 1

    def finish(self) -> ShardInfo:
        """Close both files and give them their names; the tar comes last."""
        self._tar.close()
        entries = tar_entries(self._tar_part)
        spans_N32 = [
            [[span.offset, span.size] for span in (entry.picture, entry.caption, entry.face) if span is not None]
            for entry in entries
        ]
        index = {
            "members": torch.tensor(spans_N32, dtype=torch.int64).reshape(-1, 3, 2),
            "person": torch.from_numpy(np.array(self._persons, dtype=np.int64)),
        }
        tensors_part = self._write_tensors(index)
        hashes = file_sha256(self._tar_part), file_sha256(tensors_part)
        tensors_part.replace(self._folder / f"{self.name}.safetensors")
        self._tar_part.replace(self._folder / f"{self.name}.tar")
        return ShardInfo(name=self.name, count=self.count, tar_sha256=hashes[0], tensors_sha256=hashes[1])

    def discard(self) -> None:
        """Close and remove what was written."""
        self._tar.close()
        for file in self._rows.values():
            file.close()
        for path in self._folder.glob(f".{self.name}.*.part"):
            path.unlink()

    def _check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        unknown = [name for name in shapes if name not in TENSOR_NAMES]
        if unknown:
            raise InvalidRequest(f"a sample's tensors are {', '.join(TENSOR_NAMES)}; found {', '.join(unknown)}")
        if self.count and shapes != self.shapes:
            raise InvalidRequest(f"the samples before have tensors of shapes {self.shapes}, this one has {shapes}")

    def _put(self, name: str, data: bytes) -> None:
        # Time, owner and mode stay at their defaults, so that equal content gives equal bytes.
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def _row_file(self, name: str) -> BinaryIO:
        if name not in self._rows:
            self._rows[name] = (self._folder / f".{self.name}.{name}.part").open("w+b")
        return self._rows[name]

    def _write_tensors(self, index: Mapping[str, torch.Tensor]) -> Path:
        """A safetensors file of the rows and the index: header first, then the widest numbers."""
        parts: dict[str, tuple[torch.dtype, tuple[int, ...], BinaryIO]] = {
            name: (tensor.dtype, tuple(tensor.shape), io.BytesIO(tensor_bytes(tensor)))
            for name, tensor in index.items()
        }
        for name, file in self._rows.items():
            parts[name] = (DTYPES[name], (self.count, *self.shapes[name]), file)
        order = sorted(parts, key=lambda name: (-parts[name][0].itemsize, name))
        header: dict[str, Any] = {}
        offset = 0
        for name in order:
            dtype, shape, file = parts[name]
            size = file.seek(0, os.SEEK_END)
            header[name] = {"dtype": _DTYPE_WORDS[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        head = json.dumps(header, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        whole = self._folder / f".{self.name}.safetensors.part"
        with whole.open("wb") as out:
            out.write(len(head).to_bytes(8, "little") + head)
            for name in order:
                file = parts[name][2]
                file.seek(0)
                shutil.copyfileobj(file, out, _COPY_BYTES)
                file.close()
            out.flush()
            os.fsync(out.fileno())
        for name in self._rows:
            (self._folder / f".{self.name}.{name}.part").unlink()
        return whole
